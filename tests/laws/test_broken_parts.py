"""A contract is worth what it refuses: for every law, a part that breaks it, and is found out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from pydantic import ConfigDict, Field, field_serializer
from torch import Tensor

from mmtk.config import Capabilities, ComponentConfig
from mmtk.integrators import PLAIN, SemiLagrangian
from mmtk.integrators.base import CarriedState
from mmtk.method import Method, Pair, silent
from mmtk.plugins import installed
from mmtk.regularizers import Deformation, Diffusion, Regularizer, ResidualNorm
from mmtk.result import LevelReport, Outcome, Registration
from mmtk.similarity import Similarity, SquaredDifference
from mmtk.testing import (
    Contract,
    IntegratorContract,
    MethodContract,
    RegularizerContract,
    SimilarityContract,
)


def laws(contract: type[Contract]) -> set[str]:
    return {name for name in dir(contract) if name.startswith("test_")}


def hold(contract: type[Contract], law: str, part: Any, **told: Any) -> None:
    """Hold one part to one law, as pytest would."""
    test, capabilities = contract(), told.get("capabilities", Capabilities())
    known = {"capabilities": capabilities, "dims": capabilities.dims}
    names = inspect.signature(getattr(test, law)).parameters
    if "built" in names:
        known["built"] = test.make(part)
    if "config" in names:
        known["config"] = part
    getattr(test, law)(**{name: known[name] for name in names})


def breaks(contract: type[Contract], law: str, part: Any, **told: Any) -> None:
    with pytest.raises(AssertionError):
        hold(contract, law, part, **told)


# --- descriptions


class Reads(ComponentConfig):
    """A sound description."""

    __module__ = "mmtk.config"  # as if it were defined there
    target = "mmtk.similarity:SquaredDifference"
    kind: Literal["reads"] = "reads"
    radius: int = Field(default=2, description="half width")


class CannotBeReadBack(Reads):
    kind: Literal["a"] = "a"

    @field_serializer("radius")
    def _in_words(self, radius: int) -> str:
        return f"{radius} voxels"


class SaysNothing(Reads):
    kind: Literal["b"] = "b"
    width: int = 3


class LoadsTorch(Reads):
    __module__ = "mmtk.similarity"


class TakesAnything(Reads):
    model_config = ConfigDict(extra="ignore")
    kind: Literal["c"] = "c"


BROKEN_IN_GENERAL: dict[str, Any] = {
    "test_it_is_built_as_what_its_family_promises": torch.nn.Identity,
    "test_it_survives_pickling": lambda: _with(SquaredDifference(), secret=lambda: 0),
    "test_its_description_survives_a_round_trip_through_json": CannotBeReadBack,
    "test_its_description_says_what_every_setting_means": SaysNothing,
    "test_its_description_loads_no_torch": LoadsTorch,
    "test_its_description_refuses_what_it_does_not_know": TakesAnything,
}


def _with(part: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(part, name, value)
    return part


@pytest.mark.parametrize("law", BROKEN_IN_GENERAL)
def test_a_part_that_breaks_a_law_of_all_parts_is_found(law: str) -> None:
    breaks(SimilarityContract, law, BROKEN_IN_GENERAL[law]())


@pytest.mark.parametrize("law", [law for law in sorted(laws(Contract)) if "description" in law])
def test_a_sound_description_passes(law: str) -> None:
    hold(SimilarityContract, law, Reads())


# --- similarities


class Around(Similarity):
    """Squared differences, but the whole call is replaced."""

    def __init__(self, call: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.call, self.sound = call, SquaredDifference()

    def cost(self, moved: Tensor, fixed: Tensor, weight: Tensor) -> Tensor:
        return self.sound.cost(moved, fixed, weight)

    def forward(self, moved: Tensor, fixed: Tensor, weight: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return self.call(moved, fixed, weight)


sound = SquaredDifference()


class HalfTheGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 0.5 * gradient


def _ramp(t: Tensor) -> Tensor:
    return torch.linspace(1, 2, t.shape[2], dtype=t.dtype).view(1, 1, -1, *[1] * (t.ndim - 3))


def _written(m: Tensor, f: Tensor, w: Any) -> Tensor:
    f.mul_(2)
    return sound(m, f, w)


def _hoard(m: Tensor, f: Tensor, w: Any) -> Tensor:
    return sound(m, f, w) + 0 * torch.stack([m] * 100).sum()


BROKEN_SIMILARITIES: dict[str, Callable[[Tensor, Tensor, Any], Tensor]] = {
    "test_the_gradient_by_the_moved_image_is_right": lambda m, f, w: HalfTheGradient.apply(sound(m, f, w)),
    "test_an_image_is_nearest_to_itself": lambda m, f, w: -sound(m, f, w),
    "test_voxels_of_weight_zero_cannot_matter": lambda m, f, w: sound(m, f, w) + 1e-3 * m.mean(),
    "test_no_weight_is_a_weight_of_one": lambda m, f, w: sound(m, f, w) * (2 if w is None else 1),
    "test_nothing_to_compare_costs_nothing": lambda m, f, w: sound(m, f, w) + 1,
    "test_flat_images_have_a_finite_cost_and_gradient": lambda m, f, w: sound(m, f, w) / m.std(),
    "test_it_does_not_know_how_the_scan_lies": lambda m, f, w: sound(m, f, w * _ramp(w)),
    "test_a_batch_is_the_sum_of_its_elements": lambda m, f, w: sound(m, f, w) / len(m),
    "test_dtype_and_device_stay": lambda m, f, w: sound(m, f, w).double(),
    "test_single_precision_is_near_double": lambda m, f, w: ((m + 1e7).square() - (f + 1e7).square()).sum(),
    "test_inputs_are_not_written_to": _written,
    "test_images_on_two_grids_are_refused": lambda m, f, w: ((m - f).square() * w).sum(),
    "test_it_holds_few_images_at_once": _hoard,
}


@pytest.mark.parametrize("law", BROKEN_SIMILARITIES)
def test_a_similarity_that_breaks_a_law_is_found(law: str) -> None:
    breaks(SimilarityContract, law, Around(BROKEN_SIMILARITIES[law]))
    hold(SimilarityContract, law, Around(sound.forward))


# --- regularizers


class Price(Regularizer):
    """Whatever is asked."""

    def __init__(self, price: Callable[[Deformation], Tensor]) -> None:
        super().__init__()
        self.price = price

    def energy(self, deformation: Deformation) -> Tensor:
        return self.price(deformation)


diffusion, residual_norm = Diffusion(), ResidualNorm()


def _written_u(d: Deformation) -> Tensor:
    d.displacement.mul_(2)  # type: ignore[union-attr]
    return diffusion(d)


BROKEN_REGULARIZERS: dict[str, Callable[[Any], Tensor]] = {
    "test_rest_costs_nothing_and_nothing_pays": lambda d: -diffusion(d),
    "test_the_gradient_is_right": lambda d: HalfTheGradient.apply(diffusion(d)),
    "test_the_value_does_not_depend_on_the_resolution": lambda d: diffusion(d) / d.grid.cell_volume,
    "test_it_does_not_know_how_the_scan_lies": lambda d: d.displacement[:, 0].square().sum(),
    "test_a_batch_is_the_sum_of_its_elements": lambda d: diffusion(d) / len(d.displacement),
    "test_dtype_and_device_stay": lambda d: diffusion(d).double(),
    "test_inputs_are_not_written_to": _written_u,
    "test_what_it_needs_and_is_not_given_is_told": lambda d: d.displacement.square().sum(),
    "test_residual_outside_the_mask_cannot_matter": lambda d: d.residual.square().sum(),
    "test_it_holds_few_images_at_once": lambda d: 0 * torch.stack([d.displacement] * 50).sum(),
}


@pytest.mark.parametrize("law", BROKEN_REGULARIZERS)
def test_a_regularizer_that_breaks_a_law_is_found(law: str) -> None:
    breaks(RegularizerContract, law, Price(BROKEN_REGULARIZERS[law]))
    hold(RegularizerContract, law, Price(diffusion.forward))
    hold(RegularizerContract, law, Price(residual_norm.forward))


# --- integrators


class Bent(SemiLagrangian):
    """A sound scheme of order 1, with something done to its start or after every step."""

    def __init__(self, *, before: Any = None, after: Any = None, pace: Any = None, order: int = 1) -> None:
        super().__init__()
        self.before, self.after, self.pace, self.order = before, after, pace, order
        self.calls = 0

    def begin(self, equation: Any, image: Tensor, momentum: Tensor, context: Any = PLAIN) -> CarriedState:
        if self.before is not None:
            image, momentum, context = self.before(image, momentum, context)
        return super().begin(equation, image, momentum, context)

    def step(self, equation: Any, state: CarriedState, dt: float) -> CarriedState:
        self.calls += 1
        end = super().step(equation, state, dt if self.pace is None else dt * self.pace(self, equation))
        return end if self.after is None else self.after(end)


class Unchecked(Bent):
    def begin(self, equation: Any, image: Tensor, momentum: Tensor, context: Any = PLAIN) -> CarriedState:
        return CarriedState.start(image, momentum, context.mask)


def _flow(state: CarriedState, **maps: Tensor) -> CarriedState:
    assert state.flow is not None
    return replace(state, flow=replace(state.flow, **maps))


def _zigzag(t: Tensor) -> Tensor:
    # From one column to the next, where central differences see nothing.
    return 3 * (torch.arange(t.shape[-1]) % 2).to(t).expand_as(t)


def _painted_over(image: Tensor, momentum: Tensor, context: Any) -> tuple[Tensor, Tensor, Any]:
    return image.mul_(2), momentum, context


def _hoarded(state: CarriedState) -> CarriedState:
    return replace(state, image=state.image + 0 * torch.stack([state.image] * 150).sum(0))


def _tilted(state: CarriedState) -> CarriedState:
    return replace(state, image=state.image + 0.01 * _ramp(state.image))


BROKEN_INTEGRATORS: dict[str, Callable[[], Bent]] = {
    "test_the_error_falls_at_the_order_that_it_claims": lambda: Bent(order=2),
    "test_it_converges_to_the_solution_of_the_equations": lambda: Bent(pace=lambda *_: 0.8),
    "test_without_momentum_nothing_moves": lambda: Bent(after=lambda s: replace(s, image=1.01 * s.image)),
    "test_small_steps_do_not_fold": lambda: Bent(
        after=lambda s: _flow(s, back=s.flow.back + _zigzag(s.flow.back))
    ),
    "test_forward_after_inverse_is_the_identity": lambda: Bent(
        after=lambda s: _flow(s, forth=1.05 * s.flow.forth)
    ),
    "test_where_the_mask_is_zero_no_intensity_changes": lambda: Bent(
        before=lambda i, z, c: (i, z, replace(c, mask=None))
    ),
    "test_it_does_not_know_how_the_scan_lies": lambda: Bent(after=_tilted),
    "test_a_shifted_image_gives_a_shifted_result": lambda: Bent(after=_tilted),
    "test_the_unit_of_length_does_not_matter": lambda: Bent(pace=lambda _, e: e.maps.grid.spacing[0] / 2),
    "test_a_batch_equals_its_elements": lambda: Bent(
        after=lambda s: replace(s, image=s.image + 0.01 * s.image.mean(0, keepdim=True))
    ),
    "test_dtype_and_device_stay": lambda: Bent(after=lambda s: replace(s, kinetic=s.kinetic.double())),
    "test_inputs_are_not_written_to": lambda: Bent(before=_painted_over),
    "test_it_remembers_no_other_path": lambda: Bent(pace=lambda self, _: 1 + 0.01 * self.calls),
    "test_the_gradient_by_the_momentum_is_right": lambda: Bent(
        before=lambda i, z, c: (i, HalfTheGradient.apply(z), c)
    ),
    "test_tensors_on_another_grid_are_refused": Unchecked,
    "test_it_holds_few_images_at_once": lambda: Bent(after=_hoarded),
}


@pytest.mark.parametrize("law", BROKEN_INTEGRATORS)
def test_an_integrator_that_breaks_a_law_is_found(law: str) -> None:
    breaks(IntegratorContract, law, BROKEN_INTEGRATORS[law]())
    hold(IntegratorContract, law, Bent())


# --- methods


class Spoiled(Method):
    """A sound method, with something done to the pair or to the result."""

    def __init__(self, *, before: Any = None, after: Any = None) -> None:
        super().__init__()
        config = installed().find("method", "lddmm")
        self.sound = config(levels=(8.0, 4.0), iterations=(8, 5)).build()  # type: ignore[call-arg]
        self.before, self.after = before, after

    def register(self, pair: Pair, progress: Any = silent) -> Registration:
        if self.before is not None:
            pair = self.before(pair)
        found = self.sound.register(pair, progress)
        return found if self.after is None else self.after(found)


def _brightened(pair: Pair) -> Pair:
    pair.moving.mul_(2)
    return pair


def _hoarding(pair: Pair) -> Pair:
    torch.stack([pair.moving] * 500)
    return pair


def _map(change: Callable[[Registration], Tensor]) -> Callable[[Registration], Registration]:
    return lambda found: replace(found, displacement=change(found))


RISING = LevelReport(4.0, (1.0, 2.0), 2, 0.0, Outcome.EXHAUSTED)

BROKEN_METHODS: dict[str, dict[str, Any]] = {
    "test_the_maps_lie_on_the_grid_and_are_finite": {"after": lambda r: replace(r, inverse=r.inverse[..., 1:])},
    "test_the_images_come_nearer_to_one_another": {"after": _map(lambda r: -r.displacement)},
    "test_an_image_stays_on_itself": {"after": _map(lambda r: r.displacement + 0.5)},
    "test_no_level_ends_worse_than_it_began": {"after": lambda r: replace(r, levels=(RISING,))},
    "test_the_maps_do_not_fold_where_that_is_claimed": {
        "after": _map(lambda r: r.displacement + _zigzag(r.displacement))
    },
    "test_the_inverse_is_one_where_that_is_claimed": {"after": lambda r: replace(r, inverse=0 * r.inverse)},
    "test_it_does_not_know_how_the_scan_lies": {"after": _map(lambda r: r.displacement[:, [1, 0]])},
    "test_the_size_of_voxels_does_not_matter": {"after": _map(lambda r: r.displacement * r.grid.spacing[0] / 4)},
    "test_what_lies_under_the_fixed_mask_cannot_matter": {"before": lambda p: replace(p, fixed_mask=None)},
    "test_intensity_changes_in_the_lesion_alone": {
        "after": lambda r: replace(r, appearance=torch.full_like(r.displacement[:, :1], 0.1))
    },
    "test_it_finds_the_same_twice_and_without_gradients": {
        "after": _map(lambda r: r.displacement + (0.1 if torch.is_grad_enabled() else 0))
    },
    "test_inputs_are_not_written_to": {"before": _brightened},
    "test_it_holds_few_images_at_once": {"before": _hoarding},
}


@pytest.mark.parametrize("law", BROKEN_METHODS)
def test_a_method_that_breaks_a_law_is_found(law: str) -> None:
    dim = 3 if law == "test_it_holds_few_images_at_once" else 2
    capabilities = Capabilities(dims=(dim,), diffeomorphic=True)
    breaks(MethodContract, law, Spoiled(**BROKEN_METHODS[law]), capabilities=capabilities)
    hold(MethodContract, law, Spoiled(), capabilities=capabilities)


def test_what_is_not_claimed_is_not_demanded() -> None:
    for law in (
        "test_the_maps_do_not_fold_where_that_is_claimed",
        "test_the_inverse_is_one_where_that_is_claimed",
    ):
        hold(MethodContract, law, Spoiled(**BROKEN_METHODS[law]), capabilities=Capabilities(dims=(2,)))


def test_every_law_has_a_part_that_breaks_it() -> None:
    assert set(BROKEN_IN_GENERAL) == laws(Contract)
    assert set(BROKEN_SIMILARITIES) == laws(SimilarityContract) - laws(Contract)
    assert set(BROKEN_REGULARIZERS) == laws(RegularizerContract) - laws(Contract)
    assert set(BROKEN_INTEGRATORS) == laws(IntegratorContract) - laws(Contract)
    assert set(BROKEN_METHODS) == laws(MethodContract) - laws(Contract)


def test_an_author_who_forgets_the_part_is_told() -> None:
    with pytest.raises(NotImplementedError, match="needs a fixture `part`"):
        inspect.unwrap(Contract.part)(Contract())
