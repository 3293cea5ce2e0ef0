"""What a deformation costs: one family a file, all in millimeters, all integrals."""

from mmtk.regularizers.base import Deformation, Regularizer
from mmtk.regularizers.inverse import InverseConsistency
from mmtk.regularizers.jacobian import JacobianBarrier
from mmtk.regularizers.norms import ResidualNorm, VelocityNorm, norm_of_momentum, norm_of_white
from mmtk.regularizers.smoothness import Bending, Diffusion

__all__ = [
    "Bending", "Deformation", "Diffusion", "InverseConsistency", "JacobianBarrier", "Regularizer",
    "ResidualNorm", "VelocityNorm", "norm_of_momentum", "norm_of_white",
]  # fmt: skip
