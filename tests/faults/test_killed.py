"""A run that is killed: at any moment there is the old result or none, and what was finished need not be done again."""

import errno
import json
import signal
import time
from dataclasses import dataclass

import h5py
import nibabel
import numpy as np
import pytest
from safetensors.numpy import load_file

from mmtk.cli import main
from mmtk.optimize import descend

#: Quick, and yet of three levels.
SHORT = ("bundle=metamorph_brats", "init=none", "levels=8,4,2", "iterations=3,3,3", "--device", "cpu")

#: What makes a folder a result, and what else is always in it.
ALWAYS = {
    "warped.nii.gz", "deformed.nii.gz", "appearance.nii.gz", "warped_mask.nii.gz", "jacobian.nii.gz",
    "displacement.nii.gz", "transform.h5", "inverse_transform.h5", "shape.safetensors", "metrics.json", "run.json",
    "report.html",
}  # fmt: skip
IMAGES = sorted(name for name in ALWAYS if name.endswith(".nii.gz"))


def check(out, seeds):
    """A result is whole, of one of the runs, and the user's own file is in it."""
    assert {path.name for path in out.iterdir()} == {*ALWAYS, "notes.txt"}
    assert (out / "notes.txt").read_text() == "mine"
    record = json.loads((out / "run.json").read_text())
    assert record["seed"] in seeds and set(record["files"]) == ALWAYS
    for name in IMAGES:
        assert np.isfinite(nibabel.load(out / name).get_fdata()).all()
    for name in ("transform.h5", "inverse_transform.h5"):
        with h5py.File(out / name) as file:
            assert "TransformGroup" in file
    assert load_file(out / "shape.safetensors")["white"].size
    assert (out / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    return record["seed"]


def finished(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


#: Tells on the output when the run is about to do something, and waits a moment, so that a kill can hit it.
SLOW = """
import os, time
import mmtk.io.folders as folders
plain = os.rename
def rename(source, target):
    print('rename', flush=True); time.sleep(0.02); plain(source, target); time.sleep(0.02)
os.rename = rename
"""


def kill_often(times, pair, start, tmp_path, seed):
    rng, out = np.random.default_rng(seed), tmp_path / "out"
    begin = time.perf_counter()
    finished(start(*pair, "--out", out, "--seed", 0))
    length = time.perf_counter() - begin
    (out / "notes.txt").write_text("mine")
    seeds, left = {0}, []
    for number in range(1, times + 1):
        late = number % 3 == 0  # a third of them while folders are renamed, which takes no time otherwise
        process = start(*pair, "--out", out, "--overwrite", "--seed", number, before=SLOW if late else "")
        if late:
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.12))
        else:
            time.sleep(rng.uniform(0, 1.1 * length))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        seeds.add(number)
        if out.exists():
            left.append(check(out, seeds))
            seeds = {left[-1]}
    finished(start(*pair, "--out", out, "--overwrite", "--seed", 1000))
    assert check(out, {1000}) == 1000
    assert not hidden(tmp_path)
    return left


def test_killed_at_five_moments(pair, start, tmp_path):
    kill_often(5, pair, start, tmp_path, seed=1)


@pytest.mark.slow
def test_killed_at_fifty_moments(pair, start, tmp_path):
    left = kill_often(50, pair, start, tmp_path, seed=2)
    assert len(set(left)) > 1  # some came to their end before the kill, so the moments reach that far


#: Kills the run when a level begins, or ends it by Ctrl-C.
AT_LEVEL = """
import os, signal
import mmtk.optimize.descend as descend
plain = descend.lbfgs
seen = []
def lbfgs(*a, **k):
    seen.append(1)
    if len(seen) == {level}: os.kill(os.getpid(), {signal}); signal.pause() if {signal} == 9 else None
    return plain(*a, **k)
descend.lbfgs = lbfgs
"""


@pytest.fixture
def called(capsys, monkeypatch):
    """Run within this process; ``stop`` is the level at whose beginning Ctrl-C is pressed."""

    def call(*words, stop=None):
        begun, plain = [], descend.lbfgs

        def lbfgs(*arguments, **options):
            begun.append(1)
            if len(begun) == stop:
                raise KeyboardInterrupt
            return plain(*arguments, **options)

        with monkeypatch.context() as patch, pytest.raises(SystemExit) as done:
            patch.setattr(descend, "lbfgs", lbfgs)
            main(["run", *SHORT, *map(str, words)])
        told = capsys.readouterr()
        return Called(done.value.code, told.out, told.err, len(begun))

    return call


@dataclass(frozen=True)
class Called:
    code: int
    out: str
    err: str
    levels: int


def same(one, other):
    """Two folders hold the same images, and their runs took the same way."""
    for name in IMAGES:
        np.testing.assert_array_equal(*(nibabel.load(folder / name).get_fdata() for folder in (one, other)))
    records = [json.loads((folder / "run.json").read_text()) for folder in (one, other)]
    energies = [[part["energies"] for part in record["levels"]] for record in records]
    assert energies[0] == energies[1] and len(energies[0]) == 3


def hidden(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("words", [[], ["shape=momentum"], ["velocities=2"], ["similarity=mi"], ["method=lddmm"]])
@pytest.mark.parametrize("level", [2, 3])
def test_a_run_goes_on_from_the_last_finished_level_to_the_same_result(level, words, pair, called, tmp_path):
    if "method=lddmm" in words:
        pair = pair[:2]
    words = [*pair, *words]
    assert called(*words, "--out", tmp_path / "whole").levels == 3
    assert called(*words, "--out", tmp_path / "out", stop=level).code == 130
    assert not (tmp_path / "out").exists()
    done = called(*words, "--out", tmp_path / "out", "--resume")
    assert done.code == 0 and f"resumed after level {level - 1}." in done.out and done.levels == 4 - level
    one, other = tmp_path / "whole", tmp_path / "out"
    if "method=lddmm" in words:
        np.testing.assert_array_equal(*(nibabel.load(f / "deformed.nii.gz").get_fdata() for f in (one, other)))
    else:
        same(one, other)
    assert not hidden(tmp_path)


def test_when_only_the_writing_failed_no_level_is_done_again(pair, called, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mmtk.outputs.write_shape", full)
        failed = called(*pair, "--out", tmp_path / "out")
    assert failed.code == 1 and "the disk is full" in failed.err and failed.err.count("\n") == 1
    assert not (tmp_path / "out").exists()
    done = called(*pair, "--out", tmp_path / "out", "--resume")
    assert done.code == 0 and done.levels == 0
    called(*pair, "--out", tmp_path / "whole")
    same(tmp_path / "whole", tmp_path / "out")


def test_a_killed_run_goes_on_as_well(pair, start, tmp_path):
    out = tmp_path / "out"
    killed = start(*pair, "--out", out, before=AT_LEVEL.format(level=3, signal=9))
    killed.communicate(timeout=300)
    assert killed.returncode == -9 and not out.exists()
    assert "resumed after level 2." in finished(start(*pair, "--out", out, "--resume"))
    finished(start(*pair, "--out", tmp_path / "whole"))
    same(tmp_path / "whole", out)
    assert not hidden(tmp_path)


def test_another_run_does_not_go_on_from_it(pair, called, tmp_path):
    out = tmp_path / "out"
    called(*pair, "--out", out, stop=2)
    for words, says in (
        (["mu=0.5"], "the run that was stopped had method.mu = "),
        (["--seed", "3"], "the run that was stopped had seed = 0, and this one has 3; give the same settings"),
        ([f"fixed={tmp_path / 'moving.nii.gz'}"], "the run that was stopped had another fixed image; give"),
    ):
        given = [word for word in pair if not word.startswith(words[0].split("=")[0])]
        refused = called(*given, *words, "--out", out, "--resume")
        assert refused.code == 2 and refused.levels == 0
        assert refused.err.startswith(f"error: --resume: {says}") and refused.err.count("\n") == 1
        assert not out.exists()
        (partial,) = hidden(tmp_path)  # the state is still there for the right one
    state = partial / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    damaged = called(*pair, "--out", out, "--resume")
    assert damaged.code == 2 and "is damaged" in damaged.err and "leave out --resume" in damaged.err
    assert called(*pair, "--out", out).levels == 3
    assert {path.name for path in out.iterdir()} == ALWAYS and not hidden(tmp_path)


def test_ctrl_c_says_so_in_one_line_and_the_old_result_stays(pair, start, called, tmp_path):
    out = tmp_path / "out"
    called(*pair, "--out", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    process = start(*pair, "--out", out, "--overwrite", before=AT_LEVEL.format(level=3, signal=int(signal.SIGINT)))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert (
        err == f"stopped; '{out}' is as it was, and the same with --resume goes on after the last finished level\n"
    )
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_ctrl_c_before_the_first_level_leaves_no_trace(pair, called, tmp_path):
    assert called(*pair, "--out", tmp_path / "a" / "out", stop=1).code == 130
    assert not (tmp_path / "a").exists()


def test_with_nothing_to_go_on_from_the_run_begins_at_the_beginning(pair, called, tmp_path):
    done = called(*pair, "--out", tmp_path / "out", "--resume")
    assert done.code == 0 and done.levels == 3 and "resumed" not in done.out


def test_a_method_that_knows_no_milestones_begins_anew(pair, called, tmp_path, monkeypatch):
    monkeypatch.setattr("mmtk_metamorphosis.primal.Milestone", lambda state, levels: None)
    monkeypatch.setattr("mmtk.resume.KeptMilestones.reached", lambda self, milestone: None)
    assert called(*pair, "--out", tmp_path / "out", stop=2).code == 130
    assert not hidden(tmp_path)
    assert called(*pair, "--out", tmp_path / "out", "--resume").levels == 3
