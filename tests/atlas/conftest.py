"""Helpers that are no tests lie beside them, and beside those of cohorts."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "cohort")]
