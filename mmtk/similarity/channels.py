"""Several channels of one image, such as the modalities of a scan: each compared in its own way, weighted, and added."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mmtk.errors import ConfigError, GridMismatch
from mmtk.similarity.base import Similarity, check_weight
from mmtk.types import Image, Scalar, Weight

__all__ = ["ChannelSimilarity"]


class ChannelSimilarity(Similarity):
    """The sum over channels of ``weights[c]`` times what ``parts[c]`` says of channel c.

    Args:
        parts: One similarity for each channel; with reduction ``sum``, the default of each.
        weights: One number > 0 for each channel; 1 if None. A channel that is not to count is left out of the images.

    Raises:
        ConfigError: If there are not as many weights as parts, a weight is not positive, or a part does not sum.
    """

    def __init__(self, parts: Sequence[Similarity], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        weights = (1.0,) * len(parts) if weights is None else tuple(float(w) for w in weights)
        problems = []
        if len(weights) != len(parts) or not parts:
            problems.append(
                f"{len(parts)} similarities and {len(weights)} weights: give one of each for each channel"
            )
        if not all(w > 0 for w in weights):
            problems.append(
                f"weights {list(weights)}: each must be positive; leave out a channel that does not count"
            )
        if any(part.reduction != "sum" for part in parts):
            problems.append("channels are added up, so each similarity must have reduction='sum'")
        if problems:
            raise ConfigError(problems)
        self.parts, self.weights = nn.ModuleList(parts), weights
        #: Channels that each part makes of one; known once an image was prepared.
        self.made = [1] * len(parts)

    def prepare(
        self,
        image: Image,
        weight: Weight | None = None,
        scale: int | Sequence[int] = 1,
        spacing: Sequence[float] | None = None,
    ) -> Image:
        if image.shape[1] != len(self.weights):
            raise GridMismatch("image", tuple(image.shape), "similarities", (1, len(self.weights)))
        made = [
            part.prepare(image[:, c : c + 1], _of(weight, c), scale, spacing)  # type: ignore[operator]
            for c, part in enumerate(self.parts)
        ]
        self.made = [channel.shape[1] for channel in made]
        return torch.cat(made, dim=1)

    def compare(self, moved: Image, fixed: Image, weight: Weight | None = None) -> Scalar | Image:
        """Return the sum over channels of two prepared images.

        Args:
            moved, fixed: As :meth:`prepare` returned them.
            weight: ``(B, 1, *space)`` for all channels, or ``(B, C, *space)``, one for each channel of the images.
        """
        if moved.shape != fixed.shape:
            raise GridMismatch("moved", tuple(moved.shape), "fixed", tuple(fixed.shape))
        total = fixed.new_zeros(())
        split = zip(moved.split(self.made, 1), fixed.split(self.made, 1), strict=True)
        for c, (ours, theirs) in enumerate(split):
            total = total + self.weights[c] * self.parts[c].compare(ours, theirs, _of(weight, c))  # type: ignore[operator]
        return total

    def forward(
        self,
        moved: Image,
        fixed: Image,
        weight: Weight | None = None,
        spacing: Sequence[float] | None = None,
    ) -> Scalar | Image:
        if moved.shape != fixed.shape:
            raise GridMismatch("moved", tuple(moved.shape), "fixed", tuple(fixed.shape))
        if weight is not None:
            check_weight(weight, fixed)
        prepared = [self.prepare(image, weight, spacing=spacing) for image in (moved, fixed)]
        return self.compare(prepared[0], prepared[1], weight)

    def cost(self, moved: Image, fixed: Image, weight: Weight) -> Image:
        """Return the weighted costs of channels whose parts make one channel of one, ``(B, C, *space)``."""
        return torch.cat(
            [
                self.weights[c] * part.cost(moved[:, c : c + 1], fixed[:, c : c + 1], _of(weight, c))  # type: ignore[operator]
                for c, part in enumerate(self.parts)
            ],
            dim=1,
        )


def _of(weight: Weight | None, channel: int) -> Tensor | None:
    """Return the weight of one channel."""
    return weight if weight is None or weight.shape[1] == 1 else weight[:, channel : channel + 1]
