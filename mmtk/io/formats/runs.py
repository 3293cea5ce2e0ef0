"""The folder that a run leaves, as something to convert from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmtk.errors import InputError
from mmtk.io.formats.request import Steps
from mmtk.io.headers import probe_image
from mmtk.io.transforms import read_transform
from mmtk.io.volume import Header

__all__ = ["FORWARD", "INVERSE", "RunFolder", "free_to_write", "is_run"]

FORWARD, INVERSE = "transform.h5", "inverse_transform.h5"


def is_run(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is the folder of a run."""
    return (Path(path) / "run.json").is_file()


@dataclass(frozen=True)
class RunFolder:
    """A finished run.

    Attributes:
        path: The folder.
        record: What is in its ``run.json``.
        images: The fixed and the moving image where a user says that they lie elsewhere now.
    """

    path: Path
    record: dict[str, Any]
    images: dict[str, Path]

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, fixed: Path | None = None, moving: Path | None = None
    ) -> RunFolder:
        """Return the run in a folder.

        Raises:
            InputError: If the folder is not one of a run.
        """
        folder = Path(path)
        file = folder / "run.json"
        if not file.is_file():
            raise InputError(
                f"'{folder}' is not the folder of a run: it has no run.json; give one that `mmtk run` left"
            )
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"'{file}' is damaged ({error}); repeat the run") from error
        given = {name: path for name, path in (("fixed", fixed), ("moving", moving)) if path is not None}
        return cls(folder, record, given)

    def file(self, name: str) -> Path:
        """Return a file of the run.

        Raises:
            InputError: If it is not there.
        """
        found = self.path / name
        if not found.is_file():
            raise InputError(f"'{self.path}' has no {name}; repeat the run")
        return found

    def steps(self, name: str = FORWARD) -> Steps:
        """Return the transform: from fixed to moving points, or with ``INVERSE`` back."""
        return read_transform(self.file(name))

    def image_path(self, name: str) -> Path:
        """Return where the ``fixed`` or the ``moving`` image lies.

        Raises:
            InputError: If it is not there any more.
        """
        if name in self.images:
            return self.images[name]
        told = self.record.get("inputs", {}).get(name, {}).get("path")
        for found in [Path(told), self.path / told, self.path.parent / told] if told else []:
            if found.is_file():
                return found
        raise InputError(f"'{self.path}': its {name} image '{told}' is not there any more; add {name}=FILE")

    def image(self, name: str) -> Header:
        """Return the header of the ``fixed`` or the ``moving`` image.

        Raises:
            InputError: If it is not there any more, or another one is.
        """
        header = probe_image(
            self.image_path(name), name=name, spacing=self.record.get("settings", {}).get("spacing")
        )
        shape = self.record.get("inputs", {}).get(name, {}).get("shape")
        if shape is not None and tuple(shape) != tuple(header.shape):
            raise InputError(
                f"'{self.path}': its {name} image had {tuple(shape)} voxels, but '{header.path}' has "
                f"{tuple(header.shape)}; add {name}=FILE with the image of the run"
            )
        return header


def free_to_write(files: Iterable[Path], overwrite: bool) -> None:
    """Refuse to write over files.

    Raises:
        InputError: Naming the first ones that are there.
    """
    taken = [file for file in files if file.exists()]
    if taken and not overwrite:
        are = f" and {len(taken) - 1} more are" if len(taken) > 1 else " is"
        raise InputError(f"'{taken[0]}'{are} there already; choose another name, or add --overwrite")
