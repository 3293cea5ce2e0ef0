"""Any MONAI segmentation bundle as a segmenter: its own preprocessing, network, weights and inferer.

The configuration is ``configs/inference.json`` (or ``.yaml``) of the bundle, with the ids that MONAI's specification
names: ``network_def``, ``inferer``, ``preprocessing``, ``postprocessing``. Of the preprocessing, what reads files and
adds channels is left out, since the scan is in memory already; the rest runs on it, and what is invertible (orientation,
spacing, crops, padding) is undone on the probabilities. Of the postprocessing only the activation is taken.

A configuration may hold code. A bundle that does is run only where the user trusts it: ``mmtk bundles trust``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmtk.errors import ConfigError
from mmtk.segmenters import Segmentation, Segmenter, entropy
from mmtk.segmenters.weights import logits_of
from mmtk.types import Image, Mask
from mmtk_segment.network import probabilities

__all__ = ["MonaiBundle"]

#: Steps that make an array of a file, by the end of their name.
READING = ("LoadImaged", "LoadImageD", "LoadImageDict", "EnsureChannelFirstd", "EnsureChannelFirstD",
           "EnsureChannelFirstDict", "AddChanneld", "AsChannelFirstd")  # fmt: skip
CONFIGS = ("inference.json", "inference.yaml", "inference.yml")


class MonaiBundle(Segmenter):
    """See the module; the arguments are the fields of ``MonaiBundleConfig``.

    Raises:
        ConfigError: There is no such bundle, it asks for trust, or it lacks a network or weights.
    """

    def __init__(self, *, bundle: str | None = None, lesion: Sequence[int] = (), activation: str = "auto") -> None:
        super().__init__()
        if bundle is None:
            raise ConfigError("segmenter=monai_bundle: which one? Give segmenter.bundle=FOLDER, or its name")
        from mmtk.bundle.search import find
        from mmtk.bundle.trust import admit
        from mmtk.plugins import installed

        found = find(bundle, installed())
        admit(found, installed())
        self.folder, self.lesion, self.activation = found.folder, tuple(lesion), activation
        parser = _parser(self.folder)
        self.network = _network(parser, self.folder)
        self.inferer = parser.get_parsed_content("inferer") if "inferer" in parser else None
        self.key, self.preprocessing = _preprocessing(parser)
        if activation == "auto":
            self.activation = _activation(parser.get("postprocessing", {}))

    def extra_repr(self) -> str:
        return f"bundle={self.folder.name}, activation={self.activation}"

    def segment(self, image: Image, spacing: tuple[float, ...]) -> Mask:
        """Return the probability of the lesion."""
        return self._find(image, spacing, None).mask

    @torch.no_grad()
    def _find(self, image: Image, spacing: tuple[float, ...], reference: Image | None) -> Segmentation:
        masks = torch.cat([self._one(one[0].detach(), spacing)[None] for one in image.split(1)]).to(image)
        return Segmentation(masks, entropy(masks))

    def _one(self, image: Tensor, spacing: tuple[float, ...]) -> Tensor:
        """Return the mask ``(1, *space)`` of an image ``(C, *space)``."""
        from monai.data import MetaTensor

        affine = torch.diag(torch.tensor([*spacing, *[1.0] * (4 - len(spacing))], dtype=torch.float64))
        data = self.preprocessing({self.key: MetaTensor(image.to(torch.float32), affine=affine)})
        given = data[self.key]
        batch = given[None].as_tensor()
        answer = (
            self.network(batch)
            if self.inferer is None
            else self.inferer(batch, lambda x: logits_of(self.network(x)))
        )
        chance = self._lesion(logits_of(answer))[0]
        back = MetaTensor(chance, affine=given.affine, applied_operations=deepcopy(given.applied_operations))
        undone = self.preprocessing.inverse({self.key: back})[self.key]
        mask: Tensor = undone.as_tensor().clamp(0, 1)
        if mask.shape[1:] != image.shape[1:]:
            raise ConfigError(
                f"bundle '{self.folder.name}': its preprocessing cannot be undone: a scan of {tuple(image.shape[1:])} "
                f"voxels came back as {tuple(mask.shape[1:])}; use it by `python -m monai.bundle run`"
            )
        return mask

    def _logits(self, batch: Tensor) -> Tensor:
        return logits_of(self.network(batch))

    def _lesion(self, logits: Tensor) -> Tensor:
        """Return the probability of the channels that are lesion, ``(B, 1, *space)``."""
        count = logits.shape[1]
        how = self.activation
        if how == "auto":
            how = "softmax" if count > 1 else "sigmoid"
        wrong = [c for c in self.lesion if c >= count]
        if wrong:
            raise ConfigError(
                f"lesion={wrong[0]}: the bundle '{self.folder.name}' returns {count} channels, 0 to {count - 1}"
            )
        chance = probabilities(logits, how)
        if how == "softmax":
            channels = list(self.lesion or range(1, count))
            return chance[:, channels].sum(1, keepdim=True)
        return chance[:, list(self.lesion or range(count))].amax(1, keepdim=True)


def _parser(folder: Path) -> Any:
    from monai.bundle import ConfigParser

    files = [folder / "configs" / name for name in CONFIGS if (folder / "configs" / name).is_file()]
    if not files:
        raise ConfigError(
            f"bundle '{folder}': has no configs/inference.json or .yaml, so nothing says how it runs"
        )
    parser = ConfigParser()
    parser.read_config(str(files[0]))
    parser["bundle_root"] = str(folder)
    if "device" in parser:
        parser["device"] = "cpu"  # the caller moves the network
    return parser


def _network(parser: Any, folder: Path) -> torch.nn.Module:
    name = next((n for n in ("network_def", "network", "net") if n in parser), None)
    if name is None:
        raise ConfigError(f"bundle '{folder}': its configuration has no network_def, so there is no network")
    network = parser.get_parsed_content(name)
    if not isinstance(network, torch.nn.Module):
        raise ConfigError(f"bundle '{folder}': {name} is no network but {type(network).__name__}")
    network.load_state_dict(_state(folder))
    return network.eval().requires_grad_(False)


def _state(folder: Path) -> dict[str, Tensor]:
    safe, plain = (folder / "models" / f"model.{suffix}" for suffix in ("safetensors", "pt"))
    if safe.is_file():
        from safetensors.torch import load_file

        return load_file(safe)
    if not plain.is_file():
        raise ConfigError(f"bundle '{folder}': holds no models/model.pt, so its network knows nothing")
    state = torch.load(plain, map_location="cpu", weights_only=True)
    for key in ("model", "state_dict", "net"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    return dict(state)


def _preprocessing(parser: Any) -> tuple[str, Any]:
    """Return the key of the image, and the steps without those that read it."""
    from monai.transforms import Compose

    said = parser.get("preprocessing", {})
    steps = said.get("transforms", []) if isinstance(said, Mapping) else []
    kept = [at for at, step in enumerate(steps) if _name(step) not in READING]
    made = [parser.get_parsed_content(f"preprocessing::transforms::{at}") for at in kept]
    said_keys = [step["keys"] for step in steps if isinstance(step, Mapping) and step.get("keys")]
    keys: Any = said_keys[0] if said_keys else "image"
    key = keys if isinstance(keys, str) else str(next(iter(keys)))
    return (key if not key.startswith(("@", "$", "%")) else "image"), Compose(made)


def _name(step: Any) -> str:
    return str(step.get("_target_", "")).rpartition(".")[2] if isinstance(step, Mapping) else ""


def _activation(postprocessing: Any) -> str:
    """Return what the bundle's own postprocessing applies first; ``auto`` where it says nothing."""
    steps = postprocessing.get("transforms", []) if isinstance(postprocessing, Mapping) else []
    for step in steps:
        if _name(step).startswith("Activations"):
            return next((how for how in ("softmax", "sigmoid") if step.get(how) is True), "auto")
    return "auto"
