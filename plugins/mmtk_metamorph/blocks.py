"""The residual blocks of MetaMorph-R: what takes the place of the divergence in the momentum's equation."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmtk.types import Image

__all__ = ["ResidualBlock", "begin_at_zero", "channels_last", "residual_blocks"]


class ResidualBlock(nn.Module):
    r"""Returns ``f(z_t, I_t, J)``, the rate at which the momentum falls (thesis eq. 5.6, fig. 5.2 b).

    A convolution, a leaky ReLU, and two more convolutions (ISBI 2022, below eq. 5); a second ReLU between those two,
    without which they would be one. The last begins at zero: an untrained network leaves the momentum as it is.

    Args:
        dim: 2 or 3.
        channels: Of each image.
        hidden: Channels within. 60 makes the thesis's 1.5 million parameters in 3-D at 15 steps.
        scale: Momenta are handed to the network divided by this, and its answer is multiplied by it.
        half: Convolve in bfloat16; momenta stay in float32.
    """

    def __init__(
        self, dim: int, channels: int = 1, hidden: int = 32, scale: float = 100.0, half: bool = False
    ) -> None:
        super().__init__()
        conv = {2: nn.Conv2d, 3: nn.Conv3d}[dim]
        self.scale, self.narrow = scale, half
        self.body = nn.Sequential(
            conv(3 * channels, hidden, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            conv(hidden, hidden, 3, padding=1),
            nn.LeakyReLU(0.2, inplace=True),
            conv(hidden, channels, 3, padding=1),
        )
        begin_at_zero(self.body[-1])
        self.format = channels_last(dim)
        self.body.to(memory_format=self.format)  # type: ignore[call-overload]

    def forward(self, momentum: Image, image: Image, fixed: Image) -> Tensor:
        """Return the rate, ``(B, C, *space)``, in the momentum's unit per unit time."""
        stacked = torch.cat([momentum / self.scale, image, fixed], dim=1).to(memory_format=self.format)
        with torch.autocast(stacked.device.type, torch.bfloat16, enabled=self.narrow):
            rate = self.body(stacked)
        return rate.to(momentum.dtype).contiguous() * self.scale


def channels_last(dim: int) -> torch.memory_format:
    """Return the order in memory in which convolutions are fastest, by a factor of 1.5 to 2 on a CPU."""
    return torch.channels_last if dim == 2 else torch.channels_last_3d


def begin_at_zero(layer: nn.Module) -> None:
    """Let a layer answer 0 until it has learned something else."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def residual_blocks(
    steps: int, dim: int, channels: int, hidden: int, scale: float, half: bool = False
) -> nn.ModuleList:
    """Return one block for each time step but the last, whose answer nothing would use; none is shared."""
    return nn.ModuleList(ResidualBlock(dim, channels, hidden, scale, half) for _ in range(steps - 1))
