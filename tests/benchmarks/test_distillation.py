"""The page of the distillation tables, from lines as runs leave them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import store
from benchmarks.distillation import ROWS, SIZES, gains, render


def line(method: str, size: int, dice: float) -> dict[str, object]:
    scores = {f"dice_{r}": [dice, 1.04 * dice, 1.02 * dice] for r in ("et", "tc", "wt")}
    far = {f"hausdorff_{r}": [10 * (1 - dice), 9.0, 8.0] for r in ("et", "tc", "wt")}
    return {
        "method": method,
        "subject": str(size),
        "seen": 480,
        "cpu_minutes": 1.25,
        "scores": {**scores, **far},
    }


def test_nothing_is_said_of_what_was_not_run(tmp_path: Path) -> None:
    assert render(tmp_path) == "Not run yet.\n"


def test_a_table_marks_what_differs_and_says_what_lacks(tmp_path: Path) -> None:
    few = SIZES[0]
    for method, dice in (("baseline", 0.5), ("kd", 0.6), ("kl_kd", 0.4)):
        store.append("distillation", line(method, few, dice), tmp_path)
    page = render(tmp_path)
    rows = [text for text in page.splitlines() if text.startswith(f"| {few} |")]
    assert f"| {few} | Baseline | 51.0 | 51.0 | 51.0 |" in page
    assert any("| KD | 61.2\\* |" in row for row in rows) and any("| KL + KD | 40.8† |" in row for row in rows)
    assert f"| {few} | Att | not run |" in page
    assert "KD beats the baseline on WT (+10.2 points of Dice" in page
    assert "KL + KD is worse than the baseline" in page
    found = {(each["method"], each["subject"]): each for each in store.newest("distillation", tmp_path)}
    assert gains(found)["WT"]["KD"] == {few: pytest.approx(10.2)}


def test_every_row_describes_a_training() -> None:
    from benchmarks.distillation import COMMON
    from mmtk_kd.plugin import DistillationConfig

    for name, row in ROWS.items():
        teacher = {"teacher": "weights"} if row.teacher else {}
        config = DistillationConfig(**{**COMMON, **row.settings, **teacher})
        assert json.loads(config.model_dump_json())["strategy"], name
        assert row.teacher is None or row.teacher in ROWS
