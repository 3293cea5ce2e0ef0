"""Laws of every regularizer."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.regularizers import Deformation, Regularizer
from mmtk.testing.base import Contract, holds_little, is_its_gradient, refuses, stays_untouched, turns

__all__ = ["RegularizerContract"]

GRIDS = {2: Grid((5, 4), (0.5, 2.0)), 3: Grid((4, 3, 3), (1.0, 0.5, 2.0))}
VECTORS = ("displacement", "inverse", "velocity")
SMOOTH = ("displacement", "inverse", "velocity", "velocity_norm", "residual")


class RegularizerContract(Contract):
    """What makes a number a price of a deformation: an integral in mm that is 0 at rest.

    Every field of a :class:`mmtk.regularizers.Deformation` is given, and what the part does not read cannot matter
    to it. ``velocity`` is given on the nodes of the grid itself.

    Example::

        class TestMine(RegularizerContract):
            @pytest.fixture
            def part(self):
                return MyRegularizerConfig()
    """

    base = Regularizer
    memory = 60

    def deformation(
        self, grid: Grid, *, batch: int = 1, scale: float = 0.4, dtype: torch.dtype = torch.float64
    ) -> Deformation:
        """A random deformation, far from smooth, with all of its fields."""
        draw = torch.Generator().manual_seed(0)

        def random(channels: int) -> Tensor:
            field = torch.randn(batch, channels, *grid.shape, generator=draw, dtype=torch.float64)
            return (scale * field).to(self.device, dtype)

        return Deformation(
            grid=grid,
            displacement=random(grid.dim),
            inverse=random(grid.dim),
            velocity=random(grid.dim),
            velocity_norm=random(1).square().sum(),
            residual=random(1),
            mask=random(1).sigmoid(),
        )

    def waves(self, shape: tuple[int, int]) -> Deformation:
        """The same smooth deformation of 12 by 24 mm, which folds in places, sampled on any grid."""
        grid = Grid(shape, (12 / shape[0], 24 / shape[1]))
        axes = [(torch.arange(n, dtype=torch.float64) + 0.5) * (2 * math.pi / n) for n in shape]
        a, b = (t[None, None] for t in torch.meshgrid(*axes, indexing="ij"))
        displacement = torch.cat([2.5 * a.sin() * b.cos(), 2 * (a + b).cos()], 1)
        inverse = torch.cat([-2 * a.sin() * b.cos(), 1.5 * (a - b).sin()], 1)
        in_voxels = [(v / grid.per_axis(v)).to(self.device) for v in (displacement, inverse)]
        return Deformation(
            grid=grid,
            displacement=in_voxels[0],
            inverse=in_voxels[1],
            velocity=in_voxels[0],
            velocity_norm=torch.tensor(3.0, dtype=torch.float64, device=self.device),
            residual=(a.cos() + b.sin()).to(self.device),
            mask=(0.5 + 0.4 * (a - b).cos()).to(self.device),
        )

    def test_rest_costs_nothing_and_nothing_pays(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            assert float(built(self.deformation(GRIDS[dim], scale=0.0))) == 0
            assert float(built(self.deformation(GRIDS[dim], scale=2.0))) >= 0

    def test_the_gradient_is_right(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            given = self.deformation(GRIDS[dim])
            inputs = [getattr(given, name) for name in SMOOTH]

            def price(*inputs: Tensor, given: Deformation = given) -> Tensor:
                changed: dict[str, Any] = dict(zip(SMOOTH, inputs, strict=True))
                return built(replace(given, **changed))

            is_its_gradient(price, *inputs)

    def test_the_value_does_not_depend_on_the_resolution(self, built: Any, dims: tuple[int, ...]) -> None:
        if 2 in dims:
            coarse, fine, oblong = (float(built(self.waves(shape))) for shape in ((64, 64), (128, 128), (64, 128)))
            assert abs(coarse - fine) <= 0.05 * abs(fine), (
                f"{coarse} on voxels twice as wide, {fine} on finer ones"
            )
            assert abs(oblong - fine) <= 0.05 * abs(fine), f"{oblong} on oblong voxels, {fine} on square ones"

    def test_it_does_not_know_how_the_scan_lies(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            given = self.deformation(GRIDS[dim], scale=2.0)
            for flips, order in turns(dim):
                torch.testing.assert_close(built(_turned(given, flips, order)), built(given))

    def test_a_batch_is_the_sum_of_its_elements(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            batch = self.deformation(GRIDS[dim], batch=3, scale=2.0)
            thirds = [_element(batch, i) for i in range(3)]
            torch.testing.assert_close(built(batch), torch.stack([built(third) for third in thirds]).sum())

    def test_dtype_and_device_stay(self, built: Any, dims: tuple[int, ...]) -> None:
        for dtype in (torch.float32, torch.float64):
            given = self.deformation(GRIDS[dims[-1]], dtype=dtype)
            price = built(given)
            assert (price.dtype, price.device, price.shape) == (dtype, given.mask.device, ())  # type: ignore[union-attr]

    def test_inputs_are_not_written_to(self, built: Any, dims: tuple[int, ...]) -> None:
        given = self.deformation(GRIDS[dims[-1]])
        stays_untouched(lambda: built(given), *_tensors(given).values())

    def test_what_it_needs_and_is_not_given_is_told(self, built: Any, dims: tuple[int, ...]) -> None:
        refuses(lambda: built(Deformation(grid=GRIDS[dims[-1]])), ConfigError)

    def test_residual_outside_the_mask_cannot_matter(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            given = self.deformation(GRIDS[dim])
            assert given.mask is not None and given.residual is not None
            mask = given.mask.clone()
            mask[..., 1] = 0
            hurt = torch.where(mask > 0, given.residual, 1e6)
            masked = replace(given, mask=mask)
            torch.testing.assert_close(built(replace(masked, residual=hurt)), built(masked))

    def test_it_holds_few_images_at_once(self, built: Any, dims: tuple[int, ...]) -> None:
        if 3 not in dims:
            return
        given = self.deformation(Grid((32, 32, 32), (1.0, 1.0, 1.0)), dtype=torch.float32)
        assert given.displacement is not None
        u = given.displacement.requires_grad_()

        def price_and_gradient() -> None:
            price = built(given)
            if price.requires_grad:
                torch.autograd.grad(price, u)

        holds_little(price_and_gradient, self.memory)


def _tensors(given: Deformation) -> dict[str, Tensor]:
    """The fields of a deformation by name, without its grid."""
    return {f.name: getattr(given, f.name) for f in fields(given) if f.name != "grid"}


def _element(batch: Deformation, index: int) -> Deformation:
    """One of three elements of a batch. The norm of all, a single number, is shared out."""
    tensors = _tensors(batch)
    norm = tensors.pop("velocity_norm")
    return Deformation(
        grid=batch.grid, velocity_norm=norm / 3, **{name: t[index : index + 1] for name, t in tensors.items()}
    )


def _turned(given: Deformation, flips: tuple[int, ...], order: tuple[int, ...]) -> Deformation:
    """The same deformation, with axes flipped and then put in another order."""
    signs = torch.tensor([-1.0 if a in flips else 1.0 for a in range(given.grid.dim)], dtype=torch.float64)
    turned = {}
    for name, t in _tensors(given).items():
        if name == "velocity_norm":
            continue
        t = t.flip([2 + a for a in flips])
        if name in VECTORS:
            t = (t * signs.to(t).view(1, -1, *[1] * given.grid.dim))[:, list(order)]
        turned[name] = t.permute(0, 1, *[2 + a for a in order])
    grid = Grid(tuple(given.grid.shape[a] for a in order), tuple(given.grid.spacing[a] for a in order))
    return Deformation(grid=grid, velocity_norm=given.velocity_norm, **turned)
