"""The page and the pictures of a run; the only place that knows matplotlib and HTML.

Everything heavy is loaded on the first call.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtk.report.views import Findings

__all__ = ["write_overview", "write_report"]


def write_report(path: Path, result: Findings, record: Mapping[str, Any]) -> None:
    """Write one page that tells the whole run and needs no other file.

    Args:
        path: ``report.html``; links to the run's other files are relative to its folder.
        result: What a registration gave, :class:`mmtk.registration.Result`.
        record: What ``run.json`` holds.
    """
    from mmtk.io import write_text
    from mmtk.report.page import make_page

    write_text(path, make_page(result, record))


def write_overview(path: Path, result: Findings) -> None:
    """Write one PNG with the main panels in a row, the axial plane of each (of a 2-D image, the image).

    Args:
        path: The PNG file.
        result: As for :func:`write_report`.
    """
    from mmtk.io import write_bytes
    from mmtk.report.overview import make_overview

    write_bytes(path, make_overview(result))
