"""How BraTS-Reg lays its data out: a folder a patient, two visits, four modalities, landmarks.

    BraTSReg_001/BraTSReg_001_00_0000_t1ce.nii.gz       before treatment
    BraTSReg_001/BraTSReg_001_00_0000_landmarks.csv
    BraTSReg_001/BraTSReg_001_01_0106_t1ce.nii.gz       follow-up, 106 days later
    BraTSReg_001/BraTSReg_001_01_0106_landmarks.csv

``..._seg.nii.gz`` beside a scan is its lesion, if there is one; the challenge gives none.
"""

from __future__ import annotations

import re
from pathlib import Path

from mmtk.errors import ConfigError

__all__ = ["BASELINE", "FOLLOW_UP", "SCAN", "days_between", "find_patients", "modalities_of", "scans_of"]

BASELINE, FOLLOW_UP = "00", "01"
#: The name of a scan.
SCAN = re.compile(r"(?P<id>BraTSReg_\d+)_(?P<time>0[01])_(?P<days>\d+)_(?P<modality>[A-Za-z0-9]+)\.nii(?:\.gz)?$")


def find_patients(folder: Path) -> list[Path]:
    """Return the folders of the patients, by name.

    Raises:
        ConfigError: There is none.
    """
    found = [p for p in sorted(folder.iterdir()) if p.is_dir() and re.fullmatch(r"BraTSReg_\d+", p.name)]
    if not found:
        raise ConfigError(
            f"folder={folder}: holds no folder BraTSReg_001; give the one of the challenge that holds its patients"
        )
    return found


def scans_of(patient: Path, modality: str) -> dict[str, Path]:
    """Return the scans of a modality: ``00`` before treatment, ``01`` the follow-up."""
    named = [(SCAN.match(path.name), path) for path in sorted(patient.iterdir())]
    return {
        match["time"]: path
        for match, path in named
        if match and match["id"] == patient.name and match["modality"] == modality
    }


def modalities_of(patient: Path) -> list[str]:
    """Return the modalities that a patient was scanned in at any visit."""
    found = {match["modality"] for path in patient.iterdir() if (match := SCAN.match(path.name))}
    return sorted(found - {"seg"})


def days_between(patient: Path) -> int | None:
    """Return how many days after the first visit the second was, as the names of the files say; None: they do not."""
    days = {m["time"]: int(m["days"]) for path in patient.iterdir() if (m := SCAN.match(path.name))}
    return days[FOLLOW_UP] - days[BASELINE] if len(days) == 2 else None
