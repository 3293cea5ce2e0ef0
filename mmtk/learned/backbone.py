"""The U-Net of every model that predicts one field: MONAI's VoxelMorph U-Net, for images of any size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Backbone"]


class Backbone(nn.Module):
    """MONAI's ``VoxelMorphUNet`` with any number of answers, on images of any size; untrained, it answers 0.

    Images are padded at their ends to a size that the levels divide, by their border values.

    Args:
        dim: 2 or 3.
        channels: Of the input, an even number.
        out: Channels of the answer.
        widths: Channels of the levels, finest first; each halves the size.
        half: Convolve in bfloat16; the answer is float32.
    """

    def __init__(
        self, dim: int, channels: int, out: int, widths: Sequence[int] = (16, 32, 32, 32), half: bool = False
    ) -> None:
        super().__init__()
        from monai.networks.nets.voxelmorph import VoxelMorphUNet

        self.net = VoxelMorphUNet(
            spatial_dims=dim,
            in_channels=channels,
            unet_out_channels=widths[-1],
            channels=[c for width in widths for c in (width, widths[-1])],  # the way down and the way up
            final_conv_channels=(widths[0], widths[0]),
        )
        # MONAI answers one channel for each dimension; a momentum has one for each channel of the image.
        answer = (nn.Conv2d if dim == 2 else nn.Conv3d)(widths[0], out, 3, padding=1)
        for parameter in answer.parameters():
            nn.init.zeros_(parameter)
        self.net.net[1].final_conv_out = answer
        self.narrow, self.multiple = half, 2 ** len(widths)
        self.format = torch.channels_last if dim == 2 else torch.channels_last_3d
        self.net.to(memory_format=self.format)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(B, out, *space)`` for ``(B, channels, *space)``."""
        space = images.shape[2:]
        missing = [-n % self.multiple for n in space]
        padding = [side for m in reversed(missing) for side in (0, m)]
        padded = F.pad(images, padding, mode="replicate").to(memory_format=self.format)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.narrow):
            answer = self.net(padded)
        kept = (slice(None), slice(None), *(slice(0, n) for n in space))
        return answer[kept].to(images.dtype).contiguous()
