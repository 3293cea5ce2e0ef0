"""``fixed=... warped=...``: what a registration is worth, for the folder of a run or for what any tool has written.

Everything that is wrong with a request is found before a voxel is read. Images and label maps that are compared must
lie on one grid, since resampling changes what is measured; masks and true displacements are smooth enough to be
resampled.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

from mmtk.evaluation.request import KEYS, Request
from mmtk.evaluation.text import Evaluation, as_json_text, as_text, check_out, write_numbers

__all__ = ["KEYS", "Evaluation", "as_json_text", "as_text", "check_out", "evaluate", "write_numbers"]


def evaluate(settings: Mapping[str, Any], *, problems: Iterable[str] = ()) -> Evaluation:
    """Measure what the keys name.

    Args:
        settings: By the names in :data:`KEYS`, as typed.
        problems: What is known to be wrong already, to be told together with what is found here.

    Raises:
        ConfigError: With everything that is wrong.
    """
    begin = time.perf_counter()
    request = Request(dict(settings), list(problems))
    request.check()
    import torch

    from mmtk.evaluation.measuring import Measuring

    job = Measuring(request)
    with torch.no_grad():
        metrics = job.measure()
    return Evaluation(metrics, tuple(dict.fromkeys(job.notes)), round(time.perf_counter() - begin, 3))
