"""A contract is worth what it refuses: for every law, a part that breaks it, and is found out."""

from __future__ import annotations

import inspect
import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from pydantic import ConfigDict, Field, field_serializer
from torch import Tensor, nn

from mmtk.bundle.check import check
from mmtk.bundle.search import Found
from mmtk.config import Capabilities, ComponentConfig
from mmtk.errors import GridMismatch
from mmtk.integrators import PLAIN, SemiLagrangian
from mmtk.integrators.base import CarriedState
from mmtk.method import Method, Pair, silent
from mmtk.metrics import Metric
from mmtk.plugins import Catalogue, Offer, PluginRecord, installed
from mmtk.regularizers import Deformation, Diffusion, Regularizer, ResidualNorm
from mmtk.result import LevelReport, Outcome, Registration
from mmtk.segmenters import Segmenter
from mmtk.similarity import Similarity, SquaredDifference
from mmtk.testing import (
    BundleContract,
    Contract,
    IntegratorContract,
    LossContract,
    MethodContract,
    MetricContract,
    RegularizerContract,
    SegmenterContract,
    SimilarityContract,
)


def laws(contract: type) -> set[str]:
    return {name for name in dir(contract) if name.startswith("test_")}


def hold(contract: type[Contract], law: str, part: Any, **told: Any) -> None:
    """Hold one part to one law, as pytest would."""
    test, capabilities = contract(), told.get("capabilities", Capabilities())
    known = {"capabilities": capabilities, "dims": capabilities.dims}
    names = inspect.signature(getattr(test, law)).parameters
    if "built" in names:
        known["built"] = test.make(part)
    if "weighted" in names:
        known["weighted"] = test.make(part)
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
    "test_an_image_stays_on_itself_where_that_is_claimed": lambda m, f, w: sound(m, f, w) - 1e-3 * m.var(),
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


#: Laws of the setting ``masked``: a description is built with it, so what breaks them has a description of its own.
MASKED = {
    "test_what_the_lesion_shows_cannot_matter_where_it_is_masked",
    "test_a_lesion_that_is_masked_exerts_no_force",
}


class Careless(Spoiled):
    """Takes the setting and does not do as it says."""

    def __init__(self, *, masked: bool = False) -> None:
        super().__init__(before=lambda pair: replace(pair, mask=None))


class CarelessConfig(ComponentConfig):
    """Says that it leaves the lesion out."""

    target = f"{__name__}:Careless"
    capabilities = Capabilities(dims=(2,))
    kind: str = "careless"
    masked: bool = False

    def build(self, **context: Any) -> Any:
        return Careless(**self.settings())


@pytest.mark.parametrize("law", sorted(MASKED))
def test_a_method_that_masks_in_name_alone_is_found(law: str) -> None:
    with pytest.raises(AssertionError):
        getattr(MethodContract(), law)(CarelessConfig())
    chosen = installed().find("method", "lddmm")
    getattr(MethodContract(), law)(chosen(levels=(8.0, 4.0), iterations=(8, 5)))  # type: ignore[call-arg]


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


# --- segmenters


class Marks(Segmenter):
    """The bright voxels, with something done to the image before or to the mask after."""

    def __init__(self, *, after: Any = None, before: Any = None, share: float = 0.7) -> None:
        super().__init__()
        self.after, self.before, self.share = after, before, share
        self.calls = 0

    def segment(self, image: Tensor, spacing: tuple[float, ...]) -> Tensor:
        self.calls += 1
        image = image if self.before is None else self.before(image)
        brightest = image.flatten(1).amax(1).view(-1, *[1] * (image.ndim - 1))
        mask = (image > self.share * brightest).to(image)
        return mask if self.after is None else self.after(self, mask, image, spacing)


class MarksAnything(Marks):
    def forward(self, image: Tensor, spacing: Any) -> Tensor:
        return self.segment(image, tuple(spacing))


def _thinned(_: Any, mask: Tensor, image: Tensor, spacing: Any) -> Tensor:
    # Two voxels of the border are taken off, however wide they are.
    size = (1, 1, *[5] * (image.ndim - 2))
    kernel = torch.ones(size).to(mask) / math.prod(size)
    convolve = torch.nn.functional.conv2d if image.ndim == 4 else torch.nn.functional.conv3d
    return (convolve(mask, kernel, padding=2) > 0.999).to(mask)


BROKEN_SEGMENTERS: dict[str, Callable[[], Segmenter]] = {
    "test_the_mask_lies_on_the_grid_and_within_0_and_1": lambda: Marks(after=lambda s, m, i, h: 2 * m),
    "test_it_finds_a_part_of_the_image": lambda: Marks(after=lambda s, m, i, h: 0 * m),
    "test_the_mask_is_0_or_1_where_that_is_claimed": lambda: Marks(after=lambda s, m, i, h: 0.9 * m),
    "test_a_flat_image_has_a_mask_too": lambda: Marks(
        after=lambda s, m, i, h: (i - i.min()) / (i.max() - i.min())
    ),
    "test_it_does_not_know_how_the_scan_lies": lambda: Marks(after=lambda s, m, i, h: m * (_ramp(m) > 1.4)),
    "test_the_size_of_voxels_does_not_matter_where_that_is_claimed": lambda: Marks(after=_thinned),
    "test_the_unit_of_intensity_does_not_matter_where_that_is_claimed": lambda: Marks(
        after=lambda s, m, i, h: (i > 0.7).to(i)
    ),
    "test_a_batch_equals_its_elements": lambda: Marks(before=lambda i: i.clamp_max(0.8 * float(i.max()))),
    "test_dtype_and_device_stay": lambda: Marks(after=lambda s, m, i, h: m.float()),
    "test_it_finds_the_same_twice": lambda: Marks(after=lambda s, m, i, h: m * (1 - 0.01 * s.calls)),
    "test_inputs_are_not_written_to": lambda: Marks(before=lambda i: i.mul_(2)),
    "test_what_does_not_fit_is_refused": MarksAnything,
    "test_it_holds_few_images_at_once": lambda: Marks(
        after=lambda s, m, i, h: m + 0 * torch.stack([m] * 80).sum(0)
    ),
}


@pytest.mark.parametrize("law", BROKEN_SEGMENTERS)
def test_a_segmenter_that_breaks_a_law_is_found(law: str) -> None:
    claims = Capabilities(binary=True, any_intensity=True, any_spacing=True)
    breaks(SegmenterContract, law, BROKEN_SEGMENTERS[law](), capabilities=claims)
    hold(SegmenterContract, law, Marks(), capabilities=claims)


# --- losses


class Costs(nn.Module):
    """A sound loss, but the whole call is replaced."""

    def __init__(self, call: Callable[..., Tensor]) -> None:
        super().__init__()
        self.call = call

    def forward(self, prediction: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
        return self.call(prediction, truth, weight)


def _squares(p: Tensor, t: Tensor, w: Tensor | None = None) -> Tensor:
    if p.shape != t.shape:
        raise GridMismatch("prediction", p.shape, "truth", t.shape)
    w = torch.ones_like(t) if w is None else w.expand_as(t)
    cost = torch.where(w > 0, p - t, 0).square() * w
    return (cost.flatten(1).sum(1) / w.flatten(1).sum(1).clamp_min(1e-12)).mean()


def _brightened_truth(p: Tensor, t: Tensor, w: Any) -> Tensor:
    t.mul_(2)
    return _squares(p, t, w)


class Remembers(Costs):
    def __init__(self) -> None:
        super().__init__(_squares)
        self.calls = 0

    def forward(self, prediction: Tensor, truth: Tensor, weight: Tensor | None = None) -> Tensor:
        self.calls += 1
        return _squares(prediction, truth, weight) * self.calls


def _costs(call: Callable[..., Tensor]) -> Callable[[], Costs]:
    return lambda: Costs(call)


BROKEN_LOSSES: dict[str, Callable[[], Costs]] = {
    "test_the_gradient_by_the_prediction_is_right": _costs(
        lambda p, t, w: HalfTheGradient.apply(_squares(p, t, w))
    ),
    "test_the_truth_is_the_best_prediction_where_that_is_claimed": _costs(
        lambda p, t, w: _squares(p, t, w) - 0.01 * p.var()
    ),
    "test_the_two_may_change_places_where_that_is_claimed": _costs(
        lambda p, t, w: _squares(p, t, w) / t.square().mean()
    ),
    "test_voxels_of_weight_zero_cannot_matter": _costs(lambda p, t, w: _squares(p, t, w) + 1e-3 * p.mean()),
    "test_no_weight_is_a_weight_of_one": _costs(lambda p, t, w: _squares(p, t, w) * (2 if w is None else 1)),
    "test_nothing_to_compare_has_a_finite_loss": _costs(
        lambda p, t, w: _squares(p, t, w) if w is None else ((p - t).square() * w).sum() / w.sum()
    ),
    "test_flat_inputs_have_a_finite_loss_and_gradient": _costs(lambda p, t, w: _squares(p, t, w) / p.std()),
    "test_it_does_not_know_how_the_scan_lies": _costs(lambda p, t, w: _squares(p * _ramp(p), t * _ramp(t), w)),
    "test_a_batch_is_the_mean_or_the_sum_of_its_elements": _costs(lambda p, t, w: _squares(p, t, w).sqrt()),
    "test_dtype_and_device_stay": _costs(lambda p, t, w: _squares(p, t, w).double()),
    "test_single_precision_is_near_double": _costs(lambda p, t, w: ((p + 1e7) - (t + 1e7)).square().mean()),
    "test_it_gives_the_same_twice": Remembers,
    "test_inputs_are_not_written_to": _costs(_brightened_truth),
    "test_tensors_on_two_grids_are_refused": _costs(lambda p, t, w: (p - t).square().mean()),
    "test_it_holds_few_images_at_once": _costs(
        lambda p, t, w: _squares(p, t, w) + 0 * torch.stack([p] * 80).sum()
    ),
}


@pytest.mark.parametrize("law", BROKEN_LOSSES)
def test_a_loss_that_breaks_a_law_is_found(law: str) -> None:
    claims = Capabilities(symmetric=True)
    breaks(LossContract, law, BROKEN_LOSSES[law](), capabilities=claims)
    hold(LossContract, law, Costs(_squares), capabilities=claims)


# --- metrics


class Lengths(Metric):
    """The mean length of both maps in mm, and how far the images are apart, with something else done."""

    perfect: Mapping[str, float] = {"length": 0.0, "apart": 0.0, "lesion": math.nan}  # type: ignore[misc]

    def __init__(self, change: Any = None) -> None:
        self.change, self.calls = change, 0

    def measure(self, pair: Pair, found: Registration) -> Mapping[str, float]:
        self.calls += 1
        length = [(u * pair.grid.per_axis(u)).norm(dim=1).mean() for u in (found.displacement, found.inverse)]
        lesion = math.nan if pair.mask is None else float(pair.mask.sum()) * pair.grid.cell_volume
        numbers = {
            "length": float(sum(length)),
            "apart": float((pair.moving - pair.fixed).abs().mean()),
            "lesion": lesion,
        }
        return numbers if self.change is None else self.change(self, numbers, pair, found)


class Unguarded(Lengths):
    def __call__(self, pair: Pair, found: Registration) -> dict[str, float]:
        return dict(self.measure(pair, found))


def _lengthened(m: Any, n: Any, pair: Pair, found: Registration) -> Any:
    found.displacement.mul_(2)
    return n


def _hoarding_metric(m: Any, n: Any, pair: Pair, found: Registration) -> Any:
    torch.stack([pair.fixed] * 80)
    return n


BROKEN_METRICS: dict[str, Callable[[], Metric]] = {
    "test_it_survives_pickling": lambda: Lengths(lambda m, n, p, f: n),
    "test_its_numbers_are_plain_and_have_names": lambda: Lengths(
        lambda m, n, p, f: {**n, "length": torch.tensor(n["length"])}
    ),
    "test_an_image_on_itself_has_the_numbers_that_it_says": lambda: Lengths(
        lambda m, n, p, f: {**n, "length": n["length"] + 1}
    ),
    "test_the_images_may_change_places_where_that_is_claimed": lambda: Lengths(
        lambda m, n, p, f: {**n, "length": float(f.displacement[:, 0].mean())}
    ),
    "test_it_does_not_know_how_the_scan_lies": lambda: Lengths(
        lambda m, n, p, f: {**n, "length": float(f.displacement[:, 0].abs().mean())}
    ),
    "test_one_case_does_not_know_of_another": lambda: Lengths(
        lambda m, n, p, f: {**n, "length": n["length"] * m.calls}
    ),
    "test_what_is_empty_is_defined_or_not_a_number": lambda: Lengths(
        lambda m, n, p, f: {**n, "lesion": float(1 / (p.fixed if p.mask is None else p.mask).sum())}
    ),
    "test_single_precision_is_near_double": lambda: Lengths(
        lambda m, n, p, f: {**n, "apart": float((p.moving + 1e7 - p.fixed).mean()) - 1e7}
    ),
    "test_inputs_are_not_written_to": lambda: Lengths(_lengthened),
    "test_maps_on_another_grid_are_refused": Unguarded,
    "test_it_holds_few_images_at_once": lambda: Lengths(_hoarding_metric),
}


@pytest.mark.parametrize("law", BROKEN_METRICS)
def test_a_metric_that_breaks_a_law_is_found(law: str) -> None:
    claims = Capabilities(symmetric=True)
    breaks(MetricContract, law, BROKEN_METRICS[law](), capabilities=claims)
    hold(MetricContract, law, Lengths(), capabilities=claims)


def test_a_metric_that_does_not_say_what_is_perfect_is_told_so() -> None:
    silent = _with(Lengths(), perfect={})
    with pytest.raises(AssertionError, match="`perfect` has"):
        hold(MetricContract, "test_its_numbers_are_plain_and_have_names", silent)


# --- bundles


class Sound(ComponentConfig):
    """LDDMM, in few steps."""

    kind: Literal["bad"] = "bad"
    target = "mmtk_metamorphosis.method:Metamorphosis"
    levels: list[float] = Field(default=[8.0], description="mm")

    def build(self, **context: Any) -> Any:
        return Spoiled()


class Hoards(Sound):
    def build(self, **context: Any) -> Any:
        return Spoiled(before=_hoarding)


class Garbles(Sound):
    @field_serializer("levels")
    def _in_words(self, levels: list[float]) -> str:
        return f"{levels} mm"


def _in(name: str, *at: str, value: Any = None) -> Callable[[Path], None]:
    """Set one entry of a configuration, or take it out."""

    def change(folder: Path) -> None:
        path = folder / "configs" / name
        config = json.loads(path.read_text())
        node = config
        for word in at[:-1]:
            node = node[word]
        node.pop(at[-1], None)
        if value is not None:
            node[at[-1]] = value
        path.write_text(json.dumps(config))

    return change


_other_method = _in("inference.json", "network_def", "method", value={"kind": "bad"})

#: Law: what is done to a sound bundle, whether it counts as installed, and the method that its recipe then names.
BROKEN_BUNDLES: dict[str, tuple[Callable[[Path], Any], bool, type[Sound] | None]] = {
    "test_its_files_are_there": (lambda b: (b / "LICENSE").unlink(), False, None),
    "test_its_metadata_are_complete": (_in("metadata.json", "authors", value=""), False, None),
    "test_the_versions_that_it_needs_are_installed": (
        _in("metadata.json", "required_packages_version", "scipy", value="999.1"),
        False,
        None,
    ),
    "test_its_recipe_is_one_that_mmtk_runs": (
        _in("inference.json", "network_def", "method", "steps", value=-1),
        False,
        None,
    ),
    "test_it_has_the_ids_that_monai_asks_for": (_in("inference.json", "evaluator"), False, None),
    "test_nothing_in_it_asks_for_trust": (
        _in("inference.json", "imports", value=["$import subprocess"]),
        False,
        None,
    ),
    "test_its_targets_are_what_they_are_called": (
        _in("inference.json", "inferer", "_target_", value="monai.inferers.NoInferer"),
        True,
        None,
    ),
    "test_its_weights_are_those_of_its_network": (
        lambda b: torch.save({"a": torch.ones(2)}, b / "models" / "model.pt"),
        False,
        None,
    ),
    "test_its_recipe_survives_a_round_trip_through_json": (_other_method, False, Garbles),
    "test_its_method_holds_few_images_at_once": (_other_method, False, Hoards),
}
#: It is run twice, which takes long.
RUN = "test_mmtk_and_monai_run_it_with_one_result"


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Found]:
    def make(change: Any = None, trusted: bool = False, method: type[Sound] | None = None) -> Found:
        folder = tmp_path / f"bundle_{change is not None}"
        shutil.copytree(installed().bundle("lddmm"), folder)
        known = installed()
        if method is not None:
            offer = Offer("method", "bad", method, "bad", "bad")
            known = Catalogue((*known.plugins, PluginRecord("bad", "bad", "1", offers=(offer,))))
            _other_method(folder)
        monkeypatch.setattr("mmtk.testing.bundles.installed", lambda: known)
        if change is not None:
            change(folder)
        return Found(folder, "here", installed=trusted)

    return make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("law", BROKEN_BUNDLES)
def test_a_bundle_that_breaks_a_law_is_found(law: str, bundle: Callable[..., Found]) -> None:
    change, trusted, method = BROKEN_BUNDLES[law]
    with pytest.raises(AssertionError):
        getattr(BundleContract(), law)(bundle(change, trusted, method))
    getattr(BundleContract(), law)(bundle(None, trusted, method and Sound))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_bundle_that_runs_in_one_way_alone_is_found(bundle: Callable[..., Found]) -> None:
    with pytest.raises(AssertionError, match="ended with exit code"):
        getattr(BundleContract(), RUN)(bundle(_in("inference.json", "network_def", "channels", value=0)))
    getattr(BundleContract(), RUN)(bundle())


@pytest.mark.filterwarnings("ignore")
def test_there_is_a_law_for_every_verdict_of_the_check(
    bundle: Callable[..., Found], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.setattr(BundleContract, "passes", lambda self, name, found, run=False: asked.append((name, run)))
    for law in laws(BundleContract) - {law for law in BROKEN_BUNDLES if BROKEN_BUNDLES[law][2]}:
        getattr(BundleContract(), law)(bundle)
    assert sorted(asked) == sorted(
        (verdict.name, verdict.name == "run") for verdict in check(bundle(), installed())
    )


def test_every_law_has_a_part_that_breaks_it() -> None:
    assert set(BROKEN_IN_GENERAL) == laws(Contract)
    assert set(BROKEN_SIMILARITIES) == laws(SimilarityContract) - laws(Contract)
    assert set(BROKEN_REGULARIZERS) == laws(RegularizerContract) - laws(Contract)
    assert set(BROKEN_INTEGRATORS) == laws(IntegratorContract) - laws(Contract)
    assert set(BROKEN_METHODS) | MASKED == laws(MethodContract) - laws(Contract)
    assert set(BROKEN_SEGMENTERS) == laws(SegmenterContract) - laws(Contract)
    assert set(BROKEN_LOSSES) == laws(LossContract) - laws(Contract)
    assert set(BROKEN_METRICS) - {"test_it_survives_pickling"} == laws(MetricContract) - laws(Contract)
    assert set(BROKEN_BUNDLES) | {RUN} == laws(BundleContract)


def test_an_author_who_forgets_the_part_is_told() -> None:
    with pytest.raises(NotImplementedError, match="needs a fixture `part`"):
        inspect.unwrap(Contract.part)(Contract())
    with pytest.raises(NotImplementedError, match="needs a fixture `bundle`"):
        inspect.unwrap(BundleContract.bundle)(BundleContract())
