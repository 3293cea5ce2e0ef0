"""What a machine has, what of it is in the way, and what to do about it.

Nothing here loads torch before it is asked for: an installation that cannot load it is one of the findings.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmtk import __version__
from mmtk.io.memory import available_memory, gigabytes
from mmtk.plugins import Catalogue

__all__ = ["Finding", "examine", "self_test"]

#: Packages that mmtk is built on, and optional ones by the extra that brings them.
NEEDED = ("torch", "monai", "numpy", "scipy", "nibabel", "h5py", "safetensors", "pydantic", "typer")
EXTRAS = {"io": ("nitransforms",), "itk": ("SimpleITK",), "ants": ("antspyx",)}

#: A 1 mm brain takes about this much.
COMFORT = 3e9
#: Its results take about this much.
ROOM = 1e9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        topic: What it is about, such as ``torch``.
        status: ``ok``; ``note``, where something could be better; ``bad``, where runs will fail.
        seen: What was seen.
        advice: What to do; empty if nothing.
        facts: The same as plain data.
    """

    topic: str
    status: str
    seen: str
    advice: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)


def examine(catalogue: Catalogue, out: Path | None = None) -> Iterator[Finding]:
    """Yield what is found, the quick things first; the self test last.

    Args:
        catalogue: What is installed.
        out: Where results are to go; the current folder if None.
    """
    yield _python()
    yield from _packages()
    yield from _extras()
    yield _memory()
    yield _disk(Path.cwd() if out is None else out)
    yield _threads()
    yield from _plugins(catalogue)
    yield from _bundles(catalogue)
    try:
        yield from _devices()
    except Exception as error:  # a broken installation fails in its own way
        yield Finding("devices", "bad", f"torch cannot be loaded ({_words(error)})", "install torch again")
        return
    yield self_test()


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def _python() -> Finding:
    facts = {"mmtk": __version__, "python": platform.python_version(), "platform": platform.platform()}
    seen = f"mmtk {__version__}, Python {facts['python']} ({sys.executable}), {facts['platform']}"
    return Finding("mmtk", "ok", seen, facts=facts)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    versions = {name: _version(name) for name in NEEDED}
    missing = [name for name, version in versions.items() if version is None]
    there = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Finding("packages", "ok", there, facts=versions)
    if missing:
        yield Finding("packages", "bad", f"missing: {', '.join(missing)}", "pip install --force-reinstall mmtk")
    unfit = list(_unfit())
    if unfit:
        yield Finding(
            "packages", "note", f"other versions than asked for: {'; '.join(unfit)}", "pip install -U mmtk"
        )


def _unfit() -> Iterator[str]:
    """Yield the packages whose version is not one that mmtk asks for."""
    from packaging.requirements import Requirement

    for line in importlib.metadata.requires("mmtk") or []:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        found = _version(requirement.name)
        if found is not None and not requirement.specifier.contains(found, prereleases=True):
            yield f"{requirement.name} {found} (asked for: {requirement.specifier})"


def _extras() -> Iterator[Finding]:
    for extra, names in EXTRAS.items():
        versions = {name: _version(name) for name in names}
        if all(versions.values()):
            seen = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield Finding(f"extra {extra}", "ok", seen, facts=versions)
        else:
            seen, advice = f"not installed ({', '.join(names)})", f"if you need it: pip install 'mmtk[{extra}]'"
            yield Finding(f"extra {extra}", "ok", seen, advice, versions)


def _memory() -> Finding:
    have = available_memory()
    facts = {"available_bytes": have}
    if have < COMFORT:
        advice = f"a 1 mm brain takes about {gigabytes(COMFORT)}: close something, or work at 2 mm"
        return Finding("memory", "note", f"{gigabytes(have)} are free", advice, facts)
    return Finding("memory", "ok", f"{gigabytes(have)} are free", facts=facts)


def _disk(out: Path) -> Finding:
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    facts = {"folder": str(folder), "free_bytes": free}
    if not os.access(folder, os.W_OK | os.X_OK):
        return Finding(
            "disk", "note", f"'{folder}' may not be written to by you", "name another folder: --out", facts
        )
    if free < ROOM:
        advice = (
            f"the results of a 1 mm brain take up to {gigabytes(ROOM)}: make room, or name another disk: --out"
        )
        return Finding("disk", "note", f"{gigabytes(free)} are free in '{folder}'", advice, facts)
    return Finding("disk", "ok", f"{gigabytes(free)} are free in '{folder}'", facts=facts)


def _threads() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    facts: dict[str, Any] = {"cores": cores, **{name: os.environ.get(name) for name in names}}
    told = ", ".join(f"{name}={facts[name]}" for name in names if facts[name])
    seen, trouble = f"{cores} cores{f'; {told}' if told else ''}", []
    if (facts["OMP_WAIT_POLICY"] or "").lower() != "passive":
        trouble.append(
            "unset OMP_WAIT_POLICY or set it to passive: threads that wait by spinning cost ten times the time"
        )
    threads = facts["OMP_NUM_THREADS"] or ""
    if threads.isdigit() and int(threads) > cores:
        trouble.append(f"unset OMP_NUM_THREADS or set it to {cores}: more threads than cores wait for one another")
    return Finding("threads", "note" if trouble else "ok", seen, "; ".join(trouble), facts)


def _plugins(catalogue: Catalogue) -> Iterator[Finding]:
    for plugin in catalogue.plugins:
        facts = {"version": plugin.version, "distribution": plugin.distribution, "error": plugin.error}
        name = f"plugin {plugin.name}"
        if plugin.status == "broken":
            off = f"MMTK_DISABLE_PLUGINS={plugin.name}"
            advice = f"install '{plugin.distribution}' again or newer, or leave it out: {off}"
            yield Finding(
                name, "bad", f"{plugin.distribution} {plugin.version} is broken: {plugin.error}", advice, facts
            )
        else:
            off = ", switched off by MMTK_LOAD_PLUGINS or MMTK_DISABLE_PLUGINS" * (plugin.status == "disabled")
            seen = f"{plugin.distribution} {plugin.version}, {len(plugin.offers)} parts{off}"
            yield Finding(name, "note" if off else "ok", seen, facts=facts)


def _bundles(catalogue: Catalogue) -> Iterator[Finding]:
    from mmtk.bundle.recipe import read_recipe, read_segmenter, segments
    from mmtk.config import Recipe
    from mmtk.errors import MmtkError
    from mmtk.settings import resolve

    loaded = []
    for plugin in catalogue.plugins:
        for folder in sorted(plugin.bundles):
            try:
                if segments(folder):
                    catalogue.find("segmenter", str(read_segmenter(folder)["kind"]))
                else:
                    resolve([], read_recipe(folder)[0], catalogue, Recipe)
                loaded.append(folder.name)
            except MmtkError as error:
                advice = (
                    f"repair or remove '{folder}', which plugin '{plugin.name}' ({plugin.distribution}) brings"
                )
                yield Finding(f"bundle {folder.name}", "bad", " ".join(str(error).split()), advice)
    yield Finding("bundles", "ok", ", ".join(loaded) or "none", facts={"names": loaded})


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding(
        "cpu", "ok", f"torch {torch.__version__} with {torch.get_num_threads()} threads",
        facts={"threads": torch.get_num_threads()},
    )  # fmt: skip
    built = torch.version.cuda or (torch.version.hip and f"ROCm {torch.version.hip}")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())] if built else []
    card = _card()
    facts = {"built_for": built, "devices": names, "seen_by_system": card}
    if names:
        free = [torch.cuda.mem_get_info(index)[0] for index in range(len(names))]
        told = ", ".join(f"cuda:{i} {name}, {gigabytes(free[i])} free" for i, name in enumerate(names))
        yield Finding("cuda", "ok", told, facts=facts)
    elif built:
        seen = f"torch is built for CUDA {built}, and finds no device"
        advice = "check the driver with `nvidia-smi`, and CUDA_VISIBLE_DEVICES" if card else ""
        yield Finding("cuda", "note" if card else "ok", seen, advice, facts)
    elif card:
        advice = "install torch with CUDA: see https://pytorch.org/get-started/locally"
        yield Finding(
            "cuda", "note", "there is an NVIDIA card, but this torch is built for the CPU alone", advice, facts
        )
    else:
        yield Finding("cuda", "ok", "no card; this torch is built for the CPU alone", facts=facts)


def _card() -> bool:
    """Whether the system has an NVIDIA card, whatever torch says."""
    cards = Path("/proc/driver/nvidia/gpus")
    return (cards.is_dir() and any(cards.iterdir())) or any(
        re.fullmatch(r"nvidia\d+", path.name) for path in Path("/dev").glob("nvidia*")
    )


def self_test(register: Callable[..., Any] | None = None) -> Finding:
    """Register a small pair by one call, write it, read it back, and see whether it came out as it must.

    Args:
        register: In place of :func:`mmtk.register`.
    """
    import numpy as np

    begin = time.perf_counter()
    try:
        from mmtk.io import read_image
        from mmtk.registration import register as ours

        space = np.stack(np.meshgrid(*[np.linspace(-1, 1, 32)] * 2, indexing="ij"))
        fixed = np.exp(-6 * (space**2).sum(0)).astype(np.float32)
        moving = np.roll(fixed, 2, axis=0)
        result = (register or ours)(
            moving=moving,
            fixed=fixed,
            init="none",
            spacing=(2.0, 2.0),
            levels=(4.0,),
            iterations=(8,),
            device="cpu",
        )
        with tempfile.TemporaryDirectory(prefix="mmtk-doctor-") as folder:
            warped = read_image(result.save(Path(folder) / "out") / "warped.nii.gz").data
        left = float(((warped - fixed) ** 2).mean() / ((moving - fixed) ** 2).mean())
        folds = int(result.metrics["deformation"]["folds"])
    except Exception as error:  # whatever it is, it is what the user has come for
        advice = (
            "mend what stands above; if nothing does, report this line with the output of `mmtk doctor --json`"
        )
        return Finding("self test", "bad", f"a small registration failed ({_words(error)})", advice)
    facts = {"error_left": left, "folds": folds, "seconds": round(time.perf_counter() - begin, 2)}
    seen = f"a small registration left {left:.0%} of the difference, {folds} folds, {facts['seconds']} s"
    if not left < 0.3 or folds:
        return Finding("self test", "bad", seen, "less than 30 % and none are expected: report this line", facts)
    return Finding("self test", "ok", seen, facts=facts)
