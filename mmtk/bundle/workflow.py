"""What a bundle's ``inference.json`` names: the steps of a registration as MONAI's engines know them.

    preprocessing   PreparePair            names of files -> ``image``, and the native images beside it
    network_def     RegistrationNetwork    ``image`` -> ``pred``: it optimizes, and so learns nothing
    postprocessing  SaveRegistration       the files of a run

    image   (B, 2 C [+ 1 [+ 1 [+ 1]]], *space)   moving, fixed, lesion mask, fixed mask, inside: 1 where the placed
                                                 moving image has data. What is left out at the end is not there;
                                                 a mask of zeros, and an inside of ones, are not there either
    pred    (B, dim, *space)                     displacement in voxels of the fixed grid, order i, j, k

Each step calls what ``mmtk.register`` calls, so that the two give one result.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import Tensor, nn

from mmtk import io
from mmtk.config import Preparation, Recipe
from mmtk.errors import ConfigError
from mmtk.fields import Grid
from mmtk.measure import measure
from mmtk.method import Pair
from mmtk.modalities import spread
from mmtk.outputs import warp_native
from mmtk.plugins import installed
from mmtk.prepare import Prepared, prepare
from mmtk.record import check_folder, save
from mmtk.registration import Result
from mmtk.result import Registration
from mmtk.settings import Setting, resolve

__all__ = ["PreparePair", "RegistrationNetwork", "SaveRegistration", "one_pair", "pack", "unpack"]

#: Where an image's metadata say how many channels moving and fixed image have each.
CHANNELS = "mmtk_channels"
EXTRAS = ("mask", "fixed_mask", "inside")
LABELS = ("labels", "fixed_labels")
FILES = ("moving", "fixed", "mask", "fixed_mask", *LABELS)


class PreparePair(Transform):
    """Reads a pair, checks it, places the moving image and brings both to one scale of intensities.

    Args:
        init, normalize, spacing: As in :func:`mmtk.register`.
        folder: What relative names of files are relative to.
        device: Where the tensors go.
    """

    def __init__(
        self,
        init: str = "affine",
        normalize: str = "robust",
        spacing: Sequence[float] | float | None = None,
        folder: str = ".",
        device: torch.device | str = "cpu",
    ) -> None:
        self.settings = Preparation.model_validate({"init": init, "normalize": normalize, "spacing": spacing})
        self.folder, self.device = Path(folder), device

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``image (C, *space)`` with the fixed image's affine, and the :class:`Prepared` pair."""
        missing = [name for name in ("moving", "fixed") if data.get(name) is None]
        if missing:
            raise ConfigError([f"{name}: missing; give --{name} FILE" for name in missing])
        start = time.perf_counter()
        named: dict[str, Any] = spread(
            {name: self._listed(data[name]) for name in FILES if data.get(name) is not None}
        )
        files: dict[str, Any] = {
            name: self.folder / Path(named[name]).expanduser() for name in FILES if name in named
        }
        more: dict[str, Any] = {
            name: tuple(None if path is None else self.folder / Path(path).expanduser() for path in paths)
            for name, paths in named.items()
            if name not in FILES
        }
        prepared = prepare(
            **{name: path for name, path in files.items() if name not in LABELS},
            **more,
            init=str(self.settings.init),
            normalize=self.settings.normalize,
            spacing=self.settings.spacing,
            device=self.device,
        )
        affine = torch.as_tensor(prepared.fixed.affine, dtype=torch.float64)
        image = MetaTensor(pack(prepared.pair)[0], affine=affine, meta={CHANNELS: prepared.pair.fixed.shape[1]})
        seconds = {"prepare": round(time.perf_counter() - start, 3)}
        return {**data, **files, "image": image, "prepared": prepared, "seconds": seconds}

    def _listed(self, given: Any) -> Any:
        """Return a folder where the name is one: relative to ours."""
        inside = self.folder / Path(str(given)).expanduser()
        return inside if inside.is_dir() else given


def one_pair(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Collate a batch, which is one pair: two pairs seldom share a grid, and the optimizer would not profit."""
    (item,) = items
    return {**item, "image": item["image"].unsqueeze(0)}


class RegistrationNetwork(nn.Module):
    """A registration method as a network. It has no parameters: its state is empty.

    Args:
        method: Name of an installed method, or its settings with the name under ``kind``.
        channels: Channels of each of the two images, where the image's metadata do not say it.

    Attributes:
        found: What the last call found, one entry a batch element.
        seconds: How long it took.
    """

    def __init__(self, method: str | Mapping[str, Any], channels: int = 1) -> None:
        super().__init__()
        if channels < 1:
            raise ConfigError(f"channels={channels}: an image has one at least")
        self.config = resolve([Setting("method", method)], {}, installed(), Recipe).method
        self.config.ready()
        self.channels = channels
        self.found: list[Registration] = []
        self.seconds = 0.0

    def forward(self, image: Tensor) -> Tensor:
        """Return the displacement, ``(B, dim, *space)`` in voxels, of ``image (B, channels, *space)``."""
        channels = self.channels
        if isinstance(image, MetaTensor):
            channels = int(image.meta.get(CHANNELS, channels))
        if told := self.config.unmasked(None if image.shape[1] <= 2 * channels else image):
            raise ConfigError(told)
        spacing = _spacing(image)
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        start = time.perf_counter()
        # Engines run a network without gradients; a method that optimizes needs them.
        with torch.enable_grad():
            method = self.config.build()
            affine = _affine(image)
            pairs = [unpack(element[None], spacing, channels, affine) for element in plain.detach()]
            self.found = [method.register(pair) for pair in pairs]
        self.seconds = round(time.perf_counter() - start, 3)
        return torch.cat([found.displacement.detach() for found in self.found])


class SaveRegistration(Transform):
    """Writes the files of a run, as ``mmtk run`` does.

    Args:
        network: The network, which holds what it found.
        preprocessing: The preparation, whose settings are recorded.
        output_dir: Folder for the files; a pair with a ``name`` gets a folder of its own within.
        overwrite: Whether the folder may hold files already.
        seed: Recorded in ``run.json``.
    """

    def __init__(
        self,
        network: RegistrationNetwork,
        preprocessing: PreparePair,
        output_dir: str,
        overwrite: bool = False,
        seed: int = 0,
    ) -> None:
        self.network, self.preprocessing = network, preprocessing
        self.output_dir, self.overwrite, self.seed = Path(output_dir), overwrite, seed
        if self.output_dir.is_file():
            check_folder(self.output_dir, overwrite)

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Write the pair's folder; ``data`` comes back as it is."""
        prepared: Prepared = data["prepared"]
        (found,) = self.network.found
        out = self.output_dir / str(data.get("name") or "")
        result = self._result(prepared, found, data)
        command = shlex.join(["python", *sys.orig_argv[1:]])
        save(result, out, overwrite=self.overwrite, seed=self.seed, command=command)
        return dict(data)

    def _result(self, prepared: Prepared, found: Registration, data: Mapping[str, Any]) -> Result:
        carried, target = (
            None if data.get(name) is None else io.read_image(data[name], name=name) for name in LABELS
        )
        images = warp_native(prepared, found, carried)
        recipe = Recipe(**dict(self.preprocessing.settings), method=self.network.config)
        return Result(
            images=images,
            registration=found,
            prepared=prepared,
            metrics=measure(prepared, found, images, target),
            seconds={**data["seconds"], "register": self.network.seconds},
            notes=(*prepared.notes, *found.notes),
            settings=recipe.model_dump(mode="json"),
        )


def pack(pair: Pair) -> Tensor:
    """Return a pair as the channels of one image, ``(1, C, *space)``."""
    extras = [getattr(pair, name) for name in EXTRAS]
    while extras and extras[-1] is None:
        extras.pop()
    blank = torch.zeros_like(pair.fixed[:, :1])
    filled = [blank if extra is None else extra for extra in extras]
    return torch.cat([pair.moving, pair.fixed, *filled], dim=1)


def unpack(image: Tensor, spacing: Sequence[float], channels: int = 1, affine: np.ndarray | None = None) -> Pair:
    """Return the pair that ``image (1, C, *space)`` packs.

    Raises:
        ConfigError: If it has too few channels, or too many.
    """
    found, most = image.shape[1], 2 * channels + len(EXTRAS)
    if not 2 * channels <= found <= most:
        raise ConfigError(
            f"image: {found} channels; expected {2 * channels} (moving, fixed) to {most} (with mask, fixed mask "
            "and inside)"
        )
    rest = {name: image[:, i : i + 1] for name, i in zip(EXTRAS, range(2 * channels, found), strict=False)}
    present = {name: extra for name, extra in rest.items() if not bool((extra == float(name == "inside")).all())}
    return Pair(
        moving=image[:, :channels],
        fixed=image[:, channels : 2 * channels],
        grid=Grid(tuple(image.shape[2:]), tuple(spacing)[: image.ndim - 2]),
        mask=present.get("mask"),
        fixed_mask=present.get("fixed_mask"),
        inside=present.get("inside"),
        affine=affine,
    )


def _affine(image: Tensor) -> np.ndarray | None:
    """The affine that came with the image, ``(4, 4)``; None without one."""
    if not isinstance(image, MetaTensor):
        return None
    return image.affine.reshape(-1, *image.affine.shape[-2:])[0].double().cpu().numpy()


def _spacing(image: Tensor) -> tuple[float, ...]:
    """mm per voxel, from the affine that came with the image; 1 without one."""
    dim = image.ndim - 2
    if not isinstance(image, MetaTensor):
        return (1.0,) * dim
    columns = image.affine.reshape(-1, *image.affine.shape[-2:])[0][:3, :dim].double()
    return tuple(float(h) for h in torch.linalg.vector_norm(columns, dim=0))
