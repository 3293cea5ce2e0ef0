"""Four letters of 48 pixels as a cohort, carried out once by a worker that is a thread of this process."""

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmtk.cohort import CaseRecord, Cohort, carry_out, read_cohort, runner
from mmtk.plugins import installed
from mmtk.samples import make

pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

#: As typed.
SETTINGS = ("method=metamorphosis", "init=none", "levels=4", "iterations=3")


@contextmanager
def here(place):
    """A cluster in this process: nothing is loaded twice."""
    import dask
    from distributed import Client, LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": place.retries}),
        LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def table(folder: Path, count: int = 4) -> Path:
    rows = [f"p{n},letters/{n:03d}/moving.nii.gz,letters/{n:03d}/mask.nii.gz,{40 + 5 * n}" for n in range(count)]
    path = folder / "cohort.csv"
    path.write_text("\n".join(["case,moving,mask,age", *rows]) + "\n")
    return path


def template(folder: Path) -> str:
    return f"template={folder / 'letters' / '000' / 'fixed.nii.gz'}"


@dataclass(frozen=True)
class Done:
    cohort: Cohort
    records: list[CaseRecord]
    out: Path
    folder: Path
    told: list[tuple]


@pytest.fixture(scope="session")
def letters(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    make("c_shapes", folder / "letters", {"count": 4, "size": 48})
    table(folder)
    return folder


@pytest.fixture(scope="session")
def done(letters: Path) -> Done:
    cohort = read_cohort(letters / "cohort.csv", [*SETTINGS, template(letters)], installed())
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "connect", here)
        records = carry_out(cohort, letters / "out", tell=lambda *words: told.append(words))
    return Done(cohort, records, letters / "out", letters, told)
