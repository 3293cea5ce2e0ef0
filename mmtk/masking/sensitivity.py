"""How much a registration depends on its mask: the same run with the mask dilated, eroded and left out.

Nobody draws a lesion twice alike, and a segmenter draws it worse. What stays when the border moves by some millimeters
can be trusted; what changes is the mask's word, not the images'.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from scipy import ndimage
from torch import Tensor

from mmtk.config import ComponentConfig
from mmtk.method import Pair
from mmtk.prepare import Prepared
from mmtk.result import Registration

__all__ = ["MARGIN", "sensitivity"]

#: mm by which the mask is dilated and eroded, and within which of it a change counts as near.
MARGIN, NEAR = 3.0, 10.0


def sensitivity(prepared: Prepared, method: ComponentConfig, found: Registration) -> dict[str, float]:
    """Register three times more and return by how many mm the displacement changes.

    Args:
        prepared: The pair, with a mask.
        method: What registered it.
        found: What it found with the mask as it is.

    Returns:
        For ``dilated``, ``eroded`` and ``left_out`` the mean change within 10 mm of the placed mask's border and beyond,
        outside of the mask, where the fixed image is not background: ``dilated_near_mm``, ``dilated_far_mm``, ...
    """
    pair = prepared.pair
    assert pair.mask is not None
    spacing = pair.grid.spacing
    inside = (pair.mask.amax(1) > 0.5)[0].cpu().numpy()
    out = ndimage.distance_transform_edt(~inside, sampling=spacing)
    deep = ndimage.distance_transform_edt(inside, sampling=spacing)
    masks: dict[str, Tensor | None] = {
        "dilated": _as_mask(out <= MARGIN, pair),
        "eroded": _as_mask(deep > MARGIN, pair) if (deep > MARGIN).any() else None,
        "left_out": None,
    }
    fixed = pair.fixed[0, 0]
    tissue = (fixed != fixed[(0,) * fixed.ndim]).cpu().numpy() & ~inside
    near, far = (torch.from_numpy(tissue & place) for place in (out <= NEAR, out > NEAR))
    numbers = {}
    for name, mask in masks.items():
        other = method.build().register(replace(pair, mask=mask))
        moved = (other.displacement - found.displacement) * pair.grid.per_axis(found.displacement)
        length = moved.norm(dim=1)[0].detach().cpu()
        for where, part in (("near", near), ("far", far)):
            numbers[f"{name}_{where}_mm"] = float(length[part].mean()) if bool(part.any()) else float("nan")
    return numbers


def _as_mask(inside: object, pair: Pair) -> Tensor:
    return torch.as_tensor(inside).to(pair.fixed)[None, None]
