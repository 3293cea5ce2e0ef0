"""Atlases of a whole cohort: where lesions are, the mean image, and how cases vary.

``build`` goes from the folder of a cohort to maps of lesions (`mmtk atlas build`): ``reading`` says what of the folder
counts, ``sums`` adds it up, ``statistics`` and ``groups`` say what may be concluded, ``writing`` and ``page`` show it.

``template`` makes the mean image (`mmtk atlas template`) in ``rounds``, which add up with ``running``; ``shapes`` makes
vectors of deformations. ``variation`` finds their ``modes`` (`mmtk atlas modes`).
"""

from mmtk.atlas.build import build_atlas
from mmtk.atlas.statistics import wilson
from mmtk.atlas.sums import Sums

__all__ = ["Sums", "build_atlas", "wilson"]
