"""Runs in processes of their own: what they leave, what is not done twice, what a failure and a kill leave."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmtk.errors import ConfigError
from mmtk.io import held, locks
from mmtk.plugins import installed
from mmtk.study import launcher, runner
from mmtk.study.description import read_study
from mmtk.study.results import read_record
from mmtk.study.runner import carry_out


def rows(out: Path) -> list[tuple[str, ...]]:
    """The table without what depends on the machine."""
    with open(out / "results.csv", newline="") as file:
        return [tuple(row.values()) for row in csv.DictReader(file) if row["group"] != "cost"]


def test_every_run_is_there_with_its_numbers_and_its_cost(done):
    assert [(r.case, r.method) for r in done.records] == [
        (case, method) for case in ("000", "001") for method in ("short", "shorter", "voxelmorph")
    ]
    for record in done.records:
        if record.method == "voxelmorph":
            continue
        assert not record.failed, record.message
        assert {"truth.outside_mm", "truth.edges_mm", "deformation.folds"} <= set(record.metrics)
        assert 50 < record.metrics["cost.peak_memory_mb"] < 2000
        assert 0 < record.metrics["cost.register_s"] < record.metrics["cost.wall_s"]
        assert (record.folder / "report.html").is_file() and not (record.folder / ".job").exists()
    assert any(name.startswith("disentanglement.") for name in done.records[0].metrics)
    run = json.loads((done.out / "runs" / "short" / "000_seed0" / "run.json").read_text())
    assert run["settings"]["method"]["iterations"] == [4] and "mask" in run["inputs"]
    blind = json.loads((done.out / "runs" / "shorter" / "000_seed0" / "run.json").read_text())
    assert "mask" not in blind["inputs"]


def test_a_failure_is_a_result_with_its_sentence(done):
    failed = [record for record in done.records if record.failed]
    assert [record.method for record in failed] == ["voxelmorph", "voxelmorph"]
    assert all("give weights=FILE or a bundle" in record.message for record in failed)
    assert ("000", "voxelmorph", "0", "run", "failed", "1", failed[0].message) in rows(done.out)


def test_a_complete_run_is_not_run_again(done, monkeypatch):
    left = done.out / "runs" / "short" / ".000_seed0.job"
    left.write_text("of a process that was killed")
    before = (done.out / "results.csv").read_bytes()
    monkeypatch.setattr(runner, "_start", lambda *_: pytest.fail("a run was started"))
    told = []
    carry_out(done.study, done.out, tell=lambda n, total, record, found: told.append((n, total, found)))
    assert told == [(n, 6, True) for n in range(1, 7)] and not left.exists()
    assert (done.out / "results.csv").read_bytes() == before


def test_what_has_changed_and_what_failed_is_run_again(done, letters):
    """Asked of the plan alone: a run depends on its method, its files and its seed, and on nobody else."""
    cases = runner.gather_cases(done.study, done.out)
    jobs = runner._jobs(done.study, cases, done.out)
    assert all(runner._known(job, retry=False) for job in jobs)
    assert [job.entry.label for job in jobs if not runner._known(job, retry=True)] == ["voxelmorph"] * 2
    text = done.file.read_text().replace("iterations: [2]", "iterations: [3]")
    (letters / "changed.yaml").write_text(text)
    changed = read_study([str(letters / "changed.yaml"), "seeds=0,1"], installed())
    again = [j for j in runner._jobs(changed, cases, done.out) if not runner._known(j, retry=False)]
    assert {(job.entry.label, job.seed) for job in again} == {
        ("short", 1), ("shorter", 0), ("shorter", 1), ("voxelmorph", 1),
    }  # fmt: skip


def test_new_weights_are_another_run(letters, monkeypatch, tmp_path):
    """Those of a bundle, too: its name says nothing of what is in it."""
    words = ["methods=metamorph_r weights=metamorph_r:letters,voxelmorph_cfm", f"cases={letters / 'letters'}"]
    study = read_study(words, installed())
    assert study.entries[0].label == "metamorph_r-weights=metamorph_r.letters"
    files = [runner.weights_of(entry.recipe)["weights"] for entry in study.entries]
    assert [file.name for file in files] == ["letters.safetensors", "model.safetensors"]
    cases = runner.gather_cases(study, tmp_path)
    before = [job.key for job in runner._jobs(study, cases, tmp_path)]
    digest = runner.sha256
    monkeypatch.setattr(runner, "sha256", lambda file: "new" if file == files[0] else digest(file))
    after = [job.key for job in runner._jobs(study, cases, tmp_path)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [False, True] * 2


def test_a_folder_of_something_else_is_refused(done, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty and holds no study"):
        carry_out(done.study, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_that_another_comparison_holds_is_refused(done, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.0)
    with held(done.out, "this test"), pytest.raises(ConfigError, match="another comparison is writing"):
        carry_out(done.study, done.out)


def test_what_is_wrong_with_a_case_is_said_before_anything_is_made(done, letters, tmp_path):
    broken = tmp_path / "letters"
    shutil.copytree(letters / "letters", broken)
    (broken / "001" / "moving.nii.gz").write_bytes(b"")
    study = read_study(["methods=lddmm", f"cases={broken}"], installed())
    with pytest.raises(ConfigError, match="case 001: moving"):
        carry_out(study, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_go_side_by_side_as_far_as_jobs_and_memory_reach(done, monkeypatch, tmp_path):
    cases = runner.gather_cases(done.study, done.out)
    jobs = [replace(job, need=1e9) for job in runner._jobs(done.study, cases, tmp_path)]
    alive: list[SimpleNamespace] = []
    most = []

    def start(study, job, crew):
        one = SimpleNamespace(job=job, age=0)
        one.run = SimpleNamespace(ended=lambda: one.__setattr__("age", one.age + 1) or one.age > 2)
        alive.append(one)
        most.append(len(alive))
        return one

    def finish(one):
        alive.remove(one)
        return None

    monkeypatch.setattr(runner, "_start", start)
    monkeypatch.setattr(runner, "_finish", finish)
    for memory, count in ((10.0, 4), (2.5, 2), (0.1, 1)):
        most.clear()
        config = done.study.config.model_copy(update={"jobs": 4, "memory": memory})
        runner._run_all(replace(done.study, config=config), jobs, False, lambda *_: None, -1)
        assert (len(most), max(most)) == (len(jobs), count)


# --- the launcher


def launch(tmp_path: Path, seconds: str, *command: str, **options) -> subprocess.Popen:
    words = [
        sys.executable,
        "-I",
        "-S",
        launcher.__file__,
        str(tmp_path / "usage"),
        str(tmp_path / "log"),
        seconds,
    ]
    return subprocess.Popen([*words, *command], stdin=subprocess.PIPE, **options)


def test_the_launcher_says_what_a_process_cost(tmp_path):
    code = "x = bytearray(80 << 20)\nfor i in range(3_000_000): pass\nprint('told')\nraise SystemExit(3)"
    with launch(tmp_path, "inf", sys.executable, "-c", code) as process:
        process.wait()
    told = json.loads((tmp_path / "usage").read_text())
    assert (told["code"], told["late"]) == (3, False)
    assert 80 < told["peak_memory_mb"] < 130  # of the child, whatever this process holds
    assert told["cpu_s"] > 0 and (tmp_path / "log").read_text() == "told\n"


def test_the_launcher_stops_what_takes_too_long(tmp_path):
    with launch(tmp_path, "0.3", "sleep", "60") as process:
        process.wait(timeout=30)
    assert json.loads((tmp_path / "usage").read_text())["late"]


def test_a_process_does_not_outlive_the_study(tmp_path):
    process = launch(
        tmp_path, "inf", sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(99)"
    )
    while not (tmp_path / "log").is_file() or not (tmp_path / "log").read_text().strip():
        time.sleep(0.02)
    pid = int((tmp_path / "log").read_text())
    process.stdin.close()  # as the system does when the study is killed
    process.wait(timeout=30)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert not (tmp_path / "usage").exists()


def test_a_process_that_ends_without_a_word_is_a_result_too(done, tmp_path):
    job = runner._jobs(done.study, runner.gather_cases(done.study, done.out), tmp_path)[0]
    job.out.parent.mkdir(parents=True)
    usage = tmp_path / "usage"
    for code, late, sentence in (
        (-signal.SIGKILL, False, "the process was ended by SIGKILL; the system does so when memory runs out"),
        (-signal.SIGKILL, True, "stopped after 2 minutes; give it more with minutes="),
        (1, False, "the process ended with code 1: it said this"),
    ):
        usage.write_text(
            json.dumps({"code": code, "late": late, "wall_s": 120.0, "cpu_s": 1.0, "peak_memory_mb": 9.0})
        )
        runner._log(job).write_text("first\nit said this\n")
        job.record.unlink(missing_ok=True)
        running = runner._Running(job, SimpleNamespace(code=0), tmp_path / "spec", usage)
        record = runner._finish(running)
        assert (record.failed, record.message) == (True, sentence)
        assert record.metrics["cost.wall_s"] == 120.0 and read_record(job.record) == record


# --- the page


def test_the_page_is_whole_and_asks_the_net_for_nothing(done):
    page = (done.out / "report.html").read_text()
    assert "<h1>Two letters</h1>" in page and "voxelmorph failed in 2 of 2 runs" in page
    assert "With 2 cases no signed-rank test can reach" in page
    assert page.count("data:image/jpeg;base64,") == 2  # the worst case of each method that gave something
    links = re.findall(r'(?:href|src)="([^"]+)"', page)
    assert links and not [link for link in links if link.startswith(("http", "//"))]
    for link in links:
        assert link.startswith("data:") or (done.out / link).is_file(), link
    assert "short" in (done.out / "tables.md").read_text() and r"\toprule" in (done.out / "tables.tex").read_text()


def test_the_study_is_repeated_from_what_it_left(done):
    again = read_study([str(done.out / "study.json")], installed())
    cases = runner.gather_cases(again, done.out)
    assert all(runner._known(job, retry=False) for job in runner._jobs(again, cases, done.out))


# --- killed


@pytest.mark.slow
def test_killed_half_way_and_started_again_it_gives_the_same_table(done, tmp_path):
    out = tmp_path / "out"
    words = [sys.executable, "-m", "mmtk", "compare", str(done.file), "--out", str(out)]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    while not (early := list(out.glob("runs/*/*.json"))):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()  # the worst way: nothing of ours can clean up
    process.wait()
    assert not (out / "results.csv").exists() and len(early) < 6
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/*.json")}
    again = subprocess.run(words, capture_output=True, text=True, check=True)
    assert rows(out) == rows(done.out)
    assert "2 of 6 runs failed" in again.stderr
    kept = [path for path, stamp in stamps.items() if path.stat().st_mtime_ns == stamp]
    assert {path for path in early if path in kept} == set(early)
    assert not list(out.glob("runs/*/.*")), "nothing half-done is left"
