"""Images whose content is known in mm, so that one scene can be sampled on any grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmtk.fields import Grid, identity

__all__ = ["GRIDS", "LARGE", "beside", "blob", "finer", "turned"]

#: Of about 10 cm, on which a contract's scenes are sampled; voxels are oblong.
GRIDS = {2: Grid((24, 28), (4.0, 3.5)), 3: Grid((20, 22, 18), (4.0, 4.0, 5.0))}
#: Where memory is measured.
LARGE = Grid((32, 32, 32), (3.0, 3.0, 3.0))


def blob(
    grid: Grid,
    center: Sequence[float],
    radii: Sequence[float],
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> Tensor:
    """Return a soft ellipsoid ``(1, 1, *space)`` in [0, 1]; ``center`` in mm from that of the grid, ``radii`` in mm."""
    x = identity(grid.shape, dtype=dtype)
    x = x * grid.per_axis(x)
    at = [e / 2 + c for e, c in zip(grid.extent, center, strict=False)]
    far = [(x[:, a] - at[a]) / radii[a] for a in range(grid.dim)]
    radius = torch.stack([f.square() for f in far], 1).sum(1, keepdim=True).sqrt()
    return torch.sigmoid((1 - radius) * 8).to(device)


def finer(grid: Grid) -> Grid:
    """Return the grid with voxels half as long along its first axis: every other one is a voxel of ``grid``."""
    return Grid((2 * grid.shape[0] - 1, *grid.shape[1:]), (grid.spacing[0] / 2, *grid.spacing[1:]))


def turned(image: Tensor, flips: Sequence[int], order: Sequence[int], *, vector: bool = False) -> Tensor:
    """Return an image ``(B, C, *space)`` with axes flipped and then put in another order.

    Args:
        vector: The channels are components along the axes: they change sign and places with them.
    """
    image = image.flip([2 + a for a in flips])
    if vector:
        signs = image.new_tensor([-1.0 if a in flips else 1.0 for a in range(len(order))])
        image = (image * signs.view(1, -1, *[1] * len(order)))[:, list(order)]
    return image.permute(0, 1, *[2 + a for a in order]).contiguous()


def beside(image: Tensor) -> Iterator[Tensor]:
    """Yield images beside one: brighter, of more and less contrast, sharper, smoother, noisy; near, and nearer."""
    draw = torch.Generator().manual_seed(2)
    space = tuple(range(2, image.ndim))
    smooth = torch.stack([image.roll(step, axis) for axis in space for step in (1, -1)]).mean(0) - image
    noise = torch.randn(image.shape, generator=draw, dtype=torch.float64).to(image)
    for way in (torch.ones_like(image), image - image.mean(space, keepdim=True), smooth, noise):
        for size in (1e-3, -1e-3, 0.05, -0.05):
            yield image + size * way
