"""What is registered: cases, their subjects, and the methods that compete in each.

Settings were chosen on seed 0 of the samples and on pairs of people that stand in no case here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CASES", "Case", "Subject"]


@dataclass(frozen=True)
class Subject:
    """One pair to register.

    Attributes:
        name: Within the case.
        options: For the recipe that prepares it.
        known: What a user knows of it, such as ``lesion``.
    """

    name: str
    options: Mapping[str, Any]
    known: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    """Subjects prepared by one recipe, registered by some methods, and scored in one way.

    Attributes:
        name: Of the results file.
        title: For the page.
        recipe: Function of :mod:`benchmarks.prepare`.
        score: Function of :mod:`benchmarks.score`.
        subjects, methods: The rows and columns.
        limit: CPU seconds that a run may take.
    """

    name: str
    title: str
    recipe: str
    score: str
    subjects: tuple[Subject, ...]
    methods: tuple[str, ...]
    limit: float


_LESION = {"bright": "grew", "lookalike": "grew", "resected": "collapsed"}


def _tumors(spacing: float, seeds: tuple[int, ...]) -> tuple[Subject, ...]:
    return tuple(
        Subject(f"{kind}/{seed}", {"kind": kind, "seed": seed, "spacing": spacing}, {"lesion": lesion})
        for seed in seeds
        for kind, lesion in _LESION.items()
    )


_TUMOR_METHODS = (
    "start", "mmtk-split", "mmtk-split-same", "mmtk-split-same-told", "mmtk-coupled", "mmtk-coupled-local",
    "mmtk-lddmm", "mmtk-unmasked", "greedy-default", "greedy-ncc", "greedy-ncc-mask",
    "ants-syn", "ants-syn-cfm", "ants-syn-cfm-swapped", "ants-cc", "ants-cc-mask", "demons",
)  # fmt: skip

_PAIRS = (
    ("132", "162"), ("206", "212"), ("213", "239"), ("255", "257"), ("274", "316"), ("329", "335"), ("353", "357"),
)  # fmt: skip

CASES: Mapping[str, Case] = {
    case.name: case
    for case in (
        Case(
            "tumor-real", "A glioma patient onto the healthy template, 240 x 240 x 155, 1 mm",
            "tumor_real", "carried",
            (Subject("01", {"case": "tumour_mri_01"}, {"lesion": "grew"}),),
            (
                "start", "mmtk-run", "mmtk-split", "mmtk-split-same", "mmtk-split-same-told", "mmtk-split-people",
                "mmtk-split-people-told", "mmtk-split-people-ssd", "mmtk-split-fine", "mmtk-split-ssd",
                "mmtk-split-lncc", "mmtk-coupled", "mmtk-lddmm", "greedy-ncc", "greedy-ncc-mask",
                "ants-only", "ants-only-mask", "ants-only-long", "ants-cc-mask", "demons",
            ),
            900,
        ),
        Case(
            "brains-2mm", "Pairs of healthy people, 148 labels, 120 x 120 x 90, 2 mm",
            "people", "overlap",
            tuple(Subject(f"{a}-{b}", {"moving": f"ixi{a}", "fixed": f"ixi{b}"}) for a, b in _PAIRS),
            (
                "start", "mmtk-split", "mmtk-split-same", "mmtk-split-people", "mmtk-split-fine",
                "mmtk-split-lncc", "mmtk-coupled", "mmtk-lddmm", "ants-only", "ants-only-long", "ants-cc",
                "greedy-default", "greedy-ncc", "demons", "lcc-demons",
            ),
            600,
        ),
        Case(
            "tumor-brain-2mm", "Synthetic lesions in the MNI brain, true deformation known, 84 x 100 x 88, 2 mm",
            "tumor_brain", "truth", _tumors(2.0, (1, 2, 3)),
            (*_TUMOR_METHODS, "greedy-ssd", "greedy-ssd-mask"), 400,
        ),
        Case(
            "tumor-brain-1mm", "The same at 168 x 200 x 176, 1 mm",
            "tumor_brain", "truth", _tumors(1.0, (1, 2)),
            (*_TUMOR_METHODS, "mmtk-split-fast", "mmtk-split-full"), 900,
        ),
        Case(
            "c-shapes", "Deformed letters C with a cut, 200 x 200",
            "letter", "letter",
            tuple(
                Subject(f"{number:02d}{suffix}", {"seed": 1, "number": number, "mask_area": area})
                for area, suffix in ((1.0, ""), (2.0, "-wide"))
                for number in range(10)
            ),
            (
                "start", "mmtk-letter-split", "mmtk-letter-momentum", "mmtk-letter-coupled", "greedy-ssd",
                "greedy-ssd-mask", "greedy-ncc-mask", "ants-syn", "ants-syn-cfm", "ants-cc-mask", "demons",
            ),
            120,
        ),
        Case(
            "metamorphosis-192", "Metamorphosis at 192 x 192 x 144, T = 15: the tumor case, cropped",
            "cropped_tumor", "carried",
            (Subject("01", {"case": "tumour_mri_01", "shape": [192, 192, 144]}, {"lesion": "grew"}),),
            ("start", "mmtk-split", "mmtk-coupled", "mmtk-coupled-white", "mmtk-coupled-local"),
            3600,
        ),
        Case(
            "size", "Cost against size: a synthetic tumor resampled to n x n x n",
            "cube", "nothing",
            tuple(Subject(str(n), {"size": n, "seed": 1}) for n in (64, 96, 128, 160, 192, 224, 256)),
            ("mmtk-size-split", "mmtk-size-coupled"), 1800,
        ),
        Case(
            "2d", "A slice with a tumor, 200 x 200 pixels",
            "slice", "truth_2d",
            tuple(Subject(str(seed), {"seed": seed}, {"lesion": "grew"}) for seed in (1, 2, 3)),
            ("start", "mmtk-split", "mmtk-split-same", "mmtk-coupled", "greedy-ncc-mask", "ants-syn", "demons"), 200,
        ),
    )
}  # fmt: skip
