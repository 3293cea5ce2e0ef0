"""X5, the transform file that BIDS drafts: HDF5, RAS, mm, fixed to moving. nitransforms has the only code for it.

The draft may still change. A file holds a list of matrices and fields, and the order in which a point takes them as
``TransformChain/0 = "0/1/..."``; a file with one transform and no chain is that transform.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mmtk.errors import InputError
from mmtk.io.files import replacing
from mmtk.io.formats.extra import nitransforms
from mmtk.io.formats.request import Request, Steps
from mmtk.io.headers import existing_file
from mmtk.io.transforms import AffineStep, FieldStep

__all__ = ["read_x5", "write_x5"]


def read_x5(request: Request) -> Steps:
    """Read the transforms of a file in the order of its one chain.

    Raises:
        InputError: If it cannot be read, holds several chains, or a transform that is neither a matrix nor a field.
    """
    file = existing_file(request.path, "transform")
    x5 = nitransforms(request, "io.x5")
    try:
        nodes, chains = x5.from_filename(file), _chains(file)
        if len(chains) > 1 or (not chains and len(nodes) != 1):
            request.refuse(
                f"it holds {len(nodes)} transforms and {len(chains)} chains, but one chain is expected; write the "
                f"one that is meant to a file of its own"
            )
        order = [int(word) for word in chains[0].split("/")] if chains else [0]
        return tuple(_step(request, nodes[number]) for number in order)
    except InputError:
        raise
    except (OSError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
        request.refuse(f"it cannot be read as X5 ({error}); write it again")


def _chains(file: Any) -> list[str]:
    import h5py

    with h5py.File(file) as content:
        group = content.get("TransformChain", {})
        return [group[name].asstr()[()] for name in sorted(group, key=int)]


def _step(request: Request, node: Any) -> AffineStep | FieldStep:
    numbers = np.asarray(node.transform)
    if node.type == "linear" and numbers.shape == (4, 4):
        return AffineStep(numbers.astype(np.float64))
    if node.type == "nonlinear" and node.representation == "displacements" and numbers.ndim == 4:
        vectors = np.moveaxis(numbers.astype(np.float32), -1, 0)
        return FieldStep(np.ascontiguousarray(vectors), np.asarray(node.domain.mapping, dtype=np.float64))
    request.refuse(
        f"it holds a transform of type {node.type} ({node.subtype}, {node.representation}, {numbers.shape}), but "
        f"4x4 matrices and fields of displacements are read; write it as one of these"
    )


def write_x5(request: Request, steps: Steps) -> None:
    """Write any chain; nothing is resampled."""
    import h5py

    import mmtk

    request.need_three_axes()
    x5 = nitransforms(request, "io.x5")
    steps = steps or (AffineStep(np.eye(4)),)
    nodes = [_node(request, x5, step, f"mmtk {mmtk.__version__}") for step in steps]
    with replacing(request.path) as temporary:
        x5.to_filename(temporary, nodes)
        with h5py.File(temporary, "r+") as content:
            order = "/".join(str(number) for number in range(len(nodes)))
            content.create_group("TransformChain").create_dataset("0", data=order)


def _node(request: Request, x5: Any, step: AffineStep | FieldStep, writer: str) -> Any:
    kinds = ("space", "space", "space", "vector")
    if isinstance(step, FieldStep):
        if len(step.vectors) != 3:
            request.refuse("it holds transforms of three dimensions only; use an ITK file (.h5) for two")
        return x5.X5Transform(
            type="nonlinear",
            subtype="densefield",
            representation="displacements",
            metadata={"WrittenBy": writer},
            transform=np.moveaxis(np.asarray(step.vectors, dtype=np.float32), 0, -1),
            dimension_kinds=kinds,
            domain=x5.X5Domain(True, tuple(step.vectors.shape[1:]), step.affine, "cartesian"),
        )
    fixed = request.fixed
    return x5.X5Transform(
        type="linear",
        subtype="affine",
        representation="matrix",
        metadata={"WrittenBy": writer},
        transform=step.matrix,
        dimension_kinds=kinds,
        domain=None if fixed is None else x5.X5Domain(True, tuple(fixed.shape), fixed.affine, "cartesian"),
    )
