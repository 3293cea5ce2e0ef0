"""What a reader or a writer is told: the file, the two images, and how its numbers are meant."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from mmtk.errors import InputError
from mmtk.io.headers import probe_image
from mmtk.io.transforms import AffineStep, FieldStep
from mmtk.io.volume import Header, Volume

__all__ = ["Grid", "Image", "Request", "Steps"]

Steps = tuple[AffineStep | FieldStep, ...]
Grid = Header | Volume
#: An image as its file, its header, or read.
Image = str | os.PathLike[str] | Header | Volume | None


@dataclass(frozen=True)
class Request:
    """One file to read or to write.

    Attributes:
        path: The file, or what stands for several.
        format: The name of the format, for messages.
        fixed: The image whose points the transform takes, or None.
        moving: The image to which it takes them, or None.
        convention: What a user said about the meaning of the numbers, or None.
        dim: 2 or 3, where neither steps nor images say.
    """

    path: Path
    format: str
    fixed: Grid | None = None
    moving: Grid | None = None
    convention: str | None = None
    dim: int = 3

    @classmethod
    def of(
        cls,
        path: str | os.PathLike[str],
        format: str,
        fixed: Image = None,
        moving: Image = None,
        convention: str | None = None,
        dim: int = 3,
    ) -> Request:
        """Return a request; images that are files are opened, their voxels unread.

        Raises:
            InputError: If an image cannot be used.
        """
        return cls(Path(path), format, _grid(fixed, "fixed"), _grid(moving, "moving"), convention, dim)

    def need(self, *names: str) -> None:
        """Refuse to go on without an image.

        Raises:
            InputError: Naming those that are missing.
        """
        missing = [name for name in names if getattr(self, name) is None]
        if missing:
            self.refuse(
                f"its numbers mean something only together with the grid of the {' and the '.join(missing)} image; "
                f"add {' '.join(f'{name}=FILE' for name in missing)}"
            )

    def need_three_axes(self) -> None:
        """Refuse two-dimensional transforms where the format knows none.

        Raises:
            InputError: With what to use instead.
        """
        if self.dim != 3 or any(image is not None and image.dim != 3 for image in (self.fixed, self.moving)):
            self.refuse("it holds transforms of three dimensions only; use an ITK file (.h5) for two")

    def refuse(self, why: str) -> NoReturn:
        """Raise an :class:`InputError` that names file and format."""
        raise InputError(f"'{self.path}' ({self.format}): {why}")


def _grid(image: Image, name: str) -> Grid | None:
    if image is None or isinstance(image, (Header, Volume)):
        return image
    return probe_image(image, name=name)
