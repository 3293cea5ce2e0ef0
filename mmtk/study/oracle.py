"""The true deformation as a row of a study: what is left of an error when the map is the right one.

``oracle`` is a method of studies alone. In each case it is given the truth, and it never looks at the images; its
errors are those of interpolation, its overlap is the best that labels on a grid allow.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

import mmtk
from mmtk.config import Capabilities, ComponentConfig
from mmtk.plugins import Catalogue, Offer, PluginRecord

if TYPE_CHECKING:
    from mmtk.method import Pair, Progress
    from mmtk.result import Registration

__all__ = ["ORACLE", "OracleConfig", "build_oracle", "with_oracle"]

ORACLE = "oracle"


class OracleConfig(ComponentConfig):
    """The true deformation, for cases that know it."""

    target = "mmtk.study.oracle:build_oracle"
    capabilities = Capabilities(registers=False)

    kind: Literal["oracle"] = "oracle"
    truth: Path | None = Field(
        default=None, description="folder of a sample, or the true displacement; a study says it of each case"
    )


def with_oracle(catalogue: Catalogue) -> Catalogue:
    """Return a catalogue that offers the oracle, too; a method of a plugin that is called so stays."""
    if any(offer.name == ORACLE for offer in catalogue.offers("method")):
        return catalogue
    offer = Offer("method", ORACLE, OracleConfig, "mmtk.study", "mmtk")
    record = PluginRecord("mmtk.study", "mmtk", mmtk.__version__, offers=(offer,))
    return Catalogue((*catalogue.plugins, record), catalogue.paths)


def build_oracle(truth: Path | None) -> object:
    """Return the method; it is a function so that describing it loads no torch."""
    from mmtk.errors import InputError
    from mmtk.method import Method, silent

    class Oracle(Method):
        """Hands back the truth."""

        def register(self, pair: Pair, progress: Progress = silent) -> Registration:
            if truth is None:
                raise InputError("the true deformation of this case is not known, so that there is no oracle")
            return _found(truth, pair)

    return Oracle()


def _found(truth: Path, pair: Pair) -> Registration:
    import numpy as np
    import torch

    from mmtk.errors import InputError
    from mmtk.fields import invert
    from mmtk.io import read_displacement, to_voxels
    from mmtk.result import Registration
    from mmtk.samples.truth import Truth

    if truth.is_dir():
        known = Truth.read(truth)
        if known is None:
            raise InputError(f"'{truth}' does not say the true deformation any more")
        voxels = known.displacement
    else:
        field = read_displacement(truth)
        voxels = to_voxels(field.vectors, field.affine)
    if tuple(voxels.shape[1:]) != pair.grid.shape:
        raise InputError(
            f"the true deformation has {voxels.shape[1:]} voxels and the fixed image {pair.grid.shape}; give it on the "
            "grid of the fixed image"
        )
    u = torch.from_numpy(np.ascontiguousarray(voxels)).to(pair.fixed)[None]
    return Registration(pair.grid, u, invert(u), None, {}, ())
