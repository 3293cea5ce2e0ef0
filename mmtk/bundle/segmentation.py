"""What the ``inference.json`` of a segmentation bundle names, and what writes such a bundle.

    preprocessing   ReadScans              names of files -> ``image``, all scans on the grid of the first
    network_def     SegmentationNetwork    ``image`` -> ``pred``: probabilities of its regions
    postprocessing  SaveSegmentation       the files of ``mmtk segment``

    image   (B, C, *space)   intensities as they were read, axes as in the file
    pred    (B, R, *space)   one channel a region, or the lesion alone

Each step calls what ``mmtk segment`` calls, so that the two give one result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from torch import Tensor, nn

from mmtk import io
from mmtk.config import ComponentConfig
from mmtk.errors import ConfigError
from mmtk.masking.description import MODALITIES, SegmentConfig
from mmtk.masking.finding import FoundMask, find_mask, write_mask
from mmtk.plugins import installed
from mmtk.prepare import place, tensor
from mmtk.segmenters.weights import SegmenterWeights

__all__ = ["ReadScans", "SaveSegmentation", "SegmentationNetwork", "write_bundle"]


class ReadScans(Transform):
    """Reads the scans of a patient onto the grid of the first.

    Args:
        folder: What relative names of files are relative to.
        device: Where the tensors go.
    """

    def __init__(self, folder: str = ".", device: torch.device | str = "cpu") -> None:
        self.folder, self.device = Path(folder), device

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return ``image (C, *space)`` with the first scan's affine, and the volumes as ``scans``."""
        given = [name for name in ("image", *MODALITIES) if data.get(name) is not None]
        if not given:
            raise ConfigError("image: missing; give --image FILE, or --t1, --t1ce, --t2, --flair")
        files = [self.folder / Path(data[name]).expanduser() for name in given]
        scans = [io.read_image(file, name=name) for name, file in zip(given, files, strict=True)]
        first = scans[0]
        channels = [place(tensor(s, self.device), io.voxel_to_voxel(first, s), first.shape) for s in scans]
        affine = torch.as_tensor(first.affine, dtype=torch.float64)
        return {**data, "image": MetaTensor(torch.cat(channels, 1)[0], affine=affine), "scans": scans}


class SegmentationNetwork(nn.Module):
    """A segmenter as a network.

    Args:
        segmenter: Name of an installed segmenter, or its settings with the name under ``kind``.

    Attributes:
        found: What the last call found, one entry a batch element.
    """

    def __init__(self, segmenter: str | Mapping[str, Any], bundle_root: str = ".") -> None:
        super().__init__()
        said = {"kind": segmenter} if isinstance(segmenter, str) else dict(segmenter)
        weights = said.get("weights")
        if isinstance(weights, str) and (Path(bundle_root) / weights).is_file():
            said["weights"] = str((Path(bundle_root) / weights).resolve())
        chosen = installed().find("segmenter", str(said.get("kind")))
        self.config: ComponentConfig = chosen.model_validate(said, context={"catalogue": installed()})
        self.config.ready()
        self.found: list[FoundMask] = []

    def forward(self, image: Tensor) -> Tensor:
        """Return the probabilities ``(B, R, *space)`` of ``image (B, C, *space)``."""
        affine = (
            image.affine.reshape(-1, 4, 4)[0].double().cpu().numpy() if isinstance(image, MetaTensor) else None
        )
        plain = (image.as_tensor() if isinstance(image, MetaTensor) else image).detach()
        self.found = []
        for element in plain:
            data = element.float().cpu().numpy()
            where = torch.eye(4).numpy() if affine is None else affine
            scans = [io.Volume(channel, where, name=f"channel {n}") for n, channel in enumerate(data, 1)]
            self.found.append(find_mask(scans, self.config, device=image.device))
        return torch.stack([_channels(found) for found in self.found]).to(plain)


def _channels(found: FoundMask) -> Tensor:
    maps = list(found.regions.values()) or [found.mask]
    return torch.stack([torch.from_numpy(volume.data) for volume in maps])


class SaveSegmentation(Transform):
    """Writes the files of a segmentation, as ``mmtk segment`` does.

    Args:
        network: The network, which holds what it found.
        output_dir: Folder for the files.
        overwrite: Whether files that are there may be replaced.
    """

    def __init__(self, network: SegmentationNetwork, output_dir: str, overwrite: bool = False) -> None:
        self.network, self.output_dir, self.overwrite = network, Path(output_dir), overwrite

    def __call__(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Write the files; ``data`` comes back as it is."""
        (found,) = self.network.found
        scans: list[io.Volume] = data["scans"]
        inputs: dict[str, Any] = {scan.name: scan.path for scan in scans}
        first = {"image": inputs.pop("image")} if "image" in inputs else {}
        out = self.output_dir / "mask.nii.gz"
        config = SegmentConfig(segmenter=self.network.config, out=out, template="none", **first, **inputs)
        write_mask(found, config, scans[0], overwrite=self.overwrite)
        return dict(data)


def write_bundle(
    folder: Path,
    weights: SegmenterWeights,
    *,
    task: str,
    description: str,
    data_source: str,
    intended_use: str,
    card: str,
    license_text: str,
    references: Sequence[str] = (),
    version: str = "0.1.0",
    segmenter: Mapping[str, Any] | None = None,
) -> None:
    """Write a complete segmentation bundle of trained weights.

    Args:
        folder: Made if missing; its name is the bundle's.
        weights: Go to ``models/model.safetensors``, and their tensors to ``models/model.pt``.
        task, description, data_source, intended_use, references, version: For the metadata.
        card: ``docs/README.md``.
        license_text: ``LICENSE``.
        segmenter: Further settings of the segmenter ``network``, such as ``{"flips": True}``.
    """
    import importlib.metadata as installed_versions

    import mmtk

    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    weights.save(folder / "models" / "model.safetensors")
    torch.save(
        {name: t.detach().cpu().contiguous() for name, t in weights.state.items()}, folder / "models/model.pt"
    )
    inference = {
        "imports": ["$import monai"],
        "bundle_root": ".",
        "image": None,
        **dict.fromkeys(MODALITIES),
        "dataset_dir": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "overwrite": False,
        "seed": 0,
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "patients": [{name: f"@{name}" for name in ("image", *MODALITIES)}],
        "network_def": {
            "_target_": "mmtk.bundle.segmentation.SegmentationNetwork",
            "bundle_root": "@bundle_root",
            "segmenter": {
                "kind": "network",
                **(segmenter or {}),
                "weights": "models/model.safetensors",
            },
        },
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "mmtk.bundle.segmentation.ReadScans",
            "folder": "@dataset_dir",
            "device": "@device",
        },
        "dataset": {"_target_": "Dataset", "data": "@patients", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
            "collate_fn": {"_target_": "mmtk.bundle.workflow.one_pair", "_mode_": "callable"},
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {
            "_target_": "mmtk.bundle.segmentation.SaveSegmentation",
            "network": "@network_def",
            "output_dir": "@output_dir",
            "overwrite": "@overwrite",
        },
        "handlers": [],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "decollate": False,
            "amp": False,
        },
        "initialize": ["$monai.utils.set_determinism(seed=@seed)"],
        "run": ["$@evaluator.run()"],
    }
    regions = weights.outputs if not weights.labeled else ("ET", "TC", "WT")
    space = list(weights.patch)

    def tensor_of(channels: Sequence[str], form: str, modality: str, values: list[int]) -> dict[str, Any]:
        return {
            "type": "image",
            "format": form,
            "modality": modality,
            "num_channels": len(channels),
            "spatial_shape": ["*"] * len(space),
            "dtype": "float32",
            "value_range": values,
            "is_patch_data": False,
            "channel_def": {str(n): channel for n, channel in enumerate(channels)},
        }

    metadata = {
        "schema": "https://project-monai.github.io/schema/meta_schema_20240725.json",
        "version": version,
        "changelog": {version: "first version"},
        "monai_version": installed_versions.version("monai"),
        "pytorch_version": installed_versions.version("torch").partition("+")[0],
        "numpy_version": installed_versions.version("numpy"),
        "required_packages_version": {
            "mmtk": mmtk.__version__,
            **{p: installed_versions.version(p) for p in ("nibabel", "pytorch-ignite", "scipy")},
        },
        "supported_apps": {},
        "name": folder.name,
        "task": task,
        "description": description,
        "authors": "The mmtk developers",
        "copyright": "Copyright (c) The mmtk developers",
        "data_source": data_source,
        "data_type": "nifti",
        "image_classes": f"scans: {', '.join(weights.modalities)}",
        "label_classes": ", ".join(weights.outputs),
        "pred_classes": f"probabilities of {', '.join(regions)}",
        "eval_metrics": {},
        "intended_use": intended_use,
        "references": list(references),
        "network_data_format": {
            "inputs": {"image": tensor_of(weights.modalities, "magnitude", "MR", [])},
            "outputs": {"pred": tensor_of(regions, "probability", "n/a", [0, 1])},
        },
    }
    for name, content in (
        ("inference.json", inference),
        ("inference_cpu.json", {"device": "$torch.device('cpu')"}),
        ("metadata.json", metadata),
    ):
        (folder / "configs" / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    (folder / "docs" / "README.md").write_text(card, encoding="utf-8")
    (folder / "LICENSE").write_text(license_text, encoding="utf-8")
