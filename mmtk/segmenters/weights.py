"""A trained network and all that belongs to it: what it takes, what it returns, on which voxels it was trained.

One safetensors file: tensors by their names in the network, and a header that is plain data.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmtk.config import load_target
from mmtk.errors import ConfigError
from mmtk.io.tensors import fill, read_tensors, write_tensors

__all__ = ["ACTIVATIONS", "MODALITIES", "SCALES", "SegmenterWeights", "logits_of"]

#: What the header is called within the file's metadata, and which form of it this is.
_KEY, _FORM = "mmtk.segmenter", 1

MODALITIES = ("t1", "t1ce", "t2", "flair")
ACTIVATIONS = ("sigmoid", "softmax", "none")
SCALES = ("zscore", "robust", "none")
#: Where a network's class may come from without being that of an installed plugin.
KNOWN = ("monai.networks.nets",)


@dataclass(frozen=True, eq=False)
class SegmenterWeights:
    """A trained network.

    Attributes:
        network: ``"package.module:Class"``: of ``monai.networks.nets``, or of the package of an installed plugin.
        settings: What the class is built with, plain data.
        modalities: What each channel that it takes shows, such as ``t1``.
        outputs: What each channel that it returns is: regions (``ET``, ``TC``, ``WT``, or ``lesion``), or with
            ``softmax`` labels, the background ``"0"`` among them.
        state: The tensors, by their names in the network.
        activation: What makes probabilities of what it returns.
        spacing: mm along each axis that it was trained on.
        patch: Voxels of the window that it was trained on, a multiple of what its down-samplings ask for.
        normalize: How each channel is scaled: ``zscore`` over its foreground, ``robust`` to [0, 1], or ``none``.
        facts: How it was trained, plain data.
    """

    network: str
    settings: Mapping[str, Any]
    modalities: tuple[str, ...]
    outputs: tuple[str, ...]
    state: Mapping[str, Tensor]
    activation: str = "sigmoid"
    spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
    patch: tuple[int, ...] = (64, 64, 64)
    normalize: str = "zscore"
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("modalities", "outputs", "spacing", "patch"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        wrong = [
            f"{name}={getattr(self, name)}: must be one of {', '.join(choices)}"
            for name, choices in (("activation", ACTIVATIONS), ("normalize", SCALES))
            if getattr(self, name) not in choices
        ]
        if len(self.patch) != len(self.spacing):
            wrong.append(f"patch={self.patch} and spacing={self.spacing}: must have one value for each axis")
        if not self.modalities or not self.outputs:
            wrong.append("modalities and outputs: name at least one channel each")
        if wrong:
            raise ConfigError(wrong)

    @property
    def dim(self) -> int:
        """Number of axes."""
        return len(self.spacing)

    @property
    def labeled(self) -> bool:
        """Whether what it returns are labels, of which a voxel has one, and not regions."""
        return all(name.isdigit() for name in self.outputs)

    def save(self, path: Path) -> None:
        """Write the file."""
        write_tensors(path, _KEY, {"form": _FORM, **self._header()}, self.state)

    @classmethod
    def load(cls, path: Path) -> SegmenterWeights:
        """Read a file.

        Raises:
            ConfigError: If it is no such file, or one of a form that this mmtk does not know.
        """
        header, state = read_tensors(path, _KEY, _FORM, "a segmenter")
        try:
            return cls(**header, state=state)
        except TypeError as error:
            raise ConfigError(f"weights={path}: their header is damaged ({error}); give another file") from error

    def build(self, packages: Collection[str] = ()) -> nn.Module:
        """Return the network with its weights, in ``eval`` mode and without gradients.

        Args:
            packages: Top-level packages whose classes a file may name, beside mmtk's and MONAI's networks: those of the
                installed plugins.

        Raises:
            ConfigError: If its class may not be called or cannot be had, or names or shapes of tensors do not fit.
        """
        model = _class_of(self.network, packages)(**self.settings)
        fill(model, self.state, "weights", self.network)
        network: nn.Module = model.eval().requires_grad_(False)
        return network

    def described(self) -> dict[str, Any]:
        """Return the header as plain data, without tensors."""
        said: dict[str, Any] = json.loads(json.dumps(self._header()))
        return said

    def _header(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "state"}


def _class_of(network: str, packages: Collection[str]) -> Any:
    """Return the class; a file of weights must not be able to name just any code.

    Raises:
        ConfigError: It is not among those that may be named, or not there.
    """
    module, _, name = network.partition(":")
    allowed = module in KNOWN or module.partition(".")[0] in ("mmtk", *packages)
    if not (allowed and name.isidentifier()):
        raise ConfigError(
            f"weights: their network is {network}, and no installed plugin has it; install the package that trained them"
        )
    try:
        found = load_target(network)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"weights: their network {network} is not there ({error}); install the package"
        ) from error
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ConfigError(f"weights: {network} is no network; the file is damaged")
    return found


def logits_of(answer: Any) -> Tensor:
    """Return the tensor that counts of what a network returned: itself, ``"logits"`` of a mapping, else the first."""
    if isinstance(answer, torch.Tensor):
        return answer
    if isinstance(answer, Mapping):
        return logits_of(answer.get("logits", next(iter(answer.values()))))
    if hasattr(answer, "logits"):
        return logits_of(answer.logits)
    return logits_of(answer[0])
