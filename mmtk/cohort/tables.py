"""A cohort's table from a folder of patients whose files are named as a known data set names them."""

from __future__ import annotations

import csv
import io as textio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmtk.config import nearest
from mmtk.errors import ConfigError
from mmtk.io.brats_reg import BASELINE, FOLLOW_UP, days_between, find_patients, modalities_of, scans_of
from mmtk.modalities import KNOWN, files_of

__all__ = ["LAYOUTS", "make_table"]

Row = Mapping[str, str]
ENDS = (".nii.gz", ".nii")


def make_table(folder: Path, layout: str, modalities: Sequence[str]) -> str:
    """Return the table, paths absolute.

    Args:
        folder: Of the patients.
        layout: One of :data:`LAYOUTS`.
        modalities: Those to be registered together, the first one leading; with one, images of one channel.

    Raises:
        ConfigError: With a sentence for each patient and modality that is missing.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"layout={layout}: must be one of {', '.join(LAYOUTS)}{nearest(layout, LAYOUTS)}")
    if not modalities:
        raise ConfigError("modalities: name at least one, as in modalities=t1ce,flair")
    if twice := sorted({name for name in modalities if modalities.count(name) > 1}):
        raise ConfigError(
            f"modalities={','.join(modalities)}: {', '.join(twice)} stands there twice; name it once"
        )
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; give the one that holds the patients' folders")
    problems: list[str] = []
    rows = LAYOUTS[layout](folder.absolute(), tuple(modalities), problems)
    if problems:
        raise ConfigError(problems)
    text = textio.StringIO()
    columns = [name for name in dict.fromkeys(key for row in rows for key in row)]
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _brats_reg(folder: Path, modalities: Sequence[str], problems: list[str]) -> list[Row]:
    """Return a row a patient: the follow-up onto the scan before treatment."""
    rows: list[Row] = []
    for patient in find_patients(folder):
        scans = {name: scans_of(patient, name) for name in modalities}
        for name, found in scans.items():
            for time, when in ((BASELINE, "before treatment"), (FOLLOW_UP, "follow-up")):
                if time not in found:
                    there = ", ".join(modalities_of(patient)) or "none"
                    problems.append(
                        f"'{patient}': no scan {patient.name}_{time}_*_{name} ({when}); there are {there}"
                    )
        if problems:
            continue
        row = {"case": patient.name}
        for side, time in (("moving", FOLLOW_UP), ("fixed", BASELINE)):
            row[side] = ",".join(str(scans[name][time]) for name in modalities)
        for side, time in (("mask", FOLLOW_UP), ("fixed_mask", BASELINE)):
            row[side] = str(scans_of(patient, "seg").get(time, ""))
        days = days_between(patient)
        rows.append({**row, "days": "" if days is None else str(days)})
    return [{key: value for key, value in row.items() if any(other[key] for other in rows)} for row in rows]


def _brats(folder: Path, modalities: Sequence[str], problems: list[str]) -> list[Row]:
    """Return a row a patient, for a template that is given to the cohort."""
    rows: list[Row] = []
    for patient in sorted(path for path in folder.iterdir() if path.is_dir()):
        try:
            files = files_of(patient)
        except ValueError as error:
            problems.append(str(error))
            continue
        if missing := [name for name in modalities if name not in files]:
            there = ", ".join(name for name in files if name in KNOWN)
            problems.append(f"'{patient}': no file of {', '.join(missing)}; there are {there}")
            continue
        row = {"case": patient.name, "moving": ",".join(str(files[name]) for name in modalities)}
        rows.append(row | ({"mask": str(files["seg"])} if "seg" in files else {}))
    if not rows and not problems:
        problems.append(f"{folder}: holds no folder of a patient, such as BraTS2021_00000; give the one that does")
    return rows


#: How folders are laid out: ``brats-reg``, two visits of a patient; ``brats``, one visit.
LAYOUTS: dict[str, Callable[[Path, Sequence[str], list[str]], list[Row]]] = {
    "brats-reg": _brats_reg,
    "brats": _brats,
}
