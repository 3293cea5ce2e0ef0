"""Makers of a lesion mask for those who have none. mmtk has the form; plugins have the parts."""

from mmtk.segmenters.base import Segmenter

__all__ = ["Segmenter"]
