"""What `mmtk train` shows while it runs: lines, and a bar on a terminal."""

from __future__ import annotations

import io
import math
import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mmtk.cli.progress import StepNumbers, epoch_line, training_display
from mmtk.training.plan import Status


def status(**changed: Any) -> Status:
    usual: dict[str, Any] = {"epoch": 2, "epochs": 5, "iteration": 3, "iterations": 10, "energy": 0.5, "pairs": 52}
    return Status(**{**usual, "minutes": 0.5, **changed})


LINE = {
    "epoch": 2, "energy": 0.0312345, "rate": 0.001, "pairs": 80, "cpu_minutes": 0.513, "validation": 0.0298,
    "dice": 0.61238,
}  # fmt: skip


def test_an_epoch_s_line_says_each_number_once() -> None:
    told = epoch_line(status(line=LINE, best=0.0298, budget=10.0))
    assert told == (
        "epoch 2/5: energy 0.031234, validation 0.0298 (the best), dice 0.6124, rate 0.001, 80 pairs, "
        "0.513 of 10 CPU min"
    )
    assert "validation 0.0298 (best 0.0201)" in epoch_line(status(line=LINE, best=0.0201))
    bare = {name: value for name, value in LINE.items() if name not in ("validation", "dice")}
    assert epoch_line(status(line=bare)) == "epoch 2/5: energy 0.031234, rate 0.001, 80 pairs, 0.513 CPU min"


def test_speed_is_counted_within_an_epoch() -> None:
    clock = iter([0.0, 10.0, 12.0, 12.0, 100.0, 104.0, 104.0]).__next__
    numbers = StepNumbers(clock)
    assert numbers(status(epoch=1, iteration=1, pairs=4)) == "energy 0.5"
    assert numbers(status(epoch=1, iteration=2, pairs=8)) == "energy 0.5, 2 pairs/s"
    # What lies between two epochs, the validation, is not counted.
    assert numbers(status(epoch=2, iteration=1, pairs=12, best=0.25)) == "energy 0.5, best 0.25"
    assert numbers(status(epoch=2, iteration=2, pairs=16, energy=10.5)) == "energy 1, 1 pairs/s"


@pytest.mark.parametrize(
    ("changed", "done"),
    [
        ({}, 0.26),
        ({"budget": 1.0}, 0.5),
        ({"budget": 10.0}, 0.26),
        ({"budget": 0.1}, 1.0),
        ({"epoch": 5, "iteration": 10}, 1.0),
    ],
)
def test_what_is_done_is_of_the_bound_that_comes_first(changed: dict[str, Any], done: float) -> None:
    assert status(**changed).done == pytest.approx(done)


def test_no_terminal_gets_one_line_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with training_display(terminal=False) as watch:
        watch(status())
        watch(status(line=LINE, best=0.0298))
    out, err = capsys.readouterr()
    assert out == "" and err == epoch_line(status(line=LINE, best=0.0298)) + "\n"


def test_a_terminal_gets_a_bar_and_the_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("COLUMNS", "140")
    with training_display(terminal=True) as watch:
        watch(status(iteration=1, pairs=44, best=0.0298))
        time.sleep(0.02)
        watch(status(best=0.0298))
        watch(status(line=LINE, best=0.0298))
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", screen.getvalue())
    assert "epoch 2/5, step 3/10" in shown and "energy 0.5, best 0.0298" in shown and "pairs/s" in shown
    assert epoch_line(status(line=LINE, best=0.0298)) in shown and "26%" in shown


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_a_training_in_a_terminal(tmp_path: Path) -> None:
    """The whole command, its error stream a pseudo-terminal."""
    ours, theirs = os.openpty()
    options = '{"size": 48, "sigma": 3, "steps": 8, "amplitude": 100}'
    words = ["method=voxelmorph", "widths=4,4", f"options={options}", "count=8", "held_out=2", "epochs=2"]
    command = [sys.executable, "-m", "mmtk", "train", *words, "--device", "cpu", "--out", str(tmp_path / "t")]
    environment = {**os.environ, "COLUMNS": "160", "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, text=True) as running:
        os.close(theirs)
        shown = b""
        while running.poll() is None or select.select([ours], [], [], 0)[0]:
            if select.select([ours], [], [], 0.2)[0]:
                try:
                    shown += os.read(ours, 1 << 16)
                except OSError:  # the other end was closed
                    break
        assert running.stdout is not None
        told = running.stdout.read()
    assert running.returncode == 0 and "2 epochs, 16 pairs" in told
    text = shown.decode()
    assert re.search(r"epoch 2/2: energy \S+, validation \S+", text)
    assert re.search(r"epoch \d/2, step \d/2", text)
    assert math.isfinite(float(re.findall(r"best (\d\.\d+)", text)[-1]))
