r"""The networks: U-Net of teacher and student (thesis fig. 3.8, 3.10), and what they are compared with.

    image     (B, modalities, *space)    each modality scaled to mean 0 and deviation 1 over its foreground
    logits    (B, classes, *space)       of softmax: healthy, necrotic core, edema, enhancing tumor

A network is an encoder, which returns its features from the finest level to the bottleneck, and a decoder, which takes
them; so a teacher and a student can share one decoder (thesis 3.3). Layers have names, by which losses and studies ask
for their features::

    sc1, sc2, sc3    what the skip connections carry, finest first
    bottleneck       the deepest features
    up3, up2, up1    the decoder's, coarsest first; up1 is the layer before the last
    output           the logits
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmtk.errors import ConfigError

__all__ = ["CLASSES", "UHVED", "Decoder", "Encoder", "HeMIS", "UNet", "layers_of", "recorded", "zeroed"]

#: Labels of the classes, in the order of the channels.
CLASSES = (0, 1, 2, 4)

_NORM = ("INSTANCE", {"affine": True})


class Encoder(nn.Module):
    """Two convolutions a level; each level but the first halves the size (nnU-Net's, with a stride of 2).

    Args:
        channels: Of the input.
        widths: Channels of the levels, finest first.
        dim: 2 or 3.
    """

    def __init__(self, channels: int, widths: Sequence[int], dim: int = 3) -> None:
        super().__init__()
        from monai.networks.blocks.dynunet_block import UnetBasicBlock

        before = (channels, *widths[:-1])
        strides = (1, *[2] * (len(widths) - 1))
        self.levels = nn.ModuleList(
            UnetBasicBlock(dim, a, b, 3, stride, _NORM)
            for a, b, stride in zip(before, widths, strides, strict=True)
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return the features of the levels, finest first."""
        features = []
        for level in self.levels:
            image = level(image)
            features.append(image)
        return features


class Decoder(nn.Module):
    """From the bottleneck up to the logits.

    Args:
        widths: As of the encoder.
        classes: Channels of the logits.
        skips: Join the encoder's features at each level; without, the bottleneck alone is decoded (thesis 3.3.1).
        dim: 2 or 3.
    """

    def __init__(self, widths: Sequence[int], classes: int, skips: bool = True, dim: int = 3) -> None:
        super().__init__()
        from monai.networks.blocks.dynunet_block import UnetBasicBlock, UnetOutBlock, get_conv_layer

        self.skips = skips
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))  # coarsest first
        self.ups = nn.ModuleList(
            get_conv_layer(dim, a, b, 2, 2, is_transposed=True, conv_only=True, act=None, norm=None)
            for a, b in pairs
        )
        self.levels = nn.ModuleList(UnetBasicBlock(dim, (1 + skips) * b, b, 3, 1, _NORM) for _, b in pairs)
        self.output = UnetOutBlock(dim, widths[0], classes)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return the logits for features, finest first."""
        *fine, here = features
        for up, level, skip in zip(self.ups, self.levels, reversed(fine), strict=True):
            here = up(here)
            here = level(torch.cat([here, skip], 1) if self.skips else here)
        logits: Tensor = self.output(here)
        return logits


class UNet(nn.Module):
    """nnU-Net's architecture with three down-samplings: the thesis's teacher and student (fig. 3.8 and 3.10).

    Images are padded at their ends to a size that the levels divide.

    Args:
        modalities: Channels of the input.
        classes: Channels of the logits.
        widths: Channels of the levels, finest first; one down-sampling less than there are levels.
        skips: Join encoder and decoder at each level.
        dim: 2 or 3.

    References:
        F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
        Nature Methods 18 (2021) 203-211, doi:10.1038/s41592-020-01008-z. The number of levels: thesis 3.5.5.
    """

    def __init__(
        self,
        modalities: int = 1,
        classes: int = len(CLASSES),
        widths: Sequence[int] = (32, 64, 128, 256),
        skips: bool = True,
        dim: int = 3,
    ) -> None:
        super().__init__()
        self.modalities, self.multiple = modalities, 2 ** (len(widths) - 1)
        self.encoder = Encoder(modalities, widths, dim)
        self.decoder = Decoder(widths, classes, skips, dim)
        _channels_last(self, dim)

    def named_layers(self) -> dict[str, nn.Module]:
        """Return the layers by the names of the module's table."""
        return _unet_layers(self.encoder, self.decoder)

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits ``(B, classes, *space)``."""
        padded, kept = _padded(image, self.multiple)
        logits: Tensor = self.decoder(self.encoder(padded))
        return logits[kept].contiguous()


def _unet_layers(encoder: Encoder, decoder: Decoder) -> dict[str, nn.Module]:
    last = len(encoder.levels) - 1
    named: dict[str, nn.Module] = {f"sc{k + 1}": level for k, level in enumerate(encoder.levels) if k < last}
    named["bottleneck"] = encoder.levels[last]
    named |= {f"up{last - k}": level for k, level in enumerate(decoder.levels)}
    return {**named, "output": decoder.output}


def _channels_last(network: nn.Module, dim: int) -> None:
    """Lay weights out as convolutions on a CPU like them best: half of their time."""
    layout = torch.channels_last if dim == 2 else torch.channels_last_3d
    network.to(memory_format=layout)  # type: ignore[call-overload]


def _padded(image: Tensor, multiple: int) -> tuple[Tensor, tuple[slice, ...]]:
    """Return the image padded at its ends by zeros, and what of it is the image."""
    space = image.shape[2:]
    padding = [side for n in reversed(space) for side in (0, -n % multiple)]
    # The memory format of MONAI's convolutions; an input of another would be copied in each.
    format = torch.channels_last if len(space) == 2 else torch.channels_last_3d
    padded = F.pad(image, padding).to(memory_format=format)
    return padded, (slice(None), slice(None), *(slice(0, n) for n in space))


class HeMIS(nn.Module):
    """Hetero-modal segmentation: modalities meet in the mean and the variance of their features.

    Each modality has two convolutions of its own at full size, and two decode what they share. A modality that is
    missing is left out of mean and variance; of a single one the variance is 0.

    Args:
        modalities: Channels of the input.
        classes: Channels of the logits.
        width: Channels of a modality's features.
        dim: 2 or 3.

    References:
        The idea: M. Havaei et al., "HeMIS: hetero-modal image segmentation", MICCAI 2016; told in the thesis, 3.2.2.
    """

    #: It takes a second argument: which modalities are there.
    hetero_modal = True

    def __init__(self, modalities: int = 4, classes: int = len(CLASSES), width: int = 48, dim: int = 3) -> None:
        super().__init__()
        convolution = nn.Conv2d if dim == 2 else nn.Conv3d
        self.modalities = modalities

        def two(a: int, b: int, c: int) -> nn.Sequential:
            return nn.Sequential(convolution(a, b, 3, padding=1), nn.ReLU(), convolution(b, c, 3, padding=1))

        self.encoders = nn.ModuleList(two(1, width, width) for _ in range(modalities))
        self.decoder = two(2 * width, width, classes)

    def named_layers(self) -> dict[str, nn.Module]:
        """Return the layers that have names."""
        return {"output": self.decoder}

    def forward(self, image: Tensor, present: Sequence[int] | None = None) -> Tensor:
        """Return the logits.

        Args:
            present: Which modalities the channels of ``image`` are; None: all, in their order.
        """
        which = _present(image, present, self.modalities)
        features = torch.stack([self.encoders[k](image[:, i : i + 1]) for i, k in enumerate(which)])
        logits: Tensor = self.decoder(torch.cat(list(_moments(features)), 1))
        return logits


def _present(image: Tensor, present: Sequence[int] | None, modalities: int) -> list[int]:
    which = list(range(modalities)) if present is None else list(present)
    if len(which) != image.shape[1] or not which:
        raise ConfigError(
            f"the image has {image.shape[1]} channels for {len(which)} modalities; say which of {modalities} are there"
        )
    return which


def _moments(features: Tensor) -> tuple[Tensor, Tensor]:
    mean = features.mean(0)
    return mean, ((features - mean) ** 2).sum(0) / max(len(features) - 1, 1)


class UHVED(nn.Module):
    """U-HVED: modalities meet as a product of Gaussians, at every level of a U-Net; modalities are reconstructed.

    Each modality has an encoder of its own, whose features at each level are the mean and the logarithm of the
    variance of a Gaussian. The Gaussians of the modalities that are there, and a standard one, are multiplied; a sample
    of the product (in ``eval`` its mean) is decoded into the segmentation and, in training, into every modality.

    Args:
        modalities: Channels of the input.
        classes: Channels of the logits.
        widths: Channels of the levels, finest first.
        dim: 2 or 3.

    References:
        The idea: R. Dorent et al., "Hetero-modal variational encoder-decoder for joint modality completion and
        segmentation", MICCAI 2019; told in the thesis, 3.2.2.
    """

    hetero_modal = True

    def __init__(
        self,
        modalities: int = 4,
        classes: int = len(CLASSES),
        widths: Sequence[int] = (8, 16, 32, 64),
        dim: int = 3,
    ) -> None:
        super().__init__()
        convolution = nn.Conv2d if dim == 2 else nn.Conv3d
        self.modalities, self.multiple = modalities, 2 ** (len(widths) - 1)
        self.encoders = nn.ModuleList(Encoder(1, widths, dim) for _ in range(modalities))
        self.moments = nn.ModuleList(
            nn.ModuleList(convolution(w, 2 * w, 1) for w in widths) for _ in range(modalities)
        )
        self.decoder = Decoder(widths, classes, True, dim)
        self.painter = Decoder(widths, modalities, True, dim)
        _channels_last(self, dim)

    def named_layers(self) -> dict[str, nn.Module]:
        """Return the decoder's layers by their names."""
        named = {f"up{len(self.decoder.levels) - k}": level for k, level in enumerate(self.decoder.levels)}
        return {**named, "output": self.decoder.output}

    def posterior(self, image: Tensor, present: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """Return mean and log-variance of the product at every level, finest first."""
        told = [self._gaussians(image[:, i : i + 1], k) for i, k in enumerate(present)]
        found = []
        for level in zip(*told, strict=True):
            # A product of Gaussians adds precisions; the standard one adds 1, at 0.
            precisions = [torch.exp(-log.clamp(-10, 10)) for _, log in level]
            total = 1 + torch.stack(precisions).sum(0)
            weighted = torch.stack([m * p for (m, _), p in zip(level, precisions, strict=True)])
            found.append((weighted.sum(0) / total, -torch.log(total)))
        return found

    def _gaussians(self, image: Tensor, modality: int) -> list[tuple[Tensor, Tensor]]:
        """Return mean and log-variance of one modality at every level."""
        heads: Any = self.moments[modality]
        features = self.encoders[modality](image)
        return [tuple(head(f).chunk(2, 1)) for head, f in zip(heads, features, strict=True)]

    def forward(self, image: Tensor, present: Sequence[int] | None = None) -> Tensor:
        """Return the logits for the modalities that are there."""
        padded, kept = _padded(image, self.multiple)
        found = self.posterior(padded, _present(image, present, self.modalities))
        logits: Tensor = self.decoder([mean for mean, _ in found])
        return logits[kept].contiguous()

    def learn(self, image: Tensor, present: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, the modalities painted, and the divergence from the standard Gaussian, from a sample.

        Args:
            image: ``(B, len(present), *space)``.
        """
        padded, kept = _padded(image, self.multiple)
        found = self.posterior(padded, _present(image, present, self.modalities))
        drawn = [mean + torch.randn_like(mean) * torch.exp(0.5 * log) for mean, log in found]
        divergence = torch.stack([0.5 * (m**2 + v.exp() - v - 1).mean() for m, v in found]).mean()
        return self.decoder(drawn)[kept], self.painter(drawn)[kept], divergence


def layers_of(network: nn.Module) -> dict[str, nn.Module]:
    """Return a network's layers by name: its own ``named_layers()`` if it has any, and modules by their dotted names."""
    own = getattr(network, "named_layers", None)
    named: dict[str, nn.Module] = {name: module for name, module in network.named_modules() if name}
    return {**named, **(own() if callable(own) else {})}


def _chosen(network: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    layers = layers_of(network)
    if missing := [name for name in names if name not in layers]:
        own = getattr(network, "named_layers", None)
        known = ", ".join(own() if callable(own) else list(layers)[:20])
        raise ConfigError(f"layer '{missing[0]}': {type(network).__name__} has none of this name; it has {known}")
    return {name: layers[name] for name in names}


@contextmanager
def recorded(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what layers return while the network runs, by their names; of several calls the last counts.

    Raises:
        ConfigError: The network has no such layer.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, given: Any, answer: Tensor) -> None:
            found[name] = answer

        return hook

    handles = [layer.register_forward_hook(keep(name)) for name, layer in _chosen(network, names).items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def zeroed(network: nn.Module, name: str) -> Iterator[None]:
    """Set what a layer returns to zero wherever another layer takes it (thesis tables 3.5 and 3.6).

    A skip connection's features are zeroed on their way to the decoder alone: the encoder goes on from what they are.

    Raises:
        ConfigError: The network has no such layer.
    """
    layer = _chosen(network, [name])[name]
    decoder, encoder = getattr(network, "decoder", None), getattr(network, "encoder", None)
    levels = list(getattr(encoder, "levels", []))
    handle: Any
    if isinstance(decoder, Decoder) and layer in levels:
        at = levels.index(layer)

        def without(module: nn.Module, given: tuple[Any, ...]) -> tuple[list[Tensor]]:
            features = list(given[0])
            features[at] = torch.zeros_like(features[at])
            return (features,)

        handle = decoder.register_forward_pre_hook(without)
    else:
        handle = layer.register_forward_hook(lambda module, given, answer: torch.zeros_like(answer))
    try:
        yield
    finally:
        handle.remove()
