"""The page about contracts: its plugin is written, run and passes; it names every law."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmtk.testing import CONTRACTS, BundleContract

PAGE = Path(__file__).parents[2] / "docs" / "contracts.md"


def written(folder: Path) -> None:
    """Write the page's code to the files that it names."""
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL):
        file = folder / block.split("\n", 1)[0].removeprefix("# ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(block)


def outcome(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


def test_the_plugin_of_the_page_passes_its_contract(tmp_path: Path) -> None:
    written(tmp_path)
    code, told = outcome(tmp_path)
    assert code == 0 and re.search(r"20 passed", told), told


def test_a_slip_in_it_is_found_and_shown(tmp_path: Path) -> None:
    written(tmp_path)
    part = tmp_path / "my_plugin" / "absolute.py"
    part.write_text(part.read_text().replace("return ((moved", "return -((moved"))
    code, told = outcome(tmp_path)
    assert code == 1 and "test_an_image_is_nearest_to_itself" in told, told
    assert "another image costs no more than the image itself" in told, told


@pytest.mark.parametrize("contract", [*CONTRACTS.values(), BundleContract])
def test_the_page_names_every_law(contract: type) -> None:
    page = PAGE.read_text().lower()
    names = [name for name in dir(contract) if name.startswith("test_")]
    missing = [n for n in names if f"| {n.removeprefix('test_').replace('_', ' ')} |" not in page]
    assert not missing
