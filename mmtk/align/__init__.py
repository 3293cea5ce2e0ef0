"""Rigid and affine placement of one image on another: the start of every registration."""

from mmtk.align.alignment import Alignment, align

__all__ = ["Alignment", "align"]
