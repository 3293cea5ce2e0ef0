"""A cohort: what is left, what is not done twice, what is refused, and what a kill costs."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_cohort import SETTINGS, here, table, template

from mmtk.cohort import carry_out, cluster, read_case, read_cohort, runner
from mmtk.cohort.description import Place
from mmtk.errors import ConfigError, ResourceError
from mmtk.io import read_image
from mmtk.plugins import installed


def rows(out: Path) -> list[dict[str, str]]:
    with open(out / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def copy(done, tmp_path, monkeypatch):
    """The finished cohort, to be changed."""
    shutil.copytree(done.folder, tmp_path / "copy")
    monkeypatch.setattr(runner, "connect", here)
    return tmp_path / "copy"


def read(folder: Path, *settings: str):
    return read_cohort(folder / "cohort.csv", [*SETTINGS, template(folder), *settings], installed())


def test_every_case_leaves_a_folder_and_a_row(done):
    assert [record.status for record in done.records] == ["done"] * 4
    assert [(row["case"], row["age"], row["status"]) for row in rows(done.out)] == [
        (f"p{n}", str(40 + 5 * n), "done") for n in range(4)
    ]
    assert all(float(row["similarity.correlation_outside"]) > 0 for row in rows(done.out))
    assert all((done.out / "cases" / f"p{n}" / "report.html").is_file() for n in range(4))
    index = (done.out / "index.html").read_text()
    assert all(f"cases/p{n}/report.html" in index for n in range(4))
    assert sorted(count for count, *_ in done.told) == [1, 2, 3, 4]
    account = json.loads((done.out / "cohort.json").read_text())
    assert account["done"] == 4 and account["failed"] == {}


def test_what_is_done_is_not_run_again(copy, monkeypatch):
    monkeypatch.setattr(runner, "connect", None)  # would be called
    cohort = read(copy)
    before = [read_case(copy / "out" / "cases" / f"p{n}.json") for n in range(4)]
    # The copy's files lie elsewhere and are younger: they are compared by what they hold.
    (copy / "letters" / "001" / "moving.nii.gz").touch()
    assert carry_out(cohort, copy / "out") == before


def test_a_changed_setting_or_file_is_refused_and_run_anew_when_asked_for(copy):
    with pytest.raises(ConfigError) as refused:
        carry_out(read(copy, "mu=0.5"), copy / "out")
    assert len(refused.value.problems) == 4
    assert refused.value.problems[0] == (
        "case p0: was run with other settings (method.mu); add --retry to run it anew, or name another --out"
    )
    shutil.copy(copy / "letters" / "003" / "moving.nii.gz", copy / "letters" / "001" / "moving.nii.gz")
    with pytest.raises(ConfigError, match="case p1: was run with another moving") as refused:
        carry_out(read(copy), copy / "out")
    assert len(refused.value.problems) == 1
    told = []
    records = carry_out(read(copy), copy / "out", retry=True, tell=lambda *words: told.append(words))
    assert [record.case for *_, record, found in told if not found] == ["p1"]
    assert all(record.status == "done" for record in records)


def test_another_column_changes_no_result_but_the_table(copy, monkeypatch):
    monkeypatch.setattr(runner, "connect", None)
    path = copy / "cohort.csv"
    path.write_text(path.read_text().replace("age", "years"))
    carry_out(read(copy), copy / "out")
    assert rows(copy / "out")[2]["years"] == "50"


def test_a_failure_is_named_kept_and_tried_again_only_when_asked_for(copy):
    image = copy / "letters" / "002" / "moving.nii.gz"
    good = image.read_bytes()
    (copy / "out" / "cases" / "p2.json").unlink()
    image.write_bytes(good[:-20])  # the header is whole, so that it is found when the voxels are read
    records = carry_out(read(copy), copy / "out")
    assert [record.status for record in records] == ["done", "done", "failed", "done"]
    assert "truncated or damaged" in records[2].message
    assert rows(copy / "out")[2]["message"] == records[2].message
    index = (copy / "out" / "index.html").read_text()
    assert index.index("This run failed") < index.index("cases/p0/report.html")
    assert carry_out(read(copy), copy / "out")[2].failed
    image.write_bytes(good)
    with pytest.raises(ConfigError, match="case p2: was run with another moving"):
        carry_out(read(copy), copy / "out")
    assert carry_out(read(copy), copy / "out", retry=True)[2].status == "done"


def test_what_gives_out_on_the_way_is_tried_again(copy, monkeypatch):
    import mmtk.cohort.work as work

    (copy / "out" / "cases" / "p0.json").unlink()
    (copy / "out" / "cases" / "p1.json").unlink()
    tried: dict[str, int] = {}
    register = work._register

    def failing(job, out, resume):
        tried[job["case"]] = tried.get(job["case"], 0) + 1
        if job["case"] == "p0" or tried[job["case"]] == 1:
            raise ResourceError("memory ran out")
        assert resume  # goes on with what the first had begun
        return register(job, out, resume)

    monkeypatch.setattr(work, "_register", failing)
    records = carry_out(read(copy, "retries=1"), copy / "out")
    assert tried == {"p0": 2, "p1": 2}
    assert records[0].message == "memory ran out (tried 2 times)" and records[1].status == "done"


@pytest.mark.parametrize(
    ("text", "settings", "told"),
    [
        ("case,moving\np,nowhere.nii.gz\n", (), "line 2: case p: moving: "),
        ("case,moving,maks\np,a,b\n", (), "unknown column 'maks'; did you mean 'mask'?"),
        ("moving\nletters/000/moving.nii.gz\n", (), "there is no column 'case'"),
        ("case,moving\n", (), "holds no row"),
        ("case,moving\na/b,letters/000/moving.nii.gz\n", (), "is to be the name of a folder"),
        ("case,moving\np,letters/000/moving.nii.gz\np,letters/001/moving.nii.gz\n", (), "line 2 has that name"),
        ("case,moving\np,letters/000/moving.nii.gz\n", ("workers=0",), "workers=0: "),
        (
            "case,moving\np,letters/000/moving.nii.gz\n",
            ("scheduler=pbs",),
            "must be local, slurm or tcp://HOST:PORT",
        ),
        ("case,moving\np,letters/000/moving.nii.gz\n", ("memory=0.01",), "memory=0.01 is what a worker may take"),
        ("case,moving\np,letters/000/moving.nii.gz\n", ("bundle=nobody",), "bundle=nobody: "),
    ],
)
def test_a_slip_is_one_sentence_before_any_work(letters, tmp_path, text, settings, told):
    (tmp_path / "letters").symlink_to(letters / "letters")
    (tmp_path / "cohort.csv").write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_cohort(tmp_path / "cohort.csv", ["method=metamorphosis", template(letters), *settings], installed())
    assert [problem for problem in refused.value.problems if told in problem], refused.value.problems


def test_dask_that_is_not_installed_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"pip install 'mmtk\[cluster\]'"):
        cluster.ready(Place())


def test_a_job_of_slurm_asks_for_what_was_said():
    place = Place(scheduler="slurm", queue="long", account="lab", walltime="02:00:00", threads=3, memory=8, gpus=1)
    script = cluster.job_script(place)
    for words in (
        "#SBATCH -p long", "#SBATCH -A lab", "#SBATCH --cpus-per-task=3", "#SBATCH --mem=8G", "#SBATCH -t 02:00:00",
        "#SBATCH --gres=gpu:1", "export OMP_NUM_THREADS=3", "--nthreads 1", "--resources GPU=1",
    ):  # fmt: skip
        assert words in script


def test_each_gpu_has_one_worker_that_sees_no_other(monkeypatch):
    made = {}
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr("distributed.SpecCluster", lambda **said: made.update(said))
    cluster._local(Place(gpus=2, memory=6, threads=2))
    options = [worker["options"] for worker in made["workers"].values()]
    assert [one["env"]["CUDA_VISIBLE_DEVICES"] for one in options] == ["4", "7"]
    assert all(one["resources"] == {"GPU": 1} and one["nthreads"] == 1 for one in options)
    assert all(one["memory_limit"] == 6_000_000_000 and one["env"]["OMP_NUM_THREADS"] == "2" for one in options)


def test_nobody_at_an_address_is_one_sentence(monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 0.2)
    place = Place(scheduler="tcp://127.0.0.1:9")
    with (
        pytest.raises(ConfigError, match="nobody answers there; start one by `dask scheduler`"),
        cluster.connect(place),
    ):
        pass


# --- processes


def command(folder: Path, out: Path) -> subprocess.Popen[bytes]:
    words = [*SETTINGS[:-1], "iterations=60", template(folder), "workers=2", "retries=3"]
    program = [
        sys.executable,
        "-m",
        "mmtk",
        "cohort",
        "run",
        str(folder / "cohort.csv"),
        *words,
        "--out",
        str(out),
    ]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def statuses(out: Path) -> list[str]:
    records = [read_case(path) for path in sorted((out / "cases").glob("*.json"))] if out.is_dir() else []
    return [record.status for record in records if record is not None]


def wait_for(out: Path, status: str, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 600
    while status not in statuses(out):
        assert process.poll() is None, process.stdout.read().decode()
        assert time.monotonic() < end, f"no case is {status}"
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_workers_and_a_killed_command_cost_nothing(letters, tmp_path, monkeypatch):
    import psutil

    out = tmp_path / "out"
    first = command(letters, out)
    try:
        wait_for(out, "begun", first)
        workers = [
            p for p in psutil.Process(first.pid).children(recursive=True) if "spawn_main" in str(p.cmdline())
        ]
        assert len(workers) == 2
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
        wait_for(out, "done", first)
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        first.stdout.close()
    left = statuses(out)
    assert "done" in left
    again = command(letters, out)
    told, _ = again.communicate(timeout=500)
    assert again.returncode == 0, told.decode()
    assert [row["status"] for row in rows(out)] == ["done"] * 4
    monkeypatch.setattr(runner, "connect", here)
    settings = [*SETTINGS[:-1], "iterations=60", template(letters)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    carry_out(read_cohort(table(letters), settings, installed()), tmp_path / "whole")
    torch.set_num_threads(threads)
    for name in (f"cases/p{n}/warped.nii.gz" for n in range(4)):
        assert (read_image(out / name).data == read_image(tmp_path / "whole" / name).data).all()
