"""Laws of every similarity."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from mmtk.config import Capabilities
from mmtk.errors import GridMismatch
from mmtk.similarity import Similarity
from mmtk.testing.base import Contract, holds_little, is_its_gradient, refuses, stays_untouched, turns
from mmtk.testing.phantoms import beside

__all__ = ["SimilarityContract"]

#: Odd, so that windows some voxels apart lie the same from either end.
SHAPES = {2: (9, 7), 3: (7, 5, 5)}

#: By how much a change may seem to pay, in parts of the cost of a random pair: rounding.
ROUNDING = 1e-9


class SimilarityContract(Contract):
    """What makes a number a cost of an ill match.

    Example::

        class TestMine(SimilarityContract):
            @pytest.fixture
            def part(self):
                return MySimilarityConfig(radius=2)

    The part has to be built with ``reduction="sum"``, as it is by default.
    """

    base = Similarity
    memory = 60

    def images(
        self, shape: tuple[int, ...], *, batch: int = 1, dtype: torch.dtype = torch.float64
    ) -> list[Tensor]:
        """Two images that have something in common, positive, and a weight in [0.2, 1]."""
        draw = torch.Generator().manual_seed(0)
        fixed, noise, weight = torch.rand(3, batch, 1, *shape, generator=draw, dtype=torch.float64)
        moved = fixed + 0.5 * noise
        return [t.to(self.device, dtype) for t in (moved + 0.2, fixed + 0.2, 0.2 + 0.8 * weight)]

    def test_the_gradient_by_the_moved_image_is_right(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            moved, fixed, weight = self.images(SHAPES[dim])
            is_its_gradient(lambda m, f=fixed, w=weight: built(m, f, w), moved)

    def test_an_image_is_nearest_to_itself(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            moved, image, weight = self.images(SHAPES[dim])
            best = built(image, image, weight)
            for other in (moved, image.flip(-1), image.roll(1, 2), image.roll(-1, -1)):
                assert built(other, image, weight) > best, "another image costs no more than the image itself"

    def test_an_image_stays_on_itself_where_that_is_claimed(
        self, built: Any, dims: tuple[int, ...], capabilities: Capabilities
    ) -> None:
        for dim in dims if capabilities.stationary else ():
            moved, image, weight = self.images(SHAPES[dim])
            soft = _smoothed(image)  # nearly flat in places, where a window's contrast is small
            for still, other in ((image, moved), (soft, _smoothed(moved))):
                usual, scale = _value_and_gradient(built, other, still, weight)
                best, steep = _value_and_gradient(built, still, still, weight)
                assert float(steep.abs().max()) <= 1e-6 * float(scale.abs().max()), (
                    f"compared with itself, the gradient is {float(steep.abs().max()):.3g}"
                )
                for change in beside(still):
                    cost = float(built(change, still, weight))
                    assert cost >= float(best) - ROUNDING * abs(float(usual)), (
                        f"an image that is a little changed costs {cost:.12g}, less than itself, {float(best):.12g}"
                    )

    def test_voxels_of_weight_zero_cannot_matter(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            moved, fixed, weight = self.images(SHAPES[dim])
            weight[(slice(None), slice(None), *[slice(1, 4)] * dim)] = 0
            weight[..., -1] = 0
            expected = _value_and_gradient(built, moved, fixed, weight)
            for damage in (1e3, -1e12):
                hurt = [torch.where(weight > 0, image, damage) for image in (moved, fixed)]
                for a, b in ((hurt[0], fixed), (moved, hurt[1]), (hurt[0], hurt[1])):
                    told = _value_and_gradient(built, a, b, weight)
                    torch.testing.assert_close(told, expected, rtol=1e-10, atol=1e-12)
            assert bool((expected[1][weight == 0] == 0).all()), "a gradient where nothing is compared"

    def test_no_weight_is_a_weight_of_one(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            moved, fixed, weight = self.images(SHAPES[dim])
            torch.testing.assert_close(built(moved, fixed), built(moved, fixed, torch.ones_like(weight)))

    def test_nothing_to_compare_costs_nothing(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            moved, fixed, weight = self.images(SHAPES[dim])
            assert float(built(moved, fixed, 0 * weight)) == 0

    def test_flat_images_have_a_finite_cost_and_gradient(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            _, fixed, weight = self.images(SHAPES[dim])
            for level in (0.0, 0.7):
                flat = torch.full_like(fixed, level)
                for other in (fixed, flat):
                    value, gradient = _value_and_gradient(built, flat, other, weight)
                    assert bool(value.isfinite()) and bool(gradient.isfinite().all())

    def test_it_does_not_know_how_the_scan_lies(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            images = self.images(SHAPES[dim])
            for flips, order in turns(dim):
                turned = [t.flip([2 + a for a in flips]).permute(0, 1, *[2 + a for a in order]) for t in images]
                torch.testing.assert_close(built(*turned), built(*images))

    def test_a_batch_is_the_sum_of_its_elements(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            images = self.images(SHAPES[dim], batch=3)
            images[0][1] *= 4
            images[2][1, ..., :3] = 0
            alone = [built(*[t[i : i + 1] for t in images]) for i in range(3)]
            torch.testing.assert_close(built(*images), torch.stack(alone).sum())

    def test_dtype_and_device_stay(self, built: Any, dims: tuple[int, ...]) -> None:
        for dtype in (torch.float32, torch.float64):
            images = self.images(SHAPES[dims[-1]], dtype=dtype)
            value, gradient = _value_and_gradient(built, *images)
            assert (value.dtype, value.device, value.shape) == (dtype, images[0].device, ())
            assert (gradient.dtype, gradient.device) == (dtype, images[0].device)

    def test_single_precision_is_near_double(self, built: Any, dims: tuple[int, ...]) -> None:
        images = self.images(SHAPES[dims[-1]])
        single = built(*[t.float() for t in images])
        torch.testing.assert_close(single.double(), built(*images).double(), rtol=1e-3, atol=1e-3)

    def test_inputs_are_not_written_to(self, built: Any, dims: tuple[int, ...]) -> None:
        images = self.images(SHAPES[dims[-1]])
        stays_untouched(lambda: built(*images), *images)

    def test_images_on_two_grids_are_refused(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            moved, fixed, weight = self.images(SHAPES[dim])
            refuses(partial(built, moved[..., 1:], fixed, weight), GridMismatch)
            refuses(partial(built, moved[..., :1], fixed, weight), GridMismatch)
            refuses(partial(built, moved, fixed, weight[..., :1]), GridMismatch)

    def test_it_holds_few_images_at_once(self, built: Any, dims: tuple[int, ...]) -> None:
        if 3 in dims:
            images = self.images((32, 32, 32), dtype=torch.float32)
            holds_little(lambda: _value_and_gradient(built, *images), self.memory)


def _value_and_gradient(built: Any, moved: Tensor, fixed: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cost and its gradient by the moved image."""
    moved = moved.detach().clone().requires_grad_()
    cost = built(moved, fixed, weight)
    return cost.detach(), torch.autograd.grad(cost, moved)[0]


def _smoothed(image: Tensor) -> Tensor:
    """The same image with its contrast falling off to almost nothing along the first axis."""
    fall = torch.logspace(0, -3, image.shape[2], dtype=image.dtype, device=image.device)
    mean = image.mean()
    return mean + (image - mean) * fall.view(1, 1, -1, *[1] * (image.ndim - 3))
