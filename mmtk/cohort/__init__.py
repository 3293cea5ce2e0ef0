"""Many patients onto one template: `mmtk cohort run`.

``description`` reads the table and the settings, ``work`` carries one case out wherever it is told to, ``cluster``
says where that is, by Dask, and ``runner`` holds the three together. What is left are folders of runs and one table.
"""

from mmtk.cohort.description import Cohort, CohortCase, read_cohort
from mmtk.cohort.records import CaseRecord, read_case
from mmtk.cohort.runner import carry_out

__all__ = ["CaseRecord", "Cohort", "CohortCase", "carry_out", "read_case", "read_cohort"]
