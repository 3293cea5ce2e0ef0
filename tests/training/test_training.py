"""Data in a fixed order, training that goes on after a stop, engines of MONAI."""

from __future__ import annotations

import json
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
from mmtk.training.engine import Plan, train
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


class Killed(Exception):
    """The power went out."""


@pytest.mark.parametrize("when", [(1, 1), (2, 3), (3, 4)], ids=["first epoch", "second", "the last step"])
def test_killed_and_resumed_is_the_same_to_the_bit(tmp_path: Path, when: tuple[int, int]) -> None:
    train(network(), PLAN, Squares(), Squares(), tmp_path / "straight")

    def kill(epoch: int, iteration: int, iterations: int, energy: float) -> None:
        if (epoch, iteration) == when:
            raise Killed

    with pytest.raises(Killed):
        train(network(), PLAN, Squares(), Squares(), tmp_path / "killed", progress=kill)
    train(network(), PLAN, Squares(), Squares(), tmp_path / "killed", resume=True)
    one, two = state(tmp_path / "straight"), state(tmp_path / "killed")
    assert one["network"].keys() == two["network"].keys()
    for name, tensor in one["network"].items():
        assert bool((tensor == two["network"][name]).all()), name
    best = [torch.load(tmp_path / run / "model.pt", weights_only=True) for run in ("straight", "killed")]
    assert all(bool((best[0][name] == best[1][name]).all()) for name in best[0])
    energies = [
        [json.loads(line)["energy"] for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("straight", "killed")
    ]
    assert energies[0] == energies[1] and len(energies[0]) == 3


def test_training_lowers_the_energy_and_keeps_the_best(tmp_path: Path) -> None:
    record = train(network(), Plan(epochs=12, batch_size=2, learning_rate=3e-3), Squares(), Squares(), tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["validation"] < 0.7 * lines[0]["validation"]
    assert record["best_validation"] == min(line["validation"] for line in lines)
    assert record["pairs"] == 12 * 8 and record["epochs"] == 12
    assert json.loads((tmp_path / "training.json").read_text()) == record


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
