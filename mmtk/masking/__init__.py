"""A lesion mask for those who have none: which segmenter looks for it, on what, and what it leaves behind.

``description`` says what is asked, and loads no torch; ``finding`` does the work.
"""

from mmtk.masking.description import SegmentConfig, automatic, scans_of

__all__ = ["SegmentConfig", "automatic", "scans_of"]
