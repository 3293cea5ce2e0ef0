"""The equations of motion: what moves how. Time steps are the integrators' business."""

from mmtk.equations.base import Equation, Motion
from mmtk.equations.maps import FullMaps, Maps, NodeMaps
from mmtk.equations.metamorphosis import LDDMM, Metamorphosis
from mmtk.equations.split import SplitMetamorphosis
from mmtk.equations.state import State

__all__ = [
    "LDDMM", "Equation", "FullMaps", "Maps", "Metamorphosis", "Motion", "NodeMaps", "SplitMetamorphosis", "State",
]  # fmt: skip
