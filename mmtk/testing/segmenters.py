"""Laws of every segmenter, on a head with a bright spot."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from mmtk.config import Capabilities
from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.segmenters import PairSegmenter, Segmenter
from mmtk.testing.base import Contract, holds_little, refuses, stays_untouched, turns
from mmtk.testing.phantoms import GRIDS, LARGE, blob, finer, turned

__all__ = ["SegmenterContract"]


class SegmenterContract(Contract):
    """What makes a mask one of a lesion: it is a region of the image, whatever the array and the unit.

    A segmenter that looks for something else than a bright spot gets its own :meth:`image`, a scene told in mm. What
    is whole numbers, what knows no unit of intensity and no size of voxels, ``capabilities`` claim.

    Attributes:
        channels: That the segmenter takes.
        agreement: Share of the mask that may change where the scan lies otherwise on its grid, or its unit is
            another. A network that was trained, and is not equivariant by its layers, needs more.
        sharpness: Likewise, where the voxels are others.

    Example::

        class TestMine(SegmenterContract):
            @pytest.fixture
            def part(self):
                return MySegmenterConfig()
    """

    base = Segmenter
    memory = 60
    channels: ClassVar[int] = 1
    agreement: ClassVar[float] = 0.02
    sharpness: ClassVar[float] = 0.1

    def image(self, grid: Grid, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """A scene ``(1, channels, *space)``: a head of about 6 cm with a bright spot of 2.4 cm.

        Args:
            seed: Which scene: the spot is smaller and elsewhere, and all is brighter, in another.
        """
        place = (8.0, 6.0, 4.0) if seed == 0 else (-7.0, 5.0 - 3 * seed, 3.0)
        head = blob(grid, (0.0, 0.0, 0.0), (30.0, 34.0, 32.0), dtype=dtype)
        spot = blob(grid, place, (12.0 - seed,) * 3, dtype=dtype)
        scene = (1 + seed) * (0.5 * head + 0.5 * spot)
        return scene.expand(1, self.channels, *grid.shape).contiguous().to(self.device)

    def healthy(self, grid: Grid, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """The same scene without the spot: what a segmenter is given that compares with another image."""
        head = blob(grid, (0.0, 0.0, 0.0), (30.0, 34.0, 32.0), dtype=dtype)
        return ((1 + seed) * 0.5 * head).contiguous().to(self.device)

    def scene(self, built: Any, grid: Grid, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
        """The image, and for a :class:`~mmtk.segmenters.PairSegmenter` its reference as a last channel."""
        image = self.image(grid, seed=seed, dtype=dtype)
        if not isinstance(built, PairSegmenter):
            return image
        return torch.cat([image, self.healthy(grid, seed=seed, dtype=dtype)], 1)

    def mask(self, built: Any, scene: Tensor, spacing: tuple[float, ...]) -> Tensor:
        """Return the mask of a scene."""
        mask: Tensor
        if isinstance(built, PairSegmenter):
            mask = built(scene[:, : self.channels], spacing, scene[:, self.channels :])
        else:
            mask = built(scene, spacing)
        return mask

    def test_the_mask_lies_on_the_grid_and_within_0_and_1(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            grid = GRIDS[dim]
            mask = self.mask(built, self.scene(built, grid), grid.spacing)
            assert mask.shape == (1, 1, *grid.shape), f"the mask has shape {tuple(mask.shape)}"
            assert bool(((mask >= 0) & (mask <= 1)).all()), "the mask leaves [0, 1]"
            assert not mask.requires_grad, "a mask is no function to be differentiated; detach it"

    def test_it_finds_a_part_of_the_image(self, built: Any, dims: tuple[int, ...]) -> None:
        # An empty mask and a full one keep every other law.
        for dim in dims:
            grid = GRIDS[dim]
            share = float(self.mask(built, self.scene(built, grid), grid.spacing).mean())
            assert 0 < share < 0.9, f"{share:.0%} of the image is marked; give the contract an `image` of yours"

    def test_the_mask_is_0_or_1_where_that_is_claimed(
        self, built: Any, dims: tuple[int, ...], capabilities: Capabilities
    ) -> None:
        for dim in dims if capabilities.binary else ():
            mask = self.mask(built, self.scene(built, GRIDS[dim]), GRIDS[dim].spacing)
            assert bool(((mask == 0) | (mask == 1)).all()), "there are values between 0 and 1"

    def test_a_flat_image_has_a_mask_too(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            for level in (0.0, 0.7):
                mask = self.mask(built, torch.full_like(self.scene(built, GRIDS[dim]), level), GRIDS[dim].spacing)
                assert bool(((mask >= 0) & (mask <= 1)).all()), f"an image of {level} throughout has no mask"

    def test_it_does_not_know_how_the_scan_lies(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            grid = GRIDS[dim]
            image = self.scene(built, grid)
            straight = self.mask(built, image, grid.spacing)
            for flips, order in turns(dim):
                spacing = tuple(grid.spacing[a] for a in order)
                self.agrees(
                    self.mask(built, turned(image, flips, order), spacing),
                    turned(straight, flips, order),
                    self.agreement,
                )

    def test_the_size_of_voxels_does_not_matter_where_that_is_claimed(
        self, built: Any, dims: tuple[int, ...], capabilities: Capabilities
    ) -> None:
        for dim in dims if capabilities.any_spacing else ():
            grid, fine = GRIDS[dim], finer(GRIDS[dim])
            mask, other = (self.mask(built, self.scene(built, g), g.spacing) for g in (grid, fine))
            self.agrees(other[:, :, ::2], mask, self.sharpness)

    def test_the_unit_of_intensity_does_not_matter_where_that_is_claimed(
        self, built: Any, dims: tuple[int, ...], capabilities: Capabilities
    ) -> None:
        for dim in dims if capabilities.any_intensity else ():
            image, spacing = self.scene(built, GRIDS[dim]), GRIDS[dim].spacing
            for factor in (1e-3, 4.0, 1e3):
                self.agrees(
                    self.mask(built, factor * image, spacing), self.mask(built, image, spacing), self.agreement
                )

    def test_a_batch_equals_its_elements(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            grid = GRIDS[dim]
            images = [self.scene(built, grid, seed=seed) for seed in range(3)]
            alone = torch.cat([self.mask(built, image, grid.spacing) for image in images])
            torch.testing.assert_close(self.mask(built, torch.cat(images), grid.spacing), alone)

    def test_dtype_and_device_stay(self, built: Any, dims: tuple[int, ...]) -> None:
        for dtype in (torch.float32, torch.float64):
            image = self.scene(built, GRIDS[dims[-1]], dtype=dtype)
            try:
                mask = self.mask(built, image, GRIDS[dims[-1]].spacing)
            except RuntimeError as error:
                raise AssertionError(f"an image of {dtype} is not taken: {error}") from error
            assert (mask.dtype, mask.device) == (dtype, image.device)

    def test_it_finds_the_same_twice(self, built: Any, dims: tuple[int, ...]) -> None:
        grid = GRIDS[dims[0]]
        image = self.scene(built, grid)
        first = self.mask(built, image, grid.spacing)
        torch.rand(3)  # something else was drawn
        self.mask(built, self.scene(built, grid, seed=1), grid.spacing)  # and another image seen
        assert torch.equal(self.mask(built, image, grid.spacing), first), (
            "one image has two masks; is a network in eval mode?"
        )

    def test_inputs_are_not_written_to(self, built: Any, dims: tuple[int, ...]) -> None:
        image = self.scene(built, GRIDS[dims[-1]])
        stays_untouched(lambda: self.mask(built, image, GRIDS[dims[-1]].spacing), image)

    def test_what_does_not_fit_is_refused(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            image, spacing = self.scene(built, GRIDS[dim]), GRIDS[dim].spacing
            refuses(partial(self.mask, built, image, spacing[:-1]), ConfigError)
            refuses(partial(self.mask, built, image, (*spacing[:-1], 0.0)), ConfigError)
            refuses(partial(self.mask, built, image.flatten(2), (1.0,)), ConfigError)

    def test_it_holds_few_images_at_once(self, built: Any, dims: tuple[int, ...]) -> None:
        if 3 not in dims:
            pytest.skip("memory is measured in 3-D")
        image = self.scene(built, LARGE)
        holds_little(lambda: self.mask(built, image, LARGE.spacing), self.memory)

    def agrees(self, found: Tensor, expected: Tensor, share: float) -> None:
        """Hold two masks to one another, up to a share of what is marked."""
        apart, marked = float((found - expected).abs().sum()), float(expected.sum())
        assert apart <= share * marked, f"{apart:.4g} voxels of {marked:.4g} that are marked changed"
