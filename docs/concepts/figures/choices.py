"""Numbers of choosing.md: one setting changed at a time on slices whose truth is known, and similarities by contrast.

No picture is drawn. Slices of 2 mm, 84 x 100 pixels, with a bright, a look-alike and a resected lesion; mean endpoint
errors in mm. The base is `subject=same`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from drawing import main

import mmtk
from mmtk.samples import Sample, error_against_truth, tumor_brain

KINDS = ("bright", "lookalike", "resected")

#: What differs from the base.
CHANGES: Mapping[str, Mapping[str, Any]] = {
    "subject=same": {},
    "subject=another": {"subject": "another"},
    "lesion=replaced": {"lesion": "replaced"},
    "momentum=coupled": {"momentum": "coupled"},
    "momentum=coupled shape=momentum": {"momentum": "coupled", "shape": "momentum"},
    "detail=0": {"detail": 0.0},
    "velocities=4": {"velocities": 4},
    "similarity=ssd": {"similarity": "ssd"},
    "similarity=lncc": {"similarity": "lncc"},
    "levels=8,4 iterations=12,12": {"levels": [8.0, 4.0], "iterations": [12, 12]},
    "iterations=6,6,5": {"iterations": [6, 6, 5]},
    "iterations=40,40,40": {"iterations": [40, 40, 40]},
    "optimizer=adam": {"optimizer": "adam"},
    "optimizer=adam iterations=100,100,100": {"optimizer": "adam", "iterations": [100, 100, 100]},
}
SIMILARITIES = ("ssd", "local_ssd", "ncc", "lncc", "mi", "vir")
#: How the moving image's intensities differ from the fixed one's.
CONTRASTS: Mapping[str, Mapping[str, Any]] = {
    "same": {}, "bias of 30 %": {"bias": 0.3}, "gamma": {"contrast": "gamma"}, "other": {"contrast": "other"}
}  # fmt: skip


def draw(out: Path, small: bool) -> Mapping[str, Any]:
    """Return the numbers of both tables; nothing is drawn."""
    numbers: dict[str, Any] = {}
    samples = [tumor_brain(kind=kind, dim=2, spacing=2.0, seed=1) for kind in (KINDS[:1] if small else KINDS)]
    for name, settings in list(CHANGES.items())[: 2 if small else None]:
        begin = time.process_time()
        errors = [_errors(sample, settings) for sample in samples]
        seconds = (time.process_time() - begin) / len(samples)
        numbers[name] = [float(np.mean([e[key] for e in errors])) for key in ("outside", "near")] + [seconds]
    for name, options in CONTRASTS.items():
        sample = tumor_brain(kind="bright", dim=2, spacing=2.0, seed=1, **options)
        for similarity in SIMILARITIES[: 2 if small else None]:
            numbers[f"{similarity}, {name}"] = _errors(sample, {"similarity": similarity})["outside"]
        if not small:
            matched = {"similarity": "ssd", "normalize": "histogram"}
            numbers[f"ssd, histogram, {name}"] = _errors(sample, matched)["outside"]
    return numbers


def _errors(sample: Sample, settings: Mapping[str, Any]) -> Mapping[str, float]:
    found = mmtk.register(
        moving=sample.moving, fixed=sample.fixed, mask=sample.mask.astype(np.float32), spacing=sample.spacing,
        init="none", **{"subject": "same", **settings},
    )  # fmt: skip
    return error_against_truth(sample, found.displacement)


if __name__ == "__main__":
    main(draw)
