"""A part that cannot keep a limit of its contract says so in its description, and is held to what it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TEST = """
from typing import Literal

import pytest
from mmtk import ComponentConfig
from mmtk.testing import SimilarityContract


class Config(ComponentConfig):
    "Squared differences."

    target = "mmtk.similarity:SquaredDifference"
    kind: Literal["mine"] = "mine"


class Frugal(Config):
    limits = {"memory": 0.5}


class Slip(Config):
    limits = {"memmory": 90}


def tested(config):
    class Tested(SimilarityContract):
        @pytest.fixture
        def part(self):
            return config()

    return Tested


TestUsual, TestFrugal, TestSlip = (tested(config) for config in (Config, Frugal, Slip))
"""


def test_the_limits_of_a_description_take_the_place_of_the_contracts(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(TEST)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "few_images", "test_mine.py"]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "1 failed, 1 passed" in told and "1 error" in told, told
    assert "images are held at once; at most 0.5 are allowed" in told
    assert "limits: 'memmory' is none of this contract's: memory" in told
