"""Weights and all that belongs to them, in one safetensors file: settings, grid, and the template if there is one.

A network is no use without the energy that trained it, the grid that it lives on and the way its voxels lie in space. So
these are not settings of a run but part of the weights; a run that says otherwise is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.io.tensors import fill, read_tensors, write_tensors

__all__ = ["Weights", "find_weights"]

#: What the header is called within the file's metadata, and which form of it this is.
_KEY, _FORM = "mmtk", 1


@dataclass(frozen=True, eq=False)
class Weights:
    """A trained network.

    Attributes:
        kind: Name of the method that runs it.
        settings: Architecture and energy, as plain data, by the names of the method's fields.
        grid: The grid that it works on.
        affine: ``(4, 4)``, from voxels of the grid to RAS mm.
        network: The network's state.
        template: ``(1, C, *space)``, the one fixed image that it knows; None if it takes any.
        facts: How it was trained, as plain data.
    """

    kind: str
    settings: Mapping[str, Any]
    grid: Grid
    affine: np.ndarray
    network: Mapping[str, Tensor]
    template: Tensor | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the file."""
        header = {
            "form": _FORM,
            "kind": self.kind,
            "settings": dict(self.settings),
            "shape": list(self.grid.shape),
            "spacing": list(self.grid.spacing),
            "affine": np.asarray(self.affine, dtype=float).tolist(),
            "facts": dict(self.facts),
        }
        tensors = {f"network.{name}": tensor for name, tensor in self.network.items()}
        if self.template is not None:
            tensors["template"] = self.template
        write_tensors(path, _KEY, header, tensors)

    @classmethod
    def load(cls, path: Path) -> Weights:
        """Read a file.

        Raises:
            ConfigError: If it is no such file, or one of a form that this mmtk does not know.
        """
        header, tensors = read_tensors(path, _KEY, _FORM, "a registration network")
        prefix = "network."
        return cls(
            kind=header["kind"],
            settings=header["settings"],
            grid=Grid(tuple(header["shape"]), tuple(header["spacing"])),
            affine=np.asarray(header["affine"], dtype=float),
            network={name[len(prefix) :]: t for name, t in tensors.items() if name.startswith(prefix)},
            template=tensors.get("template"),
            facts=header["facts"],
        )

    def write_template(self, path: Path) -> None:
        """Write the template where it lies in the world, for ``fixed=``; nothing where the weights know none.

        Args:
            path: Ends in ``.nii.gz``; further channels become ``NAME_channel2.nii.gz`` and so on beside it.
        """
        if self.template is None:
            return
        import nibabel as nib

        for number, channel in enumerate(self.template[0], 1):
            name = path.name if number == 1 else path.name.replace(".nii", f"_channel{number}.nii", 1)
            nib.save(nib.Nifti1Image(channel.numpy(), self.affine), path.with_name(name))

    @property
    def takes_mask(self) -> bool:
        """Whether they were trained with masks; others know no lesion, and let appearance change anywhere."""
        plan = self.facts.get("plan")
        return not (isinstance(plan, Mapping) and plan.get("use_mask") is False)

    def load_into(self, model: torch.nn.Module, path: str) -> None:
        """Give a network these weights.

        Raises:
            ConfigError: If names or shapes do not fit.
        """
        fill(model, self.network, f"weights={path}")


def find_weights(given: str | Path) -> Path:
    """Return the file that ``weights=`` names.

    Args:
        given: A file; a bundle, by its name or folder, for its ``models/model.safetensors``; or ``BUNDLE:VARIANT`` for
            its ``models/VARIANT.safetensors``.

    Raises:
        ConfigError: If there is no such file.
    """
    path = Path(given).expanduser()
    if path.is_file():
        return path
    from mmtk.plugins import installed

    bundle, _, variant = str(given).partition(":")
    folders = (
        [Path(bundle).expanduser()] if Path(bundle).expanduser().is_dir() else installed().bundles.get(bundle, [])
    )
    for folder in folders:
        inside = folder / "models" / f"{variant or 'model'}.safetensors"
        if inside.is_file():
            return inside
        others = sorted(p.stem for p in (folder / "models").glob("*.safetensors") if p.stem != "model")
        if variant and others:
            raise ConfigError(
                f"weights={given}: the bundle has no such weights; it has {bundle}, "
                + ", ".join(f"{bundle}:{name}" for name in others)
            )
    raise ConfigError(
        f"weights={given}: no such file, nor a bundle with models/model.safetensors; give one of them, or train weights "
        f"with `mmtk train`"
    )
