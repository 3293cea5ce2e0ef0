"""The methods by name: which tool, and the settings that differ from the tool's own defaults.

A value ``$lesion`` stands for what is known of the lesion of the subject (``grew``, ``collapsed``). Peers appear
with their defaults and with what their authors recommend: ANTs SyN by cross correlation with iterations down to
full resolution, greedy by NCC with 100x60x30 iterations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["METHODS", "Method", "resolved"]


@dataclass(frozen=True)
class Method:
    """A tool with settings.

    Attributes:
        tool: The worker: ``mmtk``, ``run`` (mmtk's command line), ``ants``, ``greedy``, ``demons``, ``start``.
        label: As the page names it.
        settings: Handed to the worker.
        masked: Whether it is given the lesion mask.
    """

    tool: str
    label: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    masked: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is of mmtk."""
        return self.tool in ("mmtk", "run")


#: The kernel that suits pairs of people: narrower than what one person needs before and after.
_PEOPLE = {
    "kernel": "sobolev",
    "sigma": [8.0],
    "sigma_weights": [1.0],
    "order": 2.0,
    "stride": 5.0,
    "lambda": 1e-4,
}
_FINE = {"sigma": [24.0, 8.0, 4.0], "sigma_weights": [1.0, 0.1, 0.02], "stride": 5.0, "lambda": 3e-5}
#: What ``subject=same`` stands for, in full, so that a change of defaults does not change what was measured.
_SAME = {
    "kernel": "gaussian", "sigma": [24.0, 12.0], "sigma_weights": [1.0, 0.1], "stride": 6.0, "lambda": 5e-5,
    "mu": 0.1, "detail": 7.0,
}  # fmt: skip
_MIDDLE = {"sigma": [24.0, 8.0], "sigma_weights": [1.0, 0.1]}
_PUBLISHED = {
    "mu": 0.1, "lambda": 1e-7, "sigma": [8.0], "sigma_weights": [1.0], "stride": None, "steps": 15,
    "similarity": "ssd", "normalize": "histogram",
}  # fmt: skip
#: Pixels of a letter are millimeters: everything is finer than in a head.
_LETTER = {
    "levels": [4.0, 2.0, 1.0], "iterations": [20, 20, 20], "similarity": "ssd", "normalize": "none",
    "sigma": [6.0], "sigma_weights": [1.0], "stride": 3.0, "lambda": 1e-4, "mu": 0.1,
}  # fmt: skip
_FULL_NCC = {"metric": "NCC 2", "iterations": "100x60x30"}
_FULL_SSD = {"metric": "SSD", "iterations": "100x60x30"}

METHODS: Mapping[str, Method] = {
    "start": Method("start", "before (the affine of all)"),
    "mmtk-split": Method("mmtk", "mmtk split", {}, True),
    "mmtk-split-told": Method("mmtk", "mmtk split, lesion={lesion}", {"lesion": "$lesion"}, True),
    "mmtk-split-same": Method("mmtk", "mmtk split, kernel 24+12 mm (`subject=same`)", _SAME, True),
    "mmtk-split-same-told": Method(
        "mmtk", "mmtk split, kernel 24+12 mm, lesion={lesion}", {**_SAME, "lesion": "$lesion"}, True
    ),
    "mmtk-split-people": Method("mmtk", "mmtk split, Sobolev 8 mm", _PEOPLE, True),
    "mmtk-split-people-told": Method(
        "mmtk", "mmtk split, Sobolev 8 mm, lesion={lesion}", {**_PEOPLE, "lesion": "$lesion"}, True
    ),
    "mmtk-split-people-ssd": Method(
        "mmtk", "mmtk split, Sobolev 8 mm, SSD", {**_PEOPLE, "similarity": "ssd", "lambda": 2e-5}, True
    ),
    "mmtk-split-fine": Method("mmtk", "mmtk split, kernel 24+8+4 mm", _FINE, True),
    "mmtk-split-middle": Method("mmtk", "mmtk split, kernel 24+8 mm", _MIDDLE, True),
    "mmtk-split-middle-told": Method(
        "mmtk", "mmtk split, kernel 24+8 mm, lesion={lesion}", {**_MIDDLE, "lesion": "$lesion"}, True
    ),
    "mmtk-split-lncc": Method("mmtk", "mmtk split, LNCC", {"similarity": "lncc"}, True),
    "mmtk-split-ssd-histogram": Method(
        "mmtk", "mmtk split, SSD, histograms matched",
        {"similarity": "ssd", "lambda": 2e-5, "normalize": "histogram"}, True,
    ),
    "mmtk-split-histogram": Method("mmtk", "mmtk split, histograms matched", {"normalize": "histogram"}, True),
    "mmtk-split-ssd": Method("mmtk", "mmtk split, SSD", {"similarity": "ssd"}, True),
    "mmtk-split-fast": Method(
        "mmtk", "mmtk split, levels 8 and 4 mm", {"levels": [8.0, 4.0], "iterations": [12, 12]}, True
    ),
    "mmtk-split-full": Method(
        "mmtk", "mmtk split, down to 1 mm", {"levels": [8.0, 4.0, 2.0, 1.0], "iterations": [12, 12, 10, 4]}, True
    ),
    "mmtk-coupled": Method(
        "mmtk", "mmtk coupled (bundle `metamorphosis`)", {**_PUBLISHED, "momentum": "coupled", "shape": "momentum"}, True
    ),
    "mmtk-coupled-white": Method(
        "mmtk", "mmtk coupled, white coefficients, weights of the bundle", {**_PUBLISHED, "momentum": "coupled"}, True
    ),
    "mmtk-coupled-local": Method(
        "mmtk", "mmtk coupled, kernel 24+12 mm and similarity of split", {**_SAME, "momentum": "coupled"}, True
    ),
    "mmtk-lddmm": Method(
        "mmtk", "mmtk LDDMM (bundle `lddmm`)",
        {**{k: v for k, v in _PUBLISHED.items() if k != "mu"}, "method": "lddmm", "shape": "momentum"},
    ),
    "mmtk-unmasked": Method("mmtk", "mmtk LDDMM, white, no mask", {"method": "lddmm"}),
    "mmtk-run": Method("run", "`mmtk run bundle=metamorph_brats`, shell to last file", {}, True),
    "mmtk-letter-split": Method("mmtk", "mmtk split", _LETTER, True),
    "mmtk-letter-momentum": Method(
        "mmtk", "mmtk split, scalar momentum", {**_LETTER, "shape": "momentum"}, True
    ),
    "mmtk-letter-coupled": Method(
        "mmtk", "mmtk coupled", {**_LETTER, "momentum": "coupled", "mu": 1.0}, True
    ),
    "mmtk-size-split": Method("mmtk", "mmtk split", {}, True),
    "mmtk-size-coupled": Method(
        "mmtk", "mmtk coupled, 3 iterations a level",
        {**_PUBLISHED, "momentum": "coupled", "iterations": [3, 3, 3]}, True,
    ),
    "greedy-ncc": Method("greedy", "greedy NCC 2, 100x60x30", _FULL_NCC),
    "greedy-ncc-mask": Method("greedy", "greedy NCC 2, 100x60x30, -mm", _FULL_NCC, True),
    "greedy-default": Method(
        "greedy", "greedy, its defaults (SSD, 100x100)", {"metric": "SSD", "iterations": "100x100"}
    ),
    "greedy-ssd": Method("greedy", "greedy SSD 100x60x30", _FULL_SSD),
    "greedy-ssd-mask": Method("greedy", "greedy SSD 100x60x30, -mm", _FULL_SSD, True),
    "ants-syn": Method("ants", "ANTs SyN, its defaults", {"type": "SyN"}),
    "ants-syn-cfm": Method("ants", "ANTs SyN, moving mask (CFM)", {"type": "SyN"}, True),
    "ants-syn-cfm-swapped": Method(
        "ants", "ANTs SyN, patient fixed and masked (CFM)", {"type": "SyN", "swap": True}, True
    ),
    "ants-only": Method("ants", "ANTs SyNOnly, its defaults", {"type": "SyNOnly"}),
    "ants-only-mask": Method("ants", "ANTs SyNOnly, moving mask", {"type": "SyNOnly"}, True),
    "ants-only-long": Method(
        "ants", "ANTs SyNOnly (100,70,50)", {"type": "SyNOnly", "reg_iterations": [100, 70, 50]}
    ),
    "ants-cc": Method(
        "ants", "ANTs SyNOnly, CC radius 2, (100,70,50)",
        {"type": "SyNOnly", "syn_metric": "CC", "syn_sampling": 2, "reg_iterations": [100, 70, 50]},
    ),
    "ants-cc-mask": Method(
        "ants", "ANTs SyNOnly, CC radius 2, (100,70,50), moving mask",
        {"type": "SyNOnly", "syn_metric": "CC", "syn_sampling": 2, "reg_iterations": [100, 70, 50]}, True,
    ),
    "lcc-demons": Method("mmtk", "LCC-demons of our own", {"method": "lcc_demons"}, True),
    "demons": Method("demons", "SimpleITK diffeomorphic demons, pyramid 4/2/1", {}),
}  # fmt: skip


def resolved(method: Method, known: Mapping[str, str]) -> dict[str, Any]:
    """Return the settings of a method for a subject of which ``known`` is known."""
    return {
        key: known[value[1:]] if isinstance(value, str) and value.startswith("$") else value
        for key, value in method.settings.items()
    }
