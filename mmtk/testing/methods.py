"""Laws of every registration method, on blobs a few centimeters wide."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmtk.config import Capabilities, ComponentConfig, LearnedConfig
from mmtk.fields import Grid, compose, warp
from mmtk.method import Method, Pair
from mmtk.metrics import nondiffeomorphic_volume
from mmtk.result import Outcome, Registration
from mmtk.testing.base import Contract, holds_little, stays_untouched, turns
from mmtk.testing.phantoms import GRIDS, LARGE, blob, finer, turned

__all__ = ["MethodContract"]


class MethodContract(Contract):
    """What makes a method one that registers. Give it settings with which a small pair takes a second or less.

    Folds and inverse are held to account where ``capabilities.diffeomorphic`` claims them. A lesion mask is given
    where a law is about it, and to methods that say that they need one.

    Attributes:
        drift: Voxels by which an image may move that is registered with itself.
        agreement: Share of the motion at the object's edge that may change, on average, where the scan lies
            otherwise on its grid or has other voxels.
        gain: Share of the mean squared difference that may be left.
        shown: Voxels by which a map may change with what a lesion shows that is masked: this and the next are for
            methods whose settings have ``masked``.
        force: Voxels beyond ``drift`` by which an image may move on itself where a lesion under its mask differs.

    Example::

        class TestMine(MethodContract):
            @pytest.fixture
            def part(self):
                return MyMethodConfig(iterations=20)
    """

    base = Method
    memory = 200
    drift = 0.1
    agreement = 0.25
    gain = 0.3
    shown = 0.02
    force = 0.1

    def pair(self, grid: Grid, *, lesion: bool = False) -> Pair:
        """Two ellipsoids of 4 to 6 cm, one a few millimeters beside the other; with a lesion in the moving one."""
        moving = self.blob(grid, (0.0, 0.0, 0.0), (24.0, 28.0, 26.0))
        fixed = self.blob(grid, (3.0, -2.0, 1.0), (29.0, 25.0, 27.0))
        if not lesion:
            return Pair(moving, fixed, grid)
        spot = self.blob(grid, (8.0, 6.0, 4.0), (9.0, 9.0, 9.0))
        return Pair(moving - 0.5 * spot, fixed, grid, mask=(spot > 0.1).to(moving))

    def blob(self, grid: Grid, center: Sequence[float], radii: Sequence[float]) -> Tensor:
        """A soft ellipsoid ``(1, 1, *space)`` in [0, 1]; ``center`` in mm from that of the grid."""
        return blob(grid, center, radii, device=self.device)

    def usual(self, grid: Grid, capabilities: Capabilities) -> Pair:
        """The pair that the method is made for: with a lesion only if it needs one."""
        return self.pair(grid, lesion=capabilities.needs_mask)

    def test_the_maps_lie_on_the_grid_and_are_finite(self, built: Any, capabilities: Capabilities) -> None:
        for dim in capabilities.dims:
            pair = self.usual(GRIDS[dim], capabilities)
            found = built.register(pair)
            assert isinstance(found, Registration) and found.grid == pair.grid
            assert found.outcome.ok, found.outcome.value
            for name in ("displacement", "inverse"):
                u = getattr(found, name)
                assert u.shape == (1, dim, *pair.grid.shape), f"{name} has shape {tuple(u.shape)}"
                assert (u.dtype, u.device) == (pair.fixed.dtype, pair.fixed.device)
                assert bool(u.isfinite().all()) and not u.requires_grad
            if found.appearance is not None:
                assert found.appearance.shape == pair.moving.shape and bool(found.appearance.isfinite().all())

    def test_the_images_come_nearer_to_one_another(self, built: Any, capabilities: Capabilities) -> None:
        for dim in capabilities.dims if capabilities.registers else ():
            pair = self.usual(GRIDS[dim], capabilities)
            before, after = _apart(pair.moving, pair), _apart(_moved(pair, built.register(pair)), pair)
            assert after <= self.gain * before, f"{after / before:.0%} of the squared difference is left"

    def test_an_image_stays_on_itself(self, built: Any, capabilities: Capabilities) -> None:
        if capabilities.needs_mask:  # the lesion is in one of the images alone
            return
        for dim in capabilities.dims:
            pair = self.pair(GRIDS[dim])
            found = built.register(replace(pair, moving=pair.fixed))
            moved = float(found.displacement.abs().max())
            assert moved <= self.drift, f"an image registered with itself moves by {moved:.2f} voxels"
            assert found.appearance is None or float(found.appearance.abs().max()) < 0.01

    def test_no_level_ends_worse_than_it_began(self, built: Any, capabilities: Capabilities) -> None:
        for dim in capabilities.dims:
            for level in built.register(self.usual(GRIDS[dim], capabilities)).levels:
                if not level.energies and level.outcome is Outcome.FOREIGN:
                    continue  # another program's energy is not told
                first, last = level.energies[0], level.energies[-1]
                assert last <= first + 1e-5 * abs(first), f"the energy went from {first} to {last}"

    def test_the_maps_do_not_fold_where_that_is_claimed(self, built: Any, capabilities: Capabilities) -> None:
        for dim in capabilities.dims if capabilities.diffeomorphic else ():
            found = built.register(self.usual(GRIDS[dim], capabilities))
            for u in (found.displacement, found.inverse):
                assert nondiffeomorphic_volume(u, found.grid) == 0, "the map folds"

    def test_the_inverse_is_one_where_that_is_claimed(self, built: Any, capabilities: Capabilities) -> None:
        for dim in capabilities.dims if capabilities.diffeomorphic else ():
            found = built.register(self.usual(GRIDS[dim], capabilities))
            inner = (
                slice(None),
                slice(None),
                *[slice(3, -3)] * dim,
            )  # near the border the maps lead out of the grid
            for outer, first in itertools.permutations((found.displacement, found.inverse)):
                error = float(compose(outer, first)[inner].abs().max())
                assert error < 0.25, f"one map after the other misses by {error:.2f} voxels"

    def test_it_does_not_know_how_the_scan_lies(self, built: Any, capabilities: Capabilities) -> None:
        if not capabilities.registers:
            return
        dim = min(capabilities.dims)
        pair = self.usual(GRIDS[dim], capabilities)
        straight = _millimeters(built.register(pair))
        for flips, order in turns(dim):
            other = _turned(pair, flips, order)
            found = _millimeters(built.register(other))
            self.agrees(found, turned(straight, flips, order, vector=True), other)

    def test_the_size_of_voxels_does_not_matter(self, built: Any, capabilities: Capabilities) -> None:
        if not capabilities.registers:
            return
        dim = min(capabilities.dims)
        grid = GRIDS[dim]
        pair = self.usual(grid, capabilities)
        coarse = _millimeters(built.register(pair))
        self.agrees(_millimeters(built.register(self.usual(finer(grid), capabilities)))[:, :, ::2], coarse, pair)

    def agrees(self, found: Tensor, expected: Tensor, pair: Pair) -> None:
        """Hold two motions in mm to one another where the fixed image has an edge; elsewhere nothing drives them."""
        edge = (pair.fixed[:, 0] - 0.5).abs() < 0.4
        error, motion = (float(u.square().sum(1).sqrt()[edge].mean()) for u in (found - expected, expected))
        assert motion > 1, "nothing moves"
        assert error <= self.agreement * motion, f"{error:.2f} mm of a motion of {motion:.2f} mm are others"

    def test_what_lies_under_the_fixed_mask_cannot_matter(self, built: Any, capabilities: Capabilities) -> None:
        dim = min(capabilities.dims)
        pair = self.usual(GRIDS[dim], capabilities)
        hole = torch.zeros_like(pair.fixed)
        hole[(slice(None), slice(None), *[slice(9, 14)] * dim)] = 1
        masked = replace(pair, fixed_mask=hole)
        hurt = replace(masked, fixed=torch.where(hole > 0, 3.0, pair.fixed))
        expected, found = built.register(masked), built.register(hurt)
        torch.testing.assert_close(found.displacement, expected.displacement, rtol=0, atol=0.02)

    def test_what_the_lesion_shows_cannot_matter_where_it_is_masked(self, config: ComponentConfig) -> None:
        built = self.masked(config)
        if built is None:
            return
        pair = self.pair(GRIDS[min(config.capabilities.dims)], lesion=True)
        assert pair.mask is not None
        hurt = replace(pair, moving=torch.where(pair.mask > 0, 3.0, pair.moving))
        expected, found = built.register(pair), built.register(hurt)
        torch.testing.assert_close(found.displacement, expected.displacement, rtol=0, atol=self.shown)
        assert expected.appearance is None

    def test_a_lesion_that_is_masked_exerts_no_force(self, config: ComponentConfig) -> None:
        built = self.masked(config)
        if built is None:
            return
        pair = self.pair(GRIDS[min(config.capabilities.dims)], lesion=True)
        assert pair.mask is not None
        same = replace(pair, moving=torch.where(pair.mask > 0, pair.moving, pair.fixed))
        moved = float(built.register(same).displacement.abs().max())
        assert moved <= self.drift + self.force, (
            f"images that differ under the mask alone move by {moved:.2f} voxels"
        )

    def masked(self, config: ComponentConfig) -> Any:
        """The method with its cost masked, if it has that setting and needs no weights for it."""
        learned = isinstance(config, LearnedConfig) and config.weights is not None
        if "masked" not in type(config).model_fields or learned:
            return None
        return self.make(config.model_copy(update={"masked": True}))

    def test_intensity_changes_in_the_lesion_alone(self, built: Any, capabilities: Capabilities) -> None:
        for dim in capabilities.dims:
            pair = self.pair(GRIDS[dim], lesion=True)
            found = built.register(pair)
            if pair.mask is not None and found.appearance is not None:
                healthy = warp(pair.mask, found.displacement) == 0
                assert bool((found.appearance[healthy.expand_as(found.appearance)] == 0).all())

    def test_it_finds_the_same_twice_and_without_gradients(self, built: Any, capabilities: Capabilities) -> None:
        pair = self.usual(GRIDS[min(capabilities.dims)], capabilities)
        first = built.register(pair).displacement
        with torch.no_grad():  # as MONAI's evaluators run it
            torch.testing.assert_close(built.register(pair).displacement, first)

    def test_inputs_are_not_written_to(self, built: Any, capabilities: Capabilities) -> None:
        pair = self.pair(GRIDS[min(capabilities.dims)], lesion=True)
        assert pair.mask is not None
        stays_untouched(lambda: built.register(pair), pair.moving, pair.fixed, pair.mask)

    def test_it_holds_few_images_at_once(self, built: Any, capabilities: Capabilities) -> None:
        if 3 in capabilities.dims:
            pair = self.usual(LARGE, capabilities)
            holds_little(lambda: built.register(pair), self.memory)


def _moved(pair: Pair, found: Registration) -> Tensor:
    """The moving image, carried onto the fixed one and changed."""
    moved = warp(pair.moving, found.displacement)
    return moved if found.appearance is None else moved + found.appearance


def _apart(image: Tensor, pair: Pair) -> float:
    """The mean squared difference from the fixed image."""
    return float((image - pair.fixed).square().mean())


def _millimeters(found: Registration) -> Tensor:
    return found.displacement * found.grid.per_axis(found.displacement)


def _turned(pair: Pair, flips: tuple[int, ...], order: tuple[int, ...]) -> Pair:
    """The same scans, with axes flipped and then put in another order."""

    grid = Grid(tuple(pair.grid.shape[a] for a in order), tuple(pair.grid.spacing[a] for a in order))
    mask = None if pair.mask is None else turned(pair.mask, flips, order)
    return Pair(turned(pair.moving, flips, order), turned(pair.fixed, flips, order), grid, mask=mask)
