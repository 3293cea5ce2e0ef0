"""A folder that is there whole or not at all.

What a run writes lies in a hidden folder beside its own until all of it is there. Then one renaming gives it its
name, so that a process that is killed at any moment leaves the old folder or none.

    .NAME.partial-PID/     locked as long as its process lives; what a dead one left is taken over, or removed
        state.safetensors  what the process wants to find again if it dies
        files/             will be NAME
    .NAME.old-PID/         the folder that is replaced, for the moment between two renamings

A folder that is replaced may hold what is not ours. Such files and folders get a second name in the new folder (a hard
link; where there are none, a copy) before the old one goes.

Some folders cannot be renamed: a mount point, the current folder of the process, one whose parent may not be written
to. And some hold too much to be linked. There the partial folder lies within, as ``.partial-PID``, and the files are
moved one by one: the record goes first and comes back last, and a folder without its record is no result.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from mmtk.errors import ConfigError, ResourceError

__all__ = ["Making", "holds_something", "making"]

#: A folder with more entries of others than this is not replaced as a whole.
FEW = 1000
_FILES, _INSIDE = "files", ".partial-"
_FULL = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EFBIG: "a file grew too large",
}


@dataclass
class Making:
    """A folder in the making.

    Attributes:
        out: Where it will be, absolute, links followed.
        partial: The hidden folder; what lies beside ``files`` in it outlives the process.
        ours: Names that belong to us: those of an older result are replaced or removed.
        record: The one of them that makes a folder a result.
        inside: Whether ``partial`` lies within ``out``.
        resumed: Whether ``partial`` is one that another process left.
    """

    out: Path
    partial: Path
    ours: frozenset[str]
    record: str
    inside: bool = False
    resumed: bool = False
    _lock: int = -1
    _parents: list[Path] = field(default_factory=list)

    @property
    def files(self) -> Path:
        """The folder to write into."""
        folder = self.partial / _FILES
        folder.mkdir(exist_ok=True)
        return folder

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Lend the folder to write into; a disk that fails is told in a sentence.

        Raises:
            ResourceError: If something could not be written; nothing stands under the final name.
        """
        try:
            yield self.files
        except (OSError, RuntimeError) as error:
            if (why := disk_trouble(error)) is None:
                raise
            raise ResourceError(
                f"--out {self.out}: the results could not be written ({why}; {_free(self.partial)} are free there); "
                f"make room, or name a folder on another disk. Nothing was left under that name"
            ) from error

    def publish(self) -> None:
        """Give the files their name, in place of an older result; what else the folder held stays in it.

        Raises:
            ResourceError: If that cannot be done.
        """
        with self.writing() as files:
            if self.inside or not self._swapped(files):
                self._one_by_one(files)
            shutil.rmtree(self.partial, ignore_errors=True)

    def _swapped(self, files: Path) -> bool:
        """Rename the whole folder and return True, or False where that cannot be done and nothing was changed."""
        old = self.partial.with_name(self.partial.name.replace(".partial-", ".old-"))
        if not holds_something(self.out):
            with suppress(OSError):
                os.rename(files, self.out)  # onto an empty folder, too
                return True
            return False
        if not _can_be_renamed(self.out, self.ours):
            return False
        shutil.copymode(self.out, files)
        for entry in self.out.iterdir():
            if entry.name not in self.ours and not entry.name.startswith(_INSIDE):
                _link(entry, files / entry.name)
        try:
            os.rename(self.out, old)
            os.rename(files, self.out)
        except BaseException:
            if old.exists() and not self.out.exists():
                os.rename(old, self.out)
            raise
        shutil.rmtree(old, ignore_errors=True)
        return True

    def _one_by_one(self, files: Path) -> None:
        self.out.mkdir(exist_ok=True)
        (self.out / self.record).unlink(missing_ok=True)
        made = sorted(files.iterdir(), key=lambda path: path.name == self.record)
        for stale in self.ours - {path.name for path in made}:
            (self.out / stale).unlink(missing_ok=True)
        for path in made:
            os.replace(path, self.out / path.name)

    def _leave(self) -> None:
        """Remove what nobody will ask for: the files, and the whole if nothing was to outlive the process."""
        shutil.rmtree(self.partial / _FILES, ignore_errors=True)
        for folder in (self.partial, *self._parents):
            with suppress(OSError):  # one that is not empty stays
                folder.rmdir()
        if self._lock >= 0:
            os.close(self._lock)


@contextmanager
def making(
    out: str | os.PathLike[str],
    *,
    ours: Collection[str],
    record: str,
    overwrite: bool = False,
    resume: bool = False,
) -> Iterator[Making]:
    """Lend a folder in the making; only :meth:`Making.publish` makes it appear.

    Args:
        out: The folder that is to be; its parents are made.
        ours: Names of files that may be written into it.
        record: The one of them that is written last.
        overwrite: Whether ``out`` may hold something.
        resume: Whether what a process that died has kept is to be found in ``partial``; else it is removed.

    Raises:
        ConfigError: If the folder is in use, is a file, or cannot be made; nothing was changed.
    """
    target = Path(os.path.realpath(Path(out).expanduser()))
    parents = [folder for folder in target.parents if not folder.exists()]
    try:
        made = _claim(target, frozenset(ours), record, overwrite, resume)
    except OSError as error:
        why = disk_trouble(error) or error.strerror or str(error)
        raise ConfigError(
            f"--out {out}: a folder cannot be made there ({why}); name one that you may write to"
        ) from error
    made._parents = parents
    try:
        yield made
    finally:
        made._leave()


def holds_something(out: Path, beside: Collection[str] = ()) -> bool:
    """Whether a folder is there and holds more than names ``beside`` and what a run in the making has put there."""
    return out.is_dir() and any(
        not entry.name.startswith(_INSIDE) and entry.name not in beside for entry in out.iterdir()
    )


def disk_trouble(error: BaseException) -> str | None:
    """Return what a disk refused, in words, or None for an error of another kind.

    HDF5 has errors of its own, which give the number of the system's in their text.
    """
    told = re.search(r"errno = (\d+)", str(error))
    number = error.errno if isinstance(error, OSError) and error.errno else int(told[1]) if told else None
    if number is None:
        return None
    return _FULL.get(number, os.strerror(number))


def _free(folder: Path) -> str:
    with suppress(OSError):
        return f"{shutil.disk_usage(folder).free / 1e6:,.1f} MB"
    return "0 MB"


def _claim(out: Path, ours: frozenset[str], record: str, overwrite: bool, resume: bool) -> Making:
    inside = holds_something(out) and not _can_be_renamed(out, ours)
    home, prefix = (out, _INSIDE) if inside else (out.parent, f".{out.name}.partial-")
    home.mkdir(parents=True, exist_ok=True)
    with _locked(home):
        found = [folder for folder in home.iterdir() if folder.name.startswith(prefix) and folder.is_dir()]
        for folder in found:
            if _lives(folder):
                raise ConfigError(
                    f"--out {out}: another run (process {folder.name[len(prefix) :]}) is writing to it; wait until "
                    f"it has ended, or name another folder"
                )
        if not inside:
            _recover(out)
        if holds_something(out) and not overwrite:
            raise ConfigError(f"--out {out}: the folder is not empty; name another, or add --overwrite")
        for folder in found:
            shutil.rmtree(folder / _FILES, ignore_errors=True)
        kept = [folder for folder in found if any(folder.iterdir())] if resume else []
        partial = home / f"{prefix}{os.getpid()}"
        taken = max(kept, key=lambda folder: max(p.stat().st_mtime for p in folder.iterdir()), default=None)
        for folder in found:
            if folder != taken:
                shutil.rmtree(folder)
        if taken is None:
            partial.mkdir()
        elif taken != partial:
            os.rename(taken, partial)
        lock = os.open(partial, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks; the number of the process tells
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return Making(out, partial, ours, record, inside, taken is not None, lock)


def _recover(out: Path) -> None:
    """Undo what a process left that died between two renamings."""
    for old in out.parent.glob(f".{_literal(out.name)}.old-*"):
        if out.exists():
            shutil.rmtree(old)
        else:
            os.rename(old, out)


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Let one process at a time claim a name in a folder; the lock goes with the process."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _lives(partial: Path) -> bool:
    """Whether the process that made a partial folder is still there."""
    handle = os.open(partial, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        with suppress(ProcessLookupError, ValueError):
            os.kill(int(partial.name.rpartition("-")[2]), 0)
            return True
    finally:
        os.close(handle)
    return False


def _can_be_renamed(out: Path, ours: frozenset[str]) -> bool:
    here = Path.cwd()
    if os.path.ismount(out) or out == here or out in here.parents or not os.access(out.parent, os.W_OK | os.X_OK):
        return False
    count = 0
    for folder, folders, files in os.walk(out):
        count += len(folders) + len(files)
        if count > FEW or any(os.path.ismount(os.path.join(folder, name)) for name in folders):
            return False
    return True


def _link(source: Path, target: Path) -> None:
    """Give a file, or all that is in a folder, a second name; copy where the file system has no links."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
