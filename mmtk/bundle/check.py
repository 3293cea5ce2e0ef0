"""Whether a bundle is complete, and whether it is only data: for its author, before anybody else sees it.

Nothing is fetched. Everything but the run is read as data, so that a bundle from anybody may be checked; the run is left
out where the scan found what asks for trust and nobody trusts it.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion, Version
from pydantic import ValidationError

from mmtk.bundle.reading import read_config
from mmtk.bundle.recipe import inference_config, read_metadata, read_recipe, read_segmenter, segments
from mmtk.bundle.scan import TARGETS, TEMPLATE, files_of, scan
from mmtk.bundle.search import Found
from mmtk.bundle.trust import is_trusted
from mmtk.config import ComponentConfig, LearnedConfig, Recipe
from mmtk.errors import ConfigError, MmtkError
from mmtk.plugins import Catalogue
from mmtk.settings import resolve

__all__ = ["Verdict", "check", "short_settings"]

#: Keys without which MONAI's specification knows no bundle.
MANDATORY = (
    "version",
    "monai_version",
    "pytorch_version",
    "numpy_version",
    "required_packages_version",
    "task",
    "description",
    "authors",
    "copyright",
    "network_data_format",
)

#: What is said of a tensor that goes in or comes out.
TENSOR = (
    "type",
    "format",
    "modality",
    "num_channels",
    "spatial_shape",
    "dtype",
    "value_range",
    "is_patch_data",
    "channel_def",
)

#: Distributions that metadata name apart from ``required_packages_version``.
FLOORS = {"monai_version": "monai", "pytorch_version": "torch", "numpy_version": "numpy"}

LAYOUT = ("LICENSE", "configs/metadata.json", "configs/inference.json", "docs/README.md")

#: Seconds that one of the two runs may take.
PATIENCE = 900


@dataclass(frozen=True)
class Verdict:
    """What was checked, and what is wrong.

    Attributes:
        problems: One sentence each; empty where all is well.
        skipped: Why it was not checked; empty where it was.
    """

    name: str
    problems: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def check(found: Found, catalogue: Catalogue, *, run: bool = False) -> Iterator[Verdict]:
    """Yield one verdict after the other.

    Args:
        run: Also run it on a small pair, by mmtk and by MONAI; minutes.
    """
    folder = found.folder
    yield Verdict("layout", tuple(_guarded(_layout(folder))))
    yield Verdict("metadata", tuple(_guarded(_metadata(folder))))
    yield Verdict("versions", tuple(_guarded(_versions(folder))))
    yield Verdict("recipe", tuple(_guarded(_recipe(folder, catalogue))))
    yield Verdict("properties", tuple(_guarded(_properties(folder))))
    findings = tuple(_guarded(str(finding) for finding in _found(folder, catalogue)))
    reason = "installed" if found.installed else "trusted" if findings and is_trusted(folder) else ""
    if reason and findings:
        yield Verdict("scan", skipped=f"{reason}, so what asks for trust is let through: {_first(findings)}")
    else:
        yield Verdict("scan", findings)
    if findings and not reason:
        yield Verdict("targets", skipped="nothing is imported before the scan is clean or the bundle is trusted")
        yield Verdict("weights", skipped="nothing is loaded before the scan is clean or the bundle is trusted")
    else:
        yield Verdict("targets", tuple(_guarded(_targets(folder))))
        yield Verdict("weights", tuple(_guarded(_weights(folder))))
    if not run:
        yield Verdict("run", skipped="not asked for; --run")
    elif findings and not reason:
        yield Verdict("run", skipped="not before the scan is clean or the bundle is trusted")
    else:
        yield Verdict("run", tuple(_guarded(_run(folder, catalogue))))


def _guarded(problems: Iterator[str]) -> Iterator[str]:
    """The problems; one that mmtk raises is the last."""
    try:
        yield from problems
    except MmtkError as error:
        yield from str(error).splitlines()


def _found(folder: Path, catalogue: Catalogue) -> Iterator[Any]:
    yield from scan(folder, catalogue)


def _layout(folder: Path) -> Iterator[str]:
    for name in LAYOUT:
        if not (folder / name).is_file():
            yield f"{name}: missing"
    if not any(name.startswith("models/") for _, name in files_of(folder)):
        yield "models/: holds no weights; where nothing is learned, an empty state"
    for path, name in files_of(folder):
        if name.startswith("configs/") and path.suffix in (".json", ".yaml", ".yml"):
            read_config(path)


def _metadata(folder: Path) -> Iterator[str]:
    metadata = read_metadata(folder)
    for key in MANDATORY:
        if not metadata.get(key):
            yield f"configs/metadata.json: {key}: missing or empty"
    changes = metadata.get("changelog")
    if not isinstance(changes, dict) or metadata.get("version") not in changes:
        yield f"configs/metadata.json: changelog: says nothing of version {metadata.get('version')}"
    formats = metadata.get("network_data_format")
    for side in ("inputs", "outputs"):
        tensors = formats.get(side) if isinstance(formats, dict) else None
        if not isinstance(tensors, dict) or not tensors:
            yield f"configs/metadata.json: network_data_format::{side}: missing"
            continue
        for name, tensor in tensors.items():
            yield from _tensor(f"configs/metadata.json: network_data_format::{side}::{name}", tensor)


def _tensor(place: str, tensor: Any) -> Iterator[str]:
    if not isinstance(tensor, dict):
        yield f"{place}: expected an object"
        return
    for key in TENSOR:
        if key not in tensor:
            yield f"{place}::{key}: missing"
    channels = tensor.get("channel_def")
    if isinstance(channels, dict) and len(channels) != tensor.get("num_channels"):
        yield f"{place}::channel_def: {len(channels)} channels; num_channels says {tensor.get('num_channels')}"


def _versions(folder: Path) -> Iterator[str]:
    """Each version is a version, and no newer than what is installed."""
    metadata = read_metadata(folder)
    required = metadata.get("required_packages_version")
    floors: dict[str, Any] = {FLOORS[key]: metadata[key] for key in FLOORS if key in metadata}
    floors.update(required if isinstance(required, dict) else {})
    if "mmtk" not in floors:
        yield "configs/metadata.json: required_packages_version::mmtk: missing"
    try:
        Version(str(metadata.get("version")))
    except InvalidVersion:
        yield f"configs/metadata.json: version: {metadata.get('version')!r} is no version; give 1.2.3"
    for package, floor in floors.items():
        yield from _floor(str(package), floor)


def _floor(package: str, floor: Any) -> Iterator[str]:
    try:
        wanted = Version(floor if isinstance(floor, str) else "")
    except InvalidVersion:
        yield f"configs/metadata.json: {package}: {floor!r} is no version; give 1.2.3"
        return
    try:
        there = Version(importlib.metadata.version(package))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        yield f"{package} {wanted} is required and not installed"
        return
    # Compared as versions: 1.10 is newer than 1.9, and 2.13.0+cpu is 2.13.0.
    if there < wanted:
        yield f"{package} {wanted} is required, and {there} is installed; upgrade it"


def _recipe(folder: Path, catalogue: Catalogue) -> Iterator[str]:
    if segments(folder):
        _segmenter(folder, catalogue).ready()
    else:
        base, _ = read_recipe(folder)
        resolve([], base, catalogue, Recipe).method.ready()
    yield from ()


def _segmenter(folder: Path, catalogue: Catalogue) -> ComponentConfig:
    """Return the description of a bundle's segmenter.

    Raises:
        ConfigError: It is none of those installed, or a setting is wrong.
    """
    said = read_segmenter(folder)
    chosen = catalogue.find("segmenter", str(said.get("kind")))
    try:
        return chosen.model_validate(said, context={"catalogue": catalogue})
    except ValidationError as error:
        told = [f"network_def::segmenter::{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError(told) from error


def _properties(folder: Path) -> Iterator[str]:
    """The ids that MONAI names for an inference, looked up and not evaluated."""
    from monai.bundle.properties import InferProperties, MetaProperties

    config, metadata = read_config(inference_config(folder)), read_metadata(folder)
    for properties, content in ((InferProperties, config), (MetaProperties, metadata)):
        for name, said in properties.items():
            if said["required"] and not _has(content, said["id"].removeprefix("_meta_::")):
                yield f"{name}: MONAI requires the id {said['id']}"
    for name in ("run", "initialize"):
        if name not in config:
            yield f"{name}: MONAI runs this id"


def _has(content: Any, at: str) -> bool:
    for word in at.split("::"):
        if not isinstance(content, Mapping) or word not in content:
            return False
        content = content[word]
    return True


def _targets(folder: Path) -> Iterator[str]:
    """What MONAI would call, resolved as MONAI resolves it, is the class that its name promises."""
    from monai.bundle import ComponentLocator

    locator = ComponentLocator()
    for path, file in files_of(folder):
        if not file.startswith("configs/"):
            continue
        for name in _target_names(read_config(path)):
            module = locator.get_component_module_name(name)
            full = f"{module[0] if isinstance(module, list) else module}.{name}" if module else name
            place, _, short = full.rpartition(".")
            try:
                thing = getattr(import_module(place), short)
            except (ImportError, AttributeError, ValueError):
                yield f"{file}: _target_ {name!r} cannot be imported"
                continue
            real = f"{getattr(thing, '__module__', '?')}.{getattr(thing, '__qualname__', '?')}"
            if name in TARGETS and real != TARGETS[name]:
                yield f"{file}: _target_ {name!r} comes to {real}, and {TARGETS[name]} was expected"


def _first(findings: Sequence[str], shown: int = 3) -> str:
    """Return the first few of many; `mmtk bundles show` has all."""
    told = "; ".join(findings[:shown])
    return told if len(findings) <= shown else f"{told}; and {len(findings) - shown} more, see `mmtk bundles show`"


def _target_names(content: Any) -> Iterator[str]:
    waiting = [content]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if isinstance(node.get("_target_"), str):
                yield node["_target_"]
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _weights(folder: Path) -> Iterator[str]:
    """The weights hold tensors alone, with the names and shapes of the network that the bundle describes."""
    import torch

    if segments(folder):
        yield from _segmenter_weights(folder)
        return
    from mmtk.bundle.workflow import RegistrationNetwork

    network = read_config(inference_config(folder)).get("network_def", {})
    held = RegistrationNetwork(network.get("method", {})) if isinstance(network, dict) else None
    for path, name in files_of(folder):
        if not name.startswith("models/") or name == TEMPLATE:
            continue
        try:
            if path.suffix == ".safetensors":
                from safetensors.torch import load_file

                state: Any = load_file(path)
            else:
                state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            yield f"{name}: cannot be loaded as tensors ({type(error).__name__})"
            continue
        if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
            yield f"{name}: expected names and tensors, as state_dict() gives them"
            continue
        shapes = {key: tuple(value.shape) for key, value in state.items()}
        safe = path.suffix == ".safetensors"
        learned = {} if held is None else _learned(path if safe else path.with_suffix(".safetensors"), held.config)
        expected = {f"network.{key}": shape for key, shape in learned.items()} if safe else learned
        shapes.pop("template", None)
        if shapes != expected:
            yield f"{name}: names or shapes are not those of the network"


def _segmenter_weights(folder: Path) -> Iterator[str]:
    """Each file of a segmenter's weights fits the network that it names, and ``model.pt`` has the same tensors."""
    import torch

    from mmtk.plugins import installed
    from mmtk.segmenters.weights import SegmenterWeights

    packages = {plugin.name for plugin in installed().plugins}
    for path, name in files_of(folder):
        if not name.startswith("models/"):
            continue
        own = SegmenterWeights.load(path.with_suffix(".safetensors"))
        own.build(packages)
        if path.suffix == ".safetensors":
            continue
        try:
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            yield f"{name}: cannot be loaded as tensors ({type(error).__name__})"
            continue
        shapes = {key: tuple(value.shape) for key, value in own.state.items()}
        if {key: tuple(value.shape) for key, value in state.items()} != shapes:
            yield f"{name}: names or shapes are not those of the network"


def _learned(own: Path, config: ComponentConfig) -> dict[str, tuple[int, ...]]:
    """The shapes of the network that a learned method runs with weights of its own; none where none is learned."""
    from mmtk.learned import LearnedMethod, Weights

    if not isinstance(config, LearnedConfig) or not own.is_file():
        return {}
    method: LearnedMethod = config.model_copy(update={"weights": str(own), "engine": "network"}).build()
    network = method.make(Weights.load(own).grid, dict(method.settings))
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def _run(folder: Path, catalogue: Catalogue) -> Iterator[str]:
    """Both ways to run it succeed on a small pair and leave one result."""
    if segments(folder):
        yield from _run_segmenter(folder)
        return
    from mmtk.samples import make

    short = short_settings(folder, catalogue)
    with tempfile.TemporaryDirectory(prefix="mmtk-check-") as place:
        pair = Path(place) / "pair"
        recipe, own = read_recipe(folder)
        weights = (recipe.get("method") or {}).get("weights")
        name, *options = (own if weights is not None and own else "c_shapes").split()
        make(name, pair, dict(word.split("=", 1) for word in options))
        files = {"moving": pair / "moving.nii.gz", "fixed": pair / "fixed.nii.gz"}
        ours, theirs = Path(place) / "ours", Path(place) / "theirs"
        words = [f"{key}={json.dumps(value)}" for key, value in short.items()]
        yield from _command(
            ["-m", "mmtk", "run", f"bundle={folder.resolve()}", "--device", "cpu", "--out", str(ours)]
            + [f"{key}={path}" for key, path in files.items()]
            + words,
            "mmtk run",
        )
        told: dict[str, Any] = {**files, "output_dir": theirs}
        told.update({f"network_def::method::{key}": json.dumps(value) for key, value in short.items()})
        if isinstance(weights, str) and Path(weights).is_absolute():
            told["network_def::method::weights"] = weights  # which a bundle may name from its own folder
        yield from _command(
            ["-m", "monai.bundle", "run", "--config_file", str(inference_config(folder).resolve())]
            + ["--logging_file", "False", "--device", "$torch.device('cpu')"]
            + [word for key, value in told.items() for word in (f"--{key}", str(value))],
            "python -m monai.bundle run",
        )
        yield from _same(ours, theirs)


def _run_segmenter(folder: Path) -> Iterator[str]:
    """Both ways to find a lesion succeed on a small head and leave one mask."""
    from mmtk.samples import make
    from mmtk.segmenters.weights import SegmenterWeights

    with tempfile.TemporaryDirectory(prefix="mmtk-check-") as place:
        head = make("gliomas", Path(place) / "head", {"spacing": 4.0})
        modalities: tuple[str, ...] = ("t1",)
        if (own := folder / "models" / "model.safetensors").is_file():
            modalities = SegmenterWeights.load(own).modalities
        files = {name: head / f"head_{name}.nii.gz" for name in modalities}
        ours, theirs = Path(place) / "ours", Path(place) / "theirs"
        yield from _command(
            [
                "-m",
                "mmtk",
                "segment",
                f"bundle={folder.resolve()}",
                "--device",
                "cpu",
                f"out={ours / 'mask.nii.gz'}",
            ]
            + [f"{name}={path}" for name, path in files.items()],
            "mmtk segment",
        )
        told: dict[str, Any] = {**files, "bundle_root": folder.resolve(), "output_dir": theirs}
        yield from _command(
            ["-m", "monai.bundle", "run", "--config_file", str(inference_config(folder).resolve())]
            + ["--logging_file", "False", "--device", "$torch.device('cpu')"]
            + [word for key, value in told.items() for word in (f"--{key}", str(value))],
            "python -m monai.bundle run",
        )
        yield from _same(ours, theirs, "mask.nii.gz")


def short_settings(folder: Path, catalogue: Catalogue) -> dict[str, Any]:
    """Return settings with which a bundle's method runs for seconds, as far as it has them."""
    base, _ = read_recipe(folder)
    method = resolve([], base, catalogue, Recipe).method
    if isinstance(method, LearnedConfig):  # one pass is short, and what it is made of belongs to its weights
        return {}
    now = dict(method)
    short: dict[str, Any] = {"levels": [4.0, 2.0], "iterations": [2, 2], "steps": 4}
    if isinstance(now.get("iterations"), int):  # a method from elsewhere may have one number for all levels
        short["iterations"] = 2
    return {
        k: value for k, value in short.items() if k in now and isinstance(value, list) == isinstance(now[k], tuple)
    }


def _command(words: list[str], name: str) -> Iterator[str]:
    environ = {**os.environ, "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "0"}
    try:
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, timeout=PATIENCE, env=environ, check=False
        )
    except subprocess.TimeoutExpired:
        yield f"{name}: had not ended after {PATIENCE} s"
        return
    if done.returncode != 0 and not (name == "mmtk run" and done.returncode == 1 and not done.stderr):
        last = [line for line in done.stderr.strip().splitlines() if line.strip()][-1:] or ["no message"]
        yield f"{name}: ended with exit code {done.returncode}: {last[0]}"


def _same(ours: Path, theirs: Path, file: str = "warped.nii.gz") -> Iterator[str]:
    import nibabel as nib
    import numpy as np

    images = [next(iter(sorted(place.rglob(file))), None) for place in (ours, theirs)]
    if images[0] is None or images[1] is None:
        yield f"run: no {file} was left by " + " and ".join(
            name for name, image in zip(("mmtk", "MONAI"), images, strict=True) if image is None
        )
        return
    # As they are: a mask may be 0, or 1, everywhere, which no image may.
    left, right = (np.asanyarray(nib.load(image).dataobj, np.float32) for image in images if image is not None)
    if left.shape != right.shape or not np.allclose(left, right, atol=1e-4 * float(np.abs(left).max() or 1)):
        yield "run: mmtk and MONAI leave two results; the bundle's configuration says more than its recipe"
