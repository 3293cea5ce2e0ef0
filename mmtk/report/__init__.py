"""The page and the pictures of a run; the only place that knows matplotlib and HTML.

Everything heavy is loaded on the first call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtk.report.findings import Findings, Live
    from mmtk.report.plots import draw_grid as draw_grid
    from mmtk.report.plots import draw_plane as draw_plane
    from mmtk.report.plots import draw_points as draw_points

__all__ = [
    "draw_grid", "draw_plane", "draw_points", "rebuild_report", "write_index", "write_overview", "write_report",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in ("draw_grid", "draw_plane", "draw_points"):
        raise AttributeError(f"module 'mmtk.report' has no attribute '{name}'")
    from mmtk.report import plots

    return getattr(plots, name)


def write_report(path: Path, result: Live | Findings, record: Mapping[str, Any]) -> None:
    """Write one page that tells the whole run and needs no other file.

    Args:
        path: ``report.html``; links to the run's other files are relative to its folder.
        result: What a registration gave, :class:`mmtk.registration.Result`.
        record: What ``run.json`` holds.
    """
    from mmtk.io import write_text
    from mmtk.report.page import make_page

    write_text(path, make_page(result, record))


def rebuild_report(folder: Path) -> Path:
    """Write the page of a run again, from what its folder holds, and return its path.

    Images that the run read are looked for where they were; the page says which it does without.

    Raises:
        InputError: If the folder is none that a run left, or files of it are missing or damaged.
    """
    from mmtk.report.findings import read_findings

    found, record = read_findings(folder)
    path = folder / "report.html"
    write_report(path, found, record)
    return path


def write_index(path: Path, folders: Sequence[Path], failed: Mapping[Path, str] | None = None) -> list[str]:
    """Write one page that lists many runs, the worst first, and return the names of the runs in that order.

    Args:
        path: ``index.html``; links to the runs are relative to its folder.
        folders: Those that runs left. One that cannot be read is listed with the reason, before all others.
        failed: Of folders whose runs are known to have failed, why.
    """
    from mmtk.io import write_text
    from mmtk.report.index import make_index, read_entries

    entries = read_entries(folders, path.parent, failed or {})
    write_text(path, make_index(entries))
    return [entry.name for entry in entries]


def write_overview(path: Path, result: Live | Findings) -> None:
    """Write one PNG with the main panels in a row, the axial plane of each (of a 2-D image, the image).

    Args:
        path: The PNG file.
        result: As for :func:`write_report`.
    """
    from mmtk.io import write_bytes
    from mmtk.report.overview import make_overview

    write_bytes(path, make_overview(result))
