"""What every worker reads and writes. Standard library alone: it also runs where mmtk is not installed."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any


class Task:
    """Inputs, settings, and the clock of one registration; ``worker.py TASK.json``."""

    def __init__(self, plan: dict[str, Any]) -> None:
        folder, self.out = Path(plan["inputs"]), Path(plan["out"])
        self.settings: dict[str, Any] = plan["settings"]
        self.threads: int = plan["threads"]
        self.fixed, self.moving = str(folder / "fixed.nii.gz"), str(folder / "moving.nii.gz")
        masked = plan["masked"] and (folder / "mask.nii.gz").exists()
        #: The lesion, 1 where it is; and where the image is to be used, 1 outside the lesion.
        self.mask = str(folder / "mask.nii.gz") if masked else None
        self.visible = str(folder / "visible.nii.gz") if masked else None
        #: Fixed to moving: 4x4 in RAS mm as text, and as ITK writes it (LPS); and the latter's inverse.
        self.affine = str(folder / "affine.txt")
        self.itk_affine, self.itk_inverse = str(folder / "affine.tfm"), str(folder / "affine_inverse.tfm")
        #: The whole map from fixed to moving points, to be written: LPS, mm.
        self.displacement = str(self.out / "displacement.nii.gz")
        self.report: dict[str, Any] = {}

    @classmethod
    def read(cls) -> Task:
        return cls(json.loads(Path(sys.argv[1]).read_text()))

    @contextmanager
    def call(self) -> Iterator[None]:
        """Clock the registration proper, without imports, reading and writing."""
        wall, cpu = time.perf_counter(), _cpu()
        yield
        self.report["call_seconds"] = round(time.perf_counter() - wall, 3)
        self.report["call_cpu"] = round(_cpu() - cpu, 3)

    def done(self, *packages: str, **more: Any) -> None:
        versions = {}
        for package in packages:
            try:
                versions[package] = version(package)
            except PackageNotFoundError:
                versions[package] = "?"
        self.report.update(more, versions=versions)
        (self.out / "call.json").write_text(json.dumps(self.report))


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
