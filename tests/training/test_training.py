"""Data in a fixed order, training that goes on after a stop, engines of MONAI."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from mmtk.errors import ConfigError
from mmtk.fields import Grid, warp
from mmtk.learned import Model
from mmtk.similarity import SquaredDifference
from mmtk.training.data import EpochSampler, SyntheticPairs, as_batch
from mmtk.training.engine import train
from mmtk.training.plan import Plan, Status
from mmtk_metamorph.networks import MetaMorphR

GRID = Grid((20, 20), (2.0, 2.0))


class Squares(Dataset[Any]):
    """Squares that lie here and there, to be brought to the middle."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        fixed = torch.zeros(1, 20, 20)
        fixed[:, 6:14, 6:14] = 1
        return {"moving": fixed.roll((index % 3 - 1, index % 2), (1, 2)), "fixed": fixed}


def network() -> Model:
    torch.manual_seed(5)
    squares = SquaredDifference(reduction="none")
    return MetaMorphR(GRID, similarity=squares, hidden=4, steps=4, lam=1e-5, mu=0.0)


PLAN = Plan(epochs=3, batch_size=2, learning_rate=3e-3, seed=1)


def state(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = torch.load(folder / "last.pt", weights_only=True)
    return loaded


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


class Killed(Exception):
    """The power went out."""


@pytest.fixture(scope="module", params=["none", "cosine"])
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    """A plan, and the folder of an uninterrupted run of it."""
    plan, out = replace(PLAN, decay=request.param), tmp_path_factory.mktemp("straight")
    train(network(), plan, Squares(), Squares(), out)
    return plan, out


@pytest.mark.parametrize("when", [(1, 1), (2, 3), (3, 4)], ids=["first epoch", "second", "the last step"])
def test_killed_and_resumed_is_the_same_to_the_bit(
    tmp_path: Path, straight: tuple[Plan, Path], when: tuple[int, int]
) -> None:
    plan, unbroken = straight

    def kill(epoch: int, iteration: int, iterations: int, energy: float) -> None:
        if (epoch, iteration) == when:
            raise Killed

    with pytest.raises(Killed):
        train(network(), plan, Squares(), Squares(), tmp_path / "killed", progress=kill)
    train(network(), plan, Squares(), Squares(), tmp_path / "killed", resume=True)
    one, two = state(unbroken), state(tmp_path / "killed")
    assert one["network"].keys() == two["network"].keys()
    for name, tensor in one["network"].items():
        assert bool((tensor == two["network"][name]).all()), name
    best = [torch.load(run / "model.pt", weights_only=True) for run in (unbroken, tmp_path / "killed")]
    assert all(bool((best[0][name] == best[1][name]).all()) for name in best[0])
    logs = [log(run) for run in (unbroken, tmp_path / "killed")]
    assert len(logs[0]) == 3
    for line in (*logs[0], *logs[1]):
        del line["cpu_minutes"]  # the one number that is the clock's
    assert logs[0] == logs[1]


def test_training_lowers_the_energy_and_keeps_the_best(tmp_path: Path) -> None:
    record = train(network(), Plan(epochs=12, batch_size=2, learning_rate=3e-3), Squares(), Squares(), tmp_path)
    lines = log(tmp_path)
    assert lines[-1]["validation"] < 0.7 * lines[0]["validation"]
    assert record["best_validation"] == min(line["validation"] for line in lines)
    assert record["pairs"] == 12 * 8 and record["epochs"] == 12
    assert json.loads((tmp_path / "training.json").read_text()) == record


def test_a_cosine_falls_to_nothing_over_the_epochs(tmp_path: Path) -> None:
    """The rates of all steps, as Adam had them, are half a cosine from 1 to 0 over the steps."""
    rates: list[float] = []
    plan = Plan(epochs=3, batch_size=2, learning_rate=3e-3, decay="cosine")
    step = torch.optim.Adam.step

    def spied(self: torch.optim.Adam, *args: Any, **kwargs: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", spied)
        train(network(), plan, Squares(), None, tmp_path)
    assert len(rates) == 12
    assert rates == pytest.approx([3e-3 * 0.5 * (1 + math.cos(math.pi * k / 12)) for k in range(12)])
    assert [line["rate"] for line in log(tmp_path)] == [rates[3], rates[7], rates[11]]


def test_a_cosine_falls_over_the_processor_s_time_where_that_ends_sooner(tmp_path: Path) -> None:
    plan = Plan(epochs=100_000, batch_size=2, learning_rate=3e-3, decay="cosine", cpu_minutes=1 / 60)
    record = train(network(), plan, Squares(), None, tmp_path)
    rates = [line["rate"] for line in log(tmp_path)]
    assert 1 < record["epochs"] < 100_000 and rates == sorted(rates, reverse=True)
    assert rates[0] > 0.7 * 3e-3 and rates[-1] < 0.3 * 3e-3


def test_a_rate_that_falls_over_the_epochs_needs_as_many_when_it_goes_on(tmp_path: Path) -> None:
    train(network(), replace(PLAN, decay="cosine", epochs=1), Squares(), None, tmp_path)
    with pytest.raises(ConfigError, match="another epochs"):
        train(network(), replace(PLAN, decay="cosine"), Squares(), None, tmp_path, resume=True)
    with pytest.raises(ConfigError, match="decay=linear: must be none, cosine or plateau"):
        train(network(), replace(PLAN, decay="linear"), Squares(), None, tmp_path / "other")


def test_a_run_that_was_begun_before_there_was_a_choice_goes_on_with_its_default(tmp_path: Path) -> None:
    train(network(), replace(PLAN, epochs=1), Squares(), None, tmp_path)
    last = state(tmp_path)
    asked = json.loads(last["asked"])
    del asked["decay"], asked["use_mask"]
    torch.save({**last, "asked": json.dumps(asked)}, tmp_path / "last.pt")
    assert train(network(), PLAN, Squares(), None, tmp_path, resume=True)["epochs"] == 3
    torch.save({**last, "asked": json.dumps(asked)}, tmp_path / "last.pt")
    with pytest.raises(ConfigError, match="another use_mask"):
        train(network(), replace(PLAN, use_mask=False), Squares(), None, tmp_path, resume=True)


def test_a_batch_that_is_larger_than_the_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size=9: there are 8 pairs to train on"):
        train(network(), replace(PLAN, batch_size=9), Squares(), None, tmp_path / "t")
    assert not (tmp_path / "t").exists()


class Lesions(Squares):
    """Squares with a spot that the fixed one lacks."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        item = super().__getitem__(index)
        mask = torch.zeros(1, 20, 20)
        mask[:, 8:11, 8:11] = 1
        return {**item, "moving": item["moving"] * (1 - mask), "mask": mask}


def test_without_masks_the_weights_are_those_of_pairs_that_have_none(tmp_path: Path) -> None:
    class Bare(Lesions):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            return {name: image for name, image in super().__getitem__(index).items() if name != "mask"}

    def painter() -> Model:
        torch.manual_seed(5)
        squares = SquaredDifference(reduction="none")
        return MetaMorphR(GRID, similarity=squares, hidden=4, steps=4, lam=1e-5, mu=0.1)

    for name, pairs, use_mask in (("off", Lesions(), False), ("none", Bare(), True), ("on", Lesions(), True)):
        train(painter(), replace(PLAN, epochs=1, use_mask=use_mask), pairs, pairs, tmp_path / name)
    off, none, on = (state(tmp_path / name)["network"] for name in ("off", "none", "on"))
    assert all(bool((off[name] == none[name]).all()) for name in off)
    assert any(bool((off[name] != on[name]).any()) for name in off)
    # Errors are counted away from the lesion all the same.
    assert log(tmp_path / "off")[0]["outside"] < log(tmp_path / "none")[0]["outside"]


def test_watching_tells_every_step_and_every_epoch(tmp_path: Path) -> None:
    seen: list[Status] = []
    train(network(), PLAN, Squares(), Squares(), tmp_path, watch=seen.append)
    steps, ends = [s for s in seen if s.line is None], [s for s in seen if s.line is not None]
    assert [(s.epoch, s.iteration) for s in steps] == [(e, i) for e in (1, 2, 3) for i in (1, 2, 3, 4)]
    assert [s.pairs for s in steps] == [2 * (k + 1) for k in range(12)]
    assert [s.line for s in ends] == log(tmp_path)
    assert steps[0].best == math.inf
    best = [line["validation"] for line in log(tmp_path)]
    assert [s.best for s in ends] == [min(best[: k + 1]) for k in range(3)]
    assert [s.done for s in seen] == sorted(s.done for s in seen) and ends[-1].done == 1


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed"
    )
    read = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    read.Reload()
    return {tag: [(e.step, e.value) for e in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own imports
def test_tensorboard_has_the_numbers_of_the_log_once_each_after_a_kill(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    plan = replace(PLAN, tensorboard=True)

    def kill(epoch: int, iteration: int, iterations: int, energy: float) -> None:
        if (epoch, iteration) == (2, 1):
            shutil.copy(tmp_path / "last.pt", tmp_path / "first.pt")
        if (epoch, iteration) == (3, 2):
            raise Killed

    with pytest.raises(Killed):
        train(network(), plan, Squares(), Squares(), tmp_path, progress=kill)
    # As if it had been killed between the event of epoch 2 and the file that a resumed run goes on from.
    shutil.copy(tmp_path / "first.pt", tmp_path / "last.pt")
    train(network(), plan, Squares(), Squares(), tmp_path, resume=True)
    found, expected = scalars(tmp_path / "tensorboard"), log(tmp_path)
    assert found.keys() == expected[0].keys() - {"epoch"} >= {"energy", "validation", "rate", "outside", "folds"}
    for tag, values in found.items():
        assert [step for step, _ in values] == [1, 2, 3], tag
        assert [value for _, value in values] == pytest.approx([line[tag] for line in expected], rel=1e-6), tag


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_that_is_asked_for_later_has_the_whole_curve(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    train(network(), replace(PLAN, epochs=2), Squares(), None, tmp_path)
    assert not (tmp_path / "tensorboard").exists()
    train(network(), replace(PLAN, tensorboard=True), Squares(), None, tmp_path, resume=True)
    assert [step for step, _ in scalars(tmp_path / "tensorboard")["energy"]] == [1, 2, 3]


def test_workers_make_the_same_pairs_and_the_same_weights(tmp_path: Path) -> None:
    options = {"size": 48, "sigma": 3.0, "steps": 8, "amplitude": 100.0}
    states = []
    for workers in (0, 2):
        pairs = SyntheticPairs("c_shapes", options, count=6, seed=7, reduce=2)
        squares = SquaredDifference(reduction="none")
        torch.manual_seed(2)
        model = MetaMorphR(pairs.grid(), similarity=squares, hidden=4, steps=4)
        plan = Plan(epochs=2, batch_size=2, seed=3, workers=workers)
        train(model, plan, pairs, pairs, tmp_path / str(workers))
        states.append(state(tmp_path / str(workers))["network"])
    assert all(bool((states[0][name] == states[1][name]).all()) for name in states[0])
    assert log(tmp_path / "0")[1]["validation"] == log(tmp_path / "2")[1]["validation"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("half", [False, True], ids=["float32", "half"])
def test_two_steps_on_a_gpu(tmp_path: Path, half: bool) -> None:
    torch.manual_seed(5)
    squares = SquaredDifference(reduction="none")
    model = MetaMorphR(GRID, similarity=squares, hidden=4, steps=4, lam=1e-5, mu=0.0, half=half)
    plan = Plan(epochs=1, batch_size=4, learning_rate=3e-3, seed=1)
    record = train(model, plan, Squares(), Squares(), tmp_path, device="cuda")
    assert record["device"] == "cuda" and record["pairs"] == 8
    assert all(p.dtype == torch.float32 and p.device.type == "cuda" for p in model.parameters())
    train(network(), plan, Squares(), Squares(), tmp_path / "cpu")
    energies = [log(folder)[0]["energy"] for folder in (tmp_path, tmp_path / "cpu")]
    assert energies[0] == pytest.approx(energies[1], rel=0.05 if half else 1e-3)


def test_half_convolves_in_bfloat16_and_moves_images_in_float32() -> None:
    """On any device: what the convolutions answer is narrow; momenta, maps, energy, parameters and gradients are not."""
    torch.manual_seed(5)
    squares = SquaredDifference(reduction="none")
    model = MetaMorphR(GRID, similarity=squares, hidden=4, steps=4, lam=1e-5, mu=0.1, half=True)
    narrow: list[torch.dtype] = []
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda module, given, answer: narrow.append(answer.dtype))
    items = [Lesions()[i] for i in range(2)]
    batch = as_batch(torch.utils.data.default_collate(items))
    prediction = model(batch)
    assert len(narrow) == 9 and set(narrow) == {torch.bfloat16}
    for tensor in (prediction.warped, prediction.displacement, prediction.energy, prediction.lesion):
        assert tensor is not None and tensor.dtype == torch.float32
    prediction.energy.sum().backward()
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(p.grad.dtype == torch.float32 for p in model.parameters() if p.grad is not None)


def test_it_stops_when_it_gets_no_better(tmp_path: Path) -> None:
    plan = Plan(epochs=50, batch_size=2, learning_rate=0.0, patience=2)
    assert train(network(), plan, Squares(), Squares(), tmp_path)["epochs"] == 3


def test_the_processor_s_time_is_a_budget(tmp_path: Path) -> None:
    plan = Plan(epochs=50, batch_size=2, cpu_minutes=1e-6)
    assert train(network(), plan, Squares(), None, tmp_path)["epochs"] == 1
    assert train(network(), plan, Squares(), None, tmp_path, resume=True)["epochs"] == 1


def test_an_energy_that_is_no_number_ends_the_run_in_a_sentence(tmp_path: Path) -> None:
    broken = network()
    with torch.no_grad():
        next(broken.parameters()).fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        train(broken, PLAN, Squares(), None, tmp_path)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(0, 2**31), st.integers(0, 5))
def test_the_processes_share_an_epoch(count: int, ranks: int, seed: int, epoch: int) -> None:
    if ranks > count:
        return
    parts = []
    for rank in range(ranks):
        sampler = EpochSampler(count, seed, rank, ranks)
        sampler.set_epoch(epoch)
        part = list(sampler)
        assert len(part) == len(sampler) == count // ranks
        assert part == list(sampler), "asked again, it says the same"
        parts += part
    assert len(set(parts)) == len(parts) and set(parts) <= set(range(count))


def test_epochs_have_orders_of_their_own() -> None:
    sampler = EpochSampler(50, 1)
    first = list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler) and sorted(first) == list(range(50))


SHAPES: dict[str, Any] = {"size": 64, "sigma": 3.0, "steps": 12, "amplitude": 150.0}


def test_an_item_depends_on_its_index_alone(tmp_path: Path) -> None:
    made = SyntheticPairs("c_shapes", SHAPES, count=4, seed=3, truth=True)
    kept = SyntheticPairs("c_shapes", SHAPES, count=4, seed=3, truth=True, cache=tmp_path)
    forked = list(DataLoader(kept, batch_size=None, num_workers=2))
    for i in (2, 0):
        one = made[i]
        for other in (forked[i], kept[i]):
            assert one.keys() == other.keys()
            assert all(bool((one[name] == other[name]).all()) for name in one)
    assert bool((made[0]["moving"] != made[1]["moving"]).any())
    assert bool((SyntheticPairs("c_shapes", SHAPES, count=1, seed=4)[0]["moving"] != made[0]["moving"]).any())
    with pytest.raises(IndexError):
        made[4]


def test_the_true_displacement_brings_the_images_together() -> None:
    options = {"size": 100, "sigma": 6.0, "steps": 12, "amplitude": 300.0}
    pairs = SyntheticPairs("c_shapes", options, count=1, reduce=2, truth=True)
    item = {name: value[None] for name, value in pairs[0].items()}
    batch = as_batch(item)
    assert batch.displacement is not None and pairs.grid() == Grid((50, 50), (2.0, 2.0))
    away = item["counterpart"] == 0
    before = (batch.moving - batch.fixed)[away].square().sum()
    after = (warp(batch.moving, batch.displacement) - batch.fixed)[away].square().sum()
    assert float(after) < 0.1 * float(before)
    there_and_back = batch.displacement + warp(item["inverse"], batch.displacement)
    assert float(there_and_back.abs().max()) < 0.05


def test_brains_can_be_drawn_too() -> None:
    pairs = SyntheticPairs("tumor_brain", {"dim": "2", "spacing": "4"}, count=2, seed=1, truth=True)
    first, second = pairs[0], pairs[1]
    assert first["moving"].shape == first["mask"].shape and first["displacement"].shape[0] == 2
    assert bool((first["moving"] != second["moving"]).any()) and float(first["mask"].sum()) > 0
    assert pairs.grid().spacing == (4.0, 4.0)


def test_a_set_that_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="no sample is called 'd_shapes'"):
        SyntheticPairs("d_shapes")
    with pytest.raises(ConfigError, match="sized"):
        SyntheticPairs("c_shapes", {"sized": 64})
    with pytest.raises(ConfigError, match="seed: is the set's own"):
        SyntheticPairs("c_shapes", {"seed": 64})
