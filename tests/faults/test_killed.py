"""A run that is killed: at any moment there is the old result or none, and what was finished need not be done again."""

import json
import signal
import time

import h5py
import nibabel
import numpy as np
import pytest
from safetensors.numpy import load_file

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
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
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


@pytest.mark.parametrize(
    ("shape", "level"), [("white", 2), ("white", 3), ("momentum", 3)], ids=["white-1", "white-2", "momentum-2"]
)
def test_a_run_goes_on_from_the_last_finished_level_to_the_same_result(shape, level, pair, start, tmp_path):
    words = [*pair, f"shape={shape}"]
    whole = start(*words, "--out", tmp_path / "whole")
    killed = start(*words, "--out", tmp_path / "out", before=AT_LEVEL.format(level=level, signal=9))
    killed.communicate(timeout=300)
    assert killed.returncode == -9 and not (tmp_path / "out").exists()
    told = finished(start(*words, "--out", tmp_path / "out", "--resume"))
    assert f"resumed after level {level - 1}." in told
    finished(whole)
    for name in IMAGES:
        one, other = (nibabel.load(tmp_path / folder / name).get_fdata() for folder in ("whole", "out"))
        np.testing.assert_array_equal(one, other)
    records = [json.loads((tmp_path / folder / "run.json").read_text()) for folder in ("whole", "out")]
    energies = [[part["energies"] for part in record["levels"]] for record in records]
    assert energies[0] == energies[1] and len(energies[0]) == 3
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_another_run_does_not_go_on_from_it(pair, start, tmp_path):
    out = tmp_path / "out"
    start(*pair, "--out", out, before=AT_LEVEL.format(level=2, signal=9)).communicate(timeout=300)
    (partial,) = tmp_path.glob(".out.partial-*")
    for words, says in (
        (["mu=0.5"], "the run that was stopped had method.mu = "),
        (["--seed", "3"], "the run that was stopped had seed = 0, and this one has 3; give the same settings"),
        ([f"fixed={tmp_path / 'moving.nii.gz'}"], "the run that was stopped had another fixed image; give"),
    ):
        given = [word for word in pair if not word.startswith(words[0].split("=")[0])]
        process = start(*given, *words, "--out", out, "--resume")
        _, err = process.communicate(timeout=300)
        assert process.returncode == 2 and err.startswith(f"error: --resume: {says}") and err.count("\n") == 1
        assert not out.exists()
        (partial,) = tmp_path.glob(".out.partial-*")  # the state is still there for the right one
    state = partial / "state.safetensors"
    state.write_bytes(state.read_bytes()[:100])
    process = start(*pair, "--out", out, "--resume")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "is damaged" in err and "leave out --resume" in err
    finished(start(*pair, "--out", out))
    assert {path.name for path in out.iterdir()} == ALWAYS and not list(tmp_path.glob(".out.*"))


def test_ctrl_c_says_so_in_one_line_and_the_run_can_go_on(pair, start, tmp_path):
    out = tmp_path / "out"
    process = start(*pair, "--out", out, before=AT_LEVEL.format(level=3, signal=int(signal.SIGINT)))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert (
        err == f"stopped; '{out}' is as it was, and the same with --resume goes on after the last finished level\n"
    )
    assert not out.exists()
    assert "resumed after level 2." in finished(start(*pair, "--out", out, "--resume"))


def test_with_nothing_to_go_on_from_the_run_begins_at_the_beginning(pair, start, tmp_path):
    assert "resumed" not in finished(start(*pair, "--out", tmp_path / "out", "--resume"))
