"""From the folders of a cohort to the maps of an atlas.

    OUT/sums.npz, lesions.bits         what is added up, see :mod:`mmtk.atlas.sums`
    OUT/count, probability, lower, upper (.nii.gz)
    OUT/tissue_LABEL_count, _probability      of each tissue of the masks
    OUT/by_COLUMN_GROUP_count, _probability   of the cases of a group
    OUT/by_COLUMN_statistic, _p, _p_family, _p_false, for numbers _r
    OUT/regions.csv, atlas.json, atlas.html

A case is read once. Building again adds the cases that are new; the maps are made anew from the sums.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mmtk.atlas.groups import Found, analyse
from mmtk.atlas.reading import digest, lesion_of, records_of, refuse_others, regions_of, rows_of, template_of
from mmtk.atlas.settings import AtlasConfig
from mmtk.atlas.statistics import pick_columns
from mmtk.atlas.sums import LESION, Sums
from mmtk.atlas.writing import write_atlas
from mmtk.errors import ConfigError
from mmtk.io import holds_something

__all__ = ["build_atlas"]

#: So many cases are added between two savings of the sums.
BETWEEN = 50


def build_atlas(
    cohort: Path,
    out: Path,
    config: AtlasConfig | None = None,
    *,
    rebuild: bool = False,
    tell: Callable[[int, int, str], None] = lambda *_: None,
) -> Found:
    """Add the cases of a cohort to an atlas and write its maps, table and page.

    Args:
        cohort: The folder that `mmtk cohort run` left, or ``cohort.csv`` in it.
        out: Folder of the atlas: new, empty, or one that was built before, to which new cases are added.
        rebuild: Read every case again.
        tell: Called after each case that was read: ``tell(done, total, name)``.

    Raises:
        ConfigError: If there is no such cohort, its cases were not registered onto one template, or the atlas in
            ``out`` is another one.
    """
    config = config or AtlasConfig()
    home = cohort.parent if cohort.suffix.lower() == ".csv" else cohort
    rows, columns = rows_of(home)
    names = pick_columns(config.by, columns)
    records, left_out = records_of(home, rows)
    template = template_of(records)
    regions = None if config.regions is None else regions_of(config.regions, template)
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; give a folder")
    if holds_something(out) and not (out / "sums.npz").is_file():
        raise ConfigError(f"--out {out}: the folder is not empty and holds no atlas; give another one")
    out.mkdir(parents=True, exist_ok=True)
    if rebuild:
        (out / "sums.npz").unlink(missing_ok=True)
    layers = (LESION, *(f"tissue_{label}" for label in config.tissues))
    sums = Sums.open(out, template.shape, layers)
    digests = {name: digest(record) for name, record in records.items()}
    refuse_others(sums.cases, digests)
    fresh = [name for name in records if name not in sums.cases]
    for done, name in enumerate(fresh, 1):
        sums.add(name, digests[name], *lesion_of(home / "cases" / name, records[name], template, config))
        if done % BETWEEN == 0:
            sums.save()
        tell(done, len(fresh), name)
    sums.save()
    found = analyse(template, sums, config, names, rows, regions, left_out, len(fresh))
    write_atlas(found, out)
    return found
