"""An archive from anybody, unpacked so that it stays within its folder and within bounds, or not at all.

All names are judged before the first byte is written. What is written goes into a fresh folder beside the target,
which is renamed when it is complete. Sizes are counted as bytes arrive, since what an archive says of itself may be
wrong. Formats: zip, tar, tar.gz; xz is left out because its decompressor takes as much memory as the file asks for.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import secrets
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mmtk.errors import InputError

__all__ = ["Limits", "unpack"]

#: Names that Windows gives to devices.
_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)

#: A header, a long name or a block of data is read in pieces no larger than this, in bytes.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """How much an archive may hold.

    Attributes:
        files: Entries.
        size: Bytes of all files together.
        ratio: Bytes that one byte of the archive may become, beyond the first ``free`` bytes.
        free: Bytes that need no ratio: a few files of zeros are no bomb.
    """

    files: int = 2000
    size: int = 4 << 30
    ratio: int = 100
    free: int = 16 << 20

    def bytes_for(self, archive: Path) -> int:
        """How many bytes ``archive`` may become."""
        return min(self.size, self.free + self.ratio * archive.stat().st_size)


@dataclass(frozen=True)
class _Entry:
    """A file or folder in an archive."""

    name: str
    folder: bool
    size: int
    open: Callable[[], IO[bytes]]


def unpack(archive: Path, target: Path, limits: Limits | None = None) -> Path:
    """Unpack a bundle and return its folder, which is ``target``.

    Where all of the archive lies in one folder, that folder's content is the bundle.

    Raises:
        InputError: It is no archive that we read, or an entry is refused; nothing is left behind.
    """
    limits = limits or Limits()
    target = Path(target)
    if os.path.lexists(target):
        raise InputError(f"{target}: exists; give a new folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{secrets.token_hex(4)}.{target.name}")
    try:
        with _opened(Path(archive), limits) as entries:
            judged = _judged(archive, entries, limits)
            fresh.mkdir()
            _write(archive, judged, fresh, limits)
        os.rename(_root(fresh), target)
    except (
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise InputError(f"{archive}: a damaged archive ({' '.join(str(error).split())})") from error
    except (ValueError, OverflowError, OSError) as error:
        if isinstance(error, (InputError, FileNotFoundError, PermissionError)):
            raise
        raise InputError(f"{archive}: cannot be unpacked ({' '.join(str(error).split())})") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return target


@contextmanager
def _opened(archive: Path, limits: Limits) -> Iterator[Iterable[_Entry]]:
    if not archive.is_file():
        raise InputError(f"{archive}: not a file; give a zip, tar or tar.gz")
    with open(archive, "rb") as file:
        start = file.read(262)
    if start[:2] == b"PK":
        with zipfile.ZipFile(archive) as zipped:
            yield _zip_entries(archive, zipped, limits)
    elif start[:2] == b"\x1f\x8b" or start[257:262] == b"ustar":
        plain: Any = gzip.open(archive, "rb") if start[:2] == b"\x1f\x8b" else open(archive, "rb")  # noqa: SIM115
        with plain, tarfile.open(fileobj=_Bounded(archive, plain, limits), mode="r:") as tarred:
            yield _tar_entries(archive, tarred)
    else:
        raise InputError(f"{archive}: neither a zip nor a tar nor a tar.gz; pack it as one of these")


def _zip_entries(archive: Path, zipped: zipfile.ZipFile, limits: Limits) -> Iterator[_Entry]:
    for info in zipped.infolist():
        if info.flag_bits & 1:
            raise InputError(f"{archive}: {_shown(info.filename)} is encrypted; pack it without a password")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(f"{archive}: {_shown(info.filename)} is packed in a rare way; use deflate")
        mode = info.external_attr >> 16
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise InputError(f"{archive}: {_shown(info.filename)} is a link or a device; pack plain files")
        # `orig_filename` is what the archive says: zipfile cuts names at a NUL and turns backslashes on Windows.
        yield _Entry(info.orig_filename, info.is_dir(), info.file_size, lambda info=info: zipped.open(info))  # type: ignore[misc]


def _tar_entries(archive: Path, tarred: tarfile.TarFile) -> Iterator[_Entry]:
    for info in tarred:
        if not (info.isdir() or info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)):
            raise InputError(f"{archive}: {_shown(info.name)} is a link or a device; pack plain files")
        yield _Entry(info.name, info.isdir(), info.size, lambda info=info: _tar_file(tarred, info))  # type: ignore[misc]


def _tar_file(tarred: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    file = tarred.extractfile(info)
    assert file is not None
    return file


def _judged(archive: Path, entries: Iterable[_Entry], limits: Limits) -> list[_Entry]:
    """The entries, none of which leads out of a folder, is written twice, or is more than may be."""
    judged: list[_Entry] = []
    files: set[str] = set()
    folders: set[str] = set()
    size, most = 0, limits.bytes_for(archive)
    for entry in entries:
        words = entry.name.removesuffix("/").split("/")
        words = words[1:] if words[0] == "." else words
        if entry.folder and not words:
            continue
        if what := _unsafe(entry.name, words):
            raise InputError(f"{archive}: the name {_shown(entry.name)} {what}; nothing was unpacked")
        judged.append(_Entry("/".join(words), entry.folder, entry.size, entry.open))
        # Names that differ in case alone are one file on many disks.
        name = "/".join(words).casefold()
        above = {"/".join(words[:count]).casefold() for count in range(1, len(words))}
        if name in files or above & files or (not entry.folder and name in folders):
            raise InputError(f"{archive}: {_shown(entry.name)} is there twice; nothing was unpacked")
        folders |= above
        (folders if entry.folder else files).add(name)
        size += entry.size
        if len(judged) > limits.files:
            raise InputError(f"{archive}: more than {limits.files} files; nothing was unpacked")
        if size > most:
            raise InputError(f"{archive}: would become more than {most} bytes; nothing was unpacked")
    if not judged:
        raise InputError(f"{archive}: is empty")
    return judged


def _unsafe(name: str, words: list[str]) -> str | None:
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "is absolute"
    if ".." in words:
        return "leads out of its folder"
    if "\\" in name or ":" in name or not name.isprintable():
        return "has a backslash, a colon or a control character"
    if len(name) > 240 or len(words) > 16:
        return "is too long"
    if any(
        word in ("", ".") or word != word.strip(" ") or word.endswith(".") or _DEVICES.fullmatch(word)
        for word in words
    ):
        return "is no name on every system"
    return None


def _write(archive: Path, entries: Iterable[_Entry], folder: Path, limits: Limits) -> None:
    left = limits.bytes_for(archive)
    for entry in entries:
        path = folder / entry.name
        if entry.folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        with entry.open() as source, open(path, "xb") as file:
            while piece := source.read(_PIECE):
                left -= len(piece)
                if left < 0:
                    raise InputError(
                        f"{archive}: becomes more than {limits.bytes_for(archive)} bytes; it was stopped"
                    )
                file.write(piece)


def _root(folder: Path) -> Path:
    """The bundle within what was unpacked: the one folder that holds everything, or all of it."""
    inside = list(folder.iterdir())
    if len(inside) == 1 and inside[0].is_dir() and not (folder / "configs").is_dir():
        return inside[0]
    return folder


class _Bounded(io.RawIOBase):
    """A tar file that is neither read past the limit nor in one long piece, as a header may ask for."""

    def __init__(self, archive: Path, file: IO[bytes], limits: Limits) -> None:
        self._archive, self._file, self._most = archive, file, limits.bytes_for(archive) + 4096 * limits.files

    def read(self, size: int = -1) -> bytes:
        if size < 0 or size > _PIECE:
            raise InputError(f"{self._archive}: a header of {size} bytes; nothing was unpacked")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._check(offset)
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def _check(self, position: int) -> None:
        if position > self._most:
            raise InputError(f"{self._archive}: becomes more than {self._most} bytes; it was stopped")


def _shown(name: str) -> str:
    text = repr(name)
    return text if len(text) <= 80 else f"{text[:77]}..."
