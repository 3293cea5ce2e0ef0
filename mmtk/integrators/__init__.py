"""Time integrators: one scheme a file. The loop over time is in :mod:`mmtk.shooting`."""

from mmtk.integrators.base import PLAIN, CarriedState, Context, Flow, Integrator, Shown, begin_carried, check
from mmtk.integrators.eulerian import Eulerian
from mmtk.integrators.lagrangian import Lagrangian, LagrangianState
from mmtk.integrators.particles import Particles, ParticleState
from mmtk.integrators.semi_lagrangian import SemiLagrangian
from mmtk.integrators.sharp import Sharp, SharpState

__all__ = [
    "PLAIN", "CarriedState", "Context", "Eulerian", "Flow", "Integrator", "Lagrangian", "LagrangianState",
    "ParticleState", "Particles", "SemiLagrangian", "Sharp", "SharpState", "Shown", "begin_carried", "check",
]  # fmt: skip
