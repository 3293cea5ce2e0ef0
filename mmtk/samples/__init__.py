"""Images whose true deformation is known: a brain with a tumor, many brains to train on,
letters C with a cut, and breathing lungs.

    sample = mmtk.samples.tumor_brain(kind="resected", spacing=2.0, seed=3)
    found = mmtk.register(moving=..., fixed=..., mask=...)
    mmtk.samples.error_against_truth(sample, found)

On the command line: ``mmtk sample tumor_brain --out DIR kind=resected seed=3``. Importing this package loads
nothing heavy; making a sample needs numpy and scipy, not torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmtk.samples.anatomies import brains as brains
    from mmtk.samples.brain import Brain as Brain
    from mmtk.samples.brain import embedded_brain as embedded_brain
    from mmtk.samples.catalogue import SAMPLES as SAMPLES
    from mmtk.samples.catalogue import make as make
    from mmtk.samples.files import save as save
    from mmtk.samples.heads import Glioma as Glioma
    from mmtk.samples.heads import gliomas as gliomas
    from mmtk.samples.lungs import lungs as lungs
    from mmtk.samples.sample import Sample as Sample
    from mmtk.samples.scores import shape_scores as shape_scores
    from mmtk.samples.shapes import c_shapes as c_shapes
    from mmtk.samples.truth import Truth as Truth
    from mmtk.samples.truth import error_against_truth as error_against_truth
    from mmtk.samples.truth import error_map as error_map
    from mmtk.samples.tumor import tumor_brain as tumor_brain

_HOME = {
    "Brain": "brain",
    "Glioma": "heads",
    "SAMPLES": "catalogue",
    "Sample": "sample",
    "Truth": "truth",
    "brains": "anatomies",
    "c_shapes": "shapes",
    "embedded_brain": "brain",
    "error_against_truth": "truth",
    "error_map": "truth",
    "gliomas": "heads",
    "lungs": "lungs",
    "make": "catalogue",
    "save": "files",
    "shape_scores": "scores",
    "tumor_brain": "tumor",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'mmtk.samples' has no attribute '{name}'")
    value = getattr(import_module(f"mmtk.samples.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
