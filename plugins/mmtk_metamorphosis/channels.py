"""Which channels count, and how: the multichannel form stays one pair with one similarity for the solvers.

pair        moving, fixed (1, C, *space); masks (1, 1, *space) for all channels, or (1, C, *space)
weights     one number >= 0 for each channel; one of 0 is left out before anything is computed
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from mmtk.errors import ConfigError
from mmtk.method import Pair
from mmtk.result import Registration
from mmtk.similarity import ChannelSimilarity, Similarity

__all__ = ["Channels"]


class Channels:
    """The channels of a pair that are compared.

    Args:
        count: Channels of the images.
        weights: One for each; if None, all of them together count as much as one image alone.
        parts: What compares each; one for all.

    Raises:
        ConfigError: If there are not as many weights or similarities as channels, or no weight is positive.
    """

    def __init__(self, count: int, weights: Sequence[float] | None, parts: Sequence[Similarity]) -> None:
        weights = (1.0 / count,) * count if weights is None else tuple(weights)
        problems = []
        if len(weights) != count:
            problems.append(f"channel_weights: {len(weights)} for {count} channels; give one for each")
        if len(parts) not in (1, count):
            problems.append(f"channel_similarity: {len(parts)} for {count} channels; give one for each")
        if not any(weights):
            problems.append("channel_weights: all are 0, and nothing would be compared; give one above 0")
        if problems:
            raise ConfigError(problems)
        self.kept = [c for c, weight in enumerate(weights) if weight > 0]
        self.count = count
        chosen = [parts[c if len(parts) > 1 else 0] for c in self.kept]
        shares = [weights[c] for c in self.kept]
        self.similarity = chosen[0] if shares == [1.0] else ChannelSimilarity(chosen, shares)

    def of(self, pair: Pair) -> Pair:
        """Return the pair with the channels that count."""
        if len(self.kept) == self.count:
            return pair

        def cut(image: torch.Tensor | None) -> torch.Tensor | None:
            return image if image is None or image.shape[1] == 1 else image[:, self.kept]

        moving, fixed = pair.moving[:, self.kept], pair.fixed[:, self.kept]
        return replace(pair, moving=moving, fixed=fixed, mask=cut(pair.mask), fixed_mask=cut(pair.fixed_mask))

    def back(self, found: Registration) -> Registration:
        """Return what was found with an appearance for every channel; one that does not count keeps its intensities."""
        change = found.appearance
        if change is None or len(self.kept) == self.count:
            return found
        whole = change.new_zeros(1, self.count, *change.shape[2:])
        whole[:, self.kept] = change
        return replace(found, appearance=whole)
