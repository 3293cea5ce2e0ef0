"""Laws of every loss."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from mmtk.config import Capabilities
from mmtk.errors import GridMismatch
from mmtk.testing.base import Contract, holds_little, is_its_gradient, refuses, stays_untouched, turns
from mmtk.testing.phantoms import beside, turned

__all__ = ["LossContract"]

SHAPES = {2: (9, 7), 3: (7, 5, 5)}

#: By how much a change of this size may seem to pay, in parts of the loss of a random pair: rounding.
ROUNDING = 1e-9


class LossContract(Contract):
    """What makes a number one to train by: ``loss(prediction, truth)``, and ``weight=`` where ``forward`` takes it.

    The loss of a batch is the mean of its elements' losses, or their sum. A loss that compares other things than two
    images of one shape gets its own :meth:`inputs`.

    Attributes:
        channels: Of both inputs.

    Example::

        class TestMine(LossContract):
            @pytest.fixture
            def part(self):
                return MyLossConfig()
    """

    base = nn.Module
    memory = 60
    channels: ClassVar[int] = 1

    def inputs(
        self, shape: tuple[int, ...], *, batch: int = 1, dtype: torch.dtype = torch.float64
    ) -> tuple[Tensor, Tensor]:
        """A prediction and the truth ``(B, channels, *space)``, positive, with something in common."""
        draw = torch.Generator().manual_seed(0)
        truth, noise = torch.rand(2, batch, self.channels, *shape, generator=draw, dtype=torch.float64)
        prediction = 0.2 + truth + 0.5 * noise
        return prediction.to(self.device, dtype), (0.2 + truth).to(self.device, dtype)

    def weight(self, truth: Tensor) -> Tensor:
        """A weight ``(B, 1, *space)`` in [0.2, 1]."""
        draw = torch.Generator().manual_seed(1)
        return (0.2 + 0.8 * torch.rand(truth[:, :1].shape, generator=draw, dtype=torch.float64)).to(truth)

    @pytest.fixture
    def weighted(self, built: Any) -> Any:
        """The loss, if it takes a weight."""
        if "weight" not in inspect.signature(built.forward).parameters:
            pytest.skip("this loss takes no weight")
        return built

    def test_the_gradient_by_the_prediction_is_right(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            prediction, truth = self.inputs(SHAPES[dim])
            is_its_gradient(lambda p, t=truth: built(p, t), prediction)

    def test_the_truth_is_the_best_prediction_where_that_is_claimed(
        self, built: Any, dims: tuple[int, ...], capabilities: Capabilities
    ) -> None:
        for dim in dims if capabilities.stationary else ():
            prediction, truth = self.inputs(SHAPES[dim])
            scale = float(_gradient(built, prediction, truth).abs().max())
            steep = float(_gradient(built, truth, truth).abs().max())
            assert steep <= 1e-6 * scale, f"the gradient at the truth is {steep:.3g}, {scale:.3g} away from it"
            best, usual = float(built(truth, truth)), float(built(prediction, truth))
            for other in beside(truth):
                cost = float(built(other, truth))
                assert cost >= best - ROUNDING * abs(usual), f"{cost:.12g} beside the truth, {best:.12g} there"
            assert usual > best, "a prediction that is wrong costs no more than the truth"

    def test_the_two_may_change_places_where_that_is_claimed(
        self, built: Any, dims: tuple[int, ...], capabilities: Capabilities
    ) -> None:
        for dim in dims if capabilities.symmetric else ():
            prediction, truth = self.inputs(SHAPES[dim])
            torch.testing.assert_close(built(truth, prediction), built(prediction, truth))

    def test_voxels_of_weight_zero_cannot_matter(self, weighted: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            prediction, truth = self.inputs(SHAPES[dim])
            weight = self.weight(truth)
            weight[(slice(None), slice(None), *[slice(1, 4)] * dim)] = 0
            expected = weighted(prediction, truth, weight=weight)
            for damage in (1e3, -1e12):
                hurt = [torch.where(weight > 0, t, damage) for t in (prediction, truth)]
                for p, t in ((hurt[0], truth), (prediction, hurt[1]), (hurt[0], hurt[1])):
                    found = weighted(p, t, weight=weight)
                    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
            steep = _gradient(partial(weighted, weight=weight), prediction, truth)
            assert bool((steep[(weight == 0).expand_as(steep)] == 0).all()), "a gradient where nothing is compared"

    def test_no_weight_is_a_weight_of_one(self, weighted: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            prediction, truth = self.inputs(SHAPES[dim])
            ones = torch.ones_like(self.weight(truth))
            torch.testing.assert_close(weighted(prediction, truth, weight=ones), weighted(prediction, truth))

    def test_nothing_to_compare_has_a_finite_loss(self, weighted: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            prediction, truth = self.inputs(SHAPES[dim])
            none = torch.zeros_like(self.weight(truth))
            value = weighted(prediction, truth, weight=none)
            steep = _gradient(partial(weighted, weight=none), prediction, truth)
            assert bool(value.isfinite()) and bool((steep == 0).all()), "where nothing is compared, nothing pulls"

    def test_flat_inputs_have_a_finite_loss_and_gradient(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            _, truth = self.inputs(SHAPES[dim])
            for level in (0.0, 0.7):
                flat = torch.full_like(truth, level)
                for a, b in ((flat, truth), (truth, flat), (flat, flat)):
                    steep = _gradient(built, a, b)
                    assert bool(built(a, b).isfinite()) and bool(steep.isfinite().all())

    def test_it_does_not_know_how_the_scan_lies(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            prediction, truth = self.inputs(SHAPES[dim])
            expected = built(prediction, truth)
            for flips, order in turns(dim):
                other = built(turned(prediction, flips, order), turned(truth, flips, order))
                torch.testing.assert_close(other, expected)

    def test_a_batch_is_the_mean_or_the_sum_of_its_elements(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            prediction, truth = self.inputs(SHAPES[dim], batch=3)
            prediction[1] *= 4
            alone = torch.stack([built(prediction[i : i + 1], truth[i : i + 1]) for i in range(3)])
            total = built(prediction, truth)
            kinds = {"mean": alone.mean(), "sum": alone.sum()}
            near = [name for name, value in kinds.items() if torch.allclose(total, value, rtol=1e-8, atol=1e-12)]
            assert near, f"{float(total):.6g} is neither the mean nor the sum of {alone.tolist()}"

    def test_dtype_and_device_stay(self, built: Any, dims: tuple[int, ...]) -> None:
        for dtype in (torch.float32, torch.float64):
            prediction, truth = self.inputs(SHAPES[dims[-1]], dtype=dtype)
            value, steep = built(prediction, truth), _gradient(built, prediction, truth)
            assert (value.dtype, value.device, value.shape) == (dtype, truth.device, ())
            assert (steep.dtype, steep.device) == (dtype, truth.device)

    def test_single_precision_is_near_double(self, built: Any, dims: tuple[int, ...]) -> None:
        pair = self.inputs(SHAPES[dims[-1]])
        single = built(*[t.float() if t.is_floating_point() else t for t in pair])
        torch.testing.assert_close(single.double(), built(*pair).double(), rtol=1e-3, atol=1e-3)

    def test_it_gives_the_same_twice(self, built: Any, dims: tuple[int, ...]) -> None:
        prediction, truth = self.inputs(SHAPES[dims[0]])
        first = built(prediction, truth)
        built(2 * prediction, truth)
        assert torch.equal(built(prediction, truth), first), "what was compared before matters"

    def test_inputs_are_not_written_to(self, built: Any, dims: tuple[int, ...]) -> None:
        pair = self.inputs(SHAPES[dims[-1]])
        stays_untouched(lambda: built(*pair), *pair)

    def test_tensors_on_two_grids_are_refused(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            prediction, truth = self.inputs(SHAPES[dim])
            refuses(partial(built, prediction[..., 1:], truth), GridMismatch)
            refuses(partial(built, prediction[..., :1], truth), GridMismatch)

    def test_it_holds_few_images_at_once(self, built: Any, dims: tuple[int, ...]) -> None:
        if 3 not in dims:
            pytest.skip("memory is measured in 3-D")
        pair = self.inputs((32, 32, 32), dtype=torch.float32)
        holds_little(lambda: _gradient(built, *pair), self.memory * self.channels)


def _gradient(built: Any, prediction: Tensor, truth: Tensor) -> Tensor:
    """The derivative of the loss by the prediction; 0 where the loss does not depend on it."""
    prediction = prediction.detach().clone().requires_grad_()
    loss = built(prediction, truth)
    if not loss.requires_grad:
        return torch.zeros_like(prediction)
    (steep,) = torch.autograd.grad(loss, prediction, allow_unused=True)
    return torch.zeros_like(prediction) if steep is None else steep
