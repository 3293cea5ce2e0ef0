"""Where lesions are, over a whole cohort, in the space of its template: `mmtk atlas build`.

``sums`` keeps what is added up, case by case; ``statistics`` says what may be concluded; ``build`` goes from the folders
of a cohort to maps, and ``page`` shows them.
"""

from mmtk.atlas.build import build_atlas
from mmtk.atlas.statistics import wilson
from mmtk.atlas.sums import Sums

__all__ = ["Sums", "build_atlas", "wilson"]
