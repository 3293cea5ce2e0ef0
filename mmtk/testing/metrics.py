"""Laws of every metric, on a registration whose maps are known."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from mmtk.config import Capabilities
from mmtk.errors import GridMismatch
from mmtk.fields import Grid, invert, warp
from mmtk.method import Pair
from mmtk.metrics import Metric
from mmtk.result import Registration
from mmtk.testing.base import Contract, holds_little, refuses, stays_untouched, turns
from mmtk.testing.phantoms import GRIDS, LARGE, blob, turned

__all__ = ["MetricContract"]

Case = tuple[Pair, Registration]


class MetricContract(Contract):
    """What makes a number one that judges registrations: it means the same of every scan, and is always there or NaN.

    Attributes:
        symmetry: Share by which a number that claims to be symmetric may change where moving and fixed image change
            places; maps and images are interpolated.

    Example::

        class TestMine(MetricContract):
            @pytest.fixture
            def part(self):
                return MyMetricConfig()
    """

    base = Metric
    memory = 60
    symmetry: ClassVar[float] = 0.02

    def case(
        self, grid: Grid, *, size: float = 1.0, lesion: bool = True, dtype: torch.dtype = torch.float64
    ) -> Case:
        """Two ellipsoids, and a registration of them by a smooth map of up to ``size`` voxels and its inverse.

        With a lesion in the moving image, the appearance takes it away.
        """
        head = self.blob(grid, (3.0, -2.0, 1.0), (29.0, 25.0, 27.0), dtype)
        bump = self.blob(grid, (0.0, 0.0, 0.0), (24.0, 28.0, 26.0), dtype)
        along = torch.tensor([0.9, -0.7, 0.5], dtype=dtype, device=self.device)[: grid.dim]
        u = size * bump * along.view(1, -1, *[1] * grid.dim)
        inverse = invert(u, tolerance=1e-9)
        moving, mask, appearance = warp(head, inverse), None, None
        if lesion:
            spot = self.blob(grid, (8.0, 6.0, 4.0), (9.0, 9.0, 9.0), dtype)
            mask = (spot > 0.1).to(dtype)
            moving = moving - 0.5 * spot
            appearance = 0.5 * warp(spot * mask, u)
        return Pair(moving, head, grid, mask=mask), Registration(grid, u, inverse, appearance, {}, ())

    def rest(self, grid: Grid) -> Case:
        """An image that was registered with itself and did not move."""
        image = self.blob(grid, (3.0, -2.0, 1.0), (29.0, 25.0, 27.0), torch.float64)
        still = torch.zeros(1, grid.dim, *grid.shape, dtype=image.dtype, device=image.device)
        return Pair(image, image.clone(), grid), Registration(grid, still, still.clone(), None, {}, ())

    def blob(self, grid: Grid, center: Any, radii: Any, dtype: torch.dtype) -> Tensor:
        """A soft ellipsoid, see :func:`mmtk.testing.phantoms.blob`."""
        return blob(grid, center, radii, dtype=dtype, device=self.device)

    def test_it_survives_pickling(self, built: Any, dims: tuple[int, ...]) -> None:  # type: ignore[override]
        super().test_it_survives_pickling(built)
        case = self.case(GRIDS[dims[0]])
        _same(pickle.loads(pickle.dumps(built))(*case), built(*case))

    def test_its_numbers_are_plain_and_have_names(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            numbers = built.measure(*self.case(GRIDS[dim]))
            assert isinstance(numbers, Mapping) and numbers, f"expected numbers by name, got {numbers!r}"
            for name, value in numbers.items():
                assert isinstance(name, str) and name, f"{name!r} is no name"
                assert isinstance(value, (int, float)), f"{name} is a {type(value).__name__}; return a float"
            assert set(numbers) == set(built.perfect), f"`perfect` has {sorted(built.perfect)}, not these names"
            assert any(math.isfinite(value) for value in numbers.values()), "nothing of a usual pair is defined"

    def test_an_image_on_itself_has_the_numbers_that_it_says(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            for name, value in built(*self.rest(GRIDS[dim])).items():
                expected = built.perfect[name]
                assert _alike(value, expected, 1e-9), f"{name} is {value}; `perfect` says {expected}"

    def test_the_images_may_change_places_where_that_is_claimed(
        self, built: Any, dims: tuple[int, ...], capabilities: Capabilities
    ) -> None:
        for dim in dims if capabilities.symmetric else ():
            pair, found = self.case(GRIDS[dim], lesion=False)
            back = replace(found, displacement=found.inverse, inverse=found.displacement)
            other = built(replace(pair, moving=pair.fixed, fixed=pair.moving), back)
            _same(other, built(pair, found), self.symmetry)

    def test_it_does_not_know_how_the_scan_lies(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            case = self.case(GRIDS[dim])
            for flips, order in turns(dim):
                _same(built(*_turned(case, flips, order)), built(*case), 1e-6)

    def test_one_case_does_not_know_of_another(self, built: Any, dims: tuple[int, ...]) -> None:
        cases = [self.case(GRIDS[dims[0]], size=size, lesion=size > 0.5) for size in (1.0, 0.3, 2.0)]
        alone = [copy.deepcopy(built)(*case) for case in cases]
        for together in ([built(*case) for case in cases], [built(*case) for case in cases]):
            for one, other in zip(together, alone, strict=True):
                _same(one, other, 0)

    def test_what_is_empty_is_defined_or_not_a_number(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            pair, found = self.case(GRIDS[dim])
            nothing, all_of_it = torch.zeros_like(pair.fixed), torch.ones_like(pair.fixed)
            empty = {
                "no lesion": (replace(pair, mask=None), replace(found, appearance=None)),
                "an empty lesion mask": (replace(pair, mask=nothing), replace(found, appearance=nothing)),
                "a lesion mask of everything": (replace(pair, mask=all_of_it), found),
                "a fixed mask of everything": (replace(pair, fixed_mask=all_of_it), found),
                "a moving image without data": (replace(pair, inside=nothing), found),
                "images of 0": (replace(pair, moving=nothing, fixed=nothing), found),
            }
            for what, case in empty.items():
                try:
                    numbers = built(*case)
                except Exception as error:
                    raise AssertionError(f"{what} is not measured: {type(error).__name__}: {error}") from error
                assert set(numbers) == set(built.perfect), f"with {what}, other numbers come: {sorted(numbers)}"
                endless = [name for name, value in numbers.items() if math.isinf(value)]
                assert not endless, f"with {what}, {', '.join(endless)} is infinite; what is not defined is NaN"

    def test_single_precision_is_near_double(self, built: Any, dims: tuple[int, ...]) -> None:
        case = self.case(GRIDS[dims[-1]])
        _same(built(*_single(case)), built(*case), 1e-3)

    def test_inputs_are_not_written_to(self, built: Any, dims: tuple[int, ...]) -> None:
        pair, found = self.case(GRIDS[dims[-1]])
        tensors = (pair.moving, pair.fixed, pair.mask, found.displacement, found.inverse, found.appearance)
        stays_untouched(lambda: built(pair, found), *[t for t in tensors if t is not None])

    def test_maps_on_another_grid_are_refused(self, built: Any, dims: tuple[int, ...]) -> None:
        for dim in dims:
            pair, found = self.case(GRIDS[dim])
            short = replace(found, displacement=found.displacement[..., 1:], inverse=found.inverse[..., 1:])
            refuses(lambda pair=pair, short=short: built(pair, short), GridMismatch)  # type: ignore[misc]

    def test_it_holds_few_images_at_once(self, built: Any, dims: tuple[int, ...]) -> None:
        if 3 not in dims:
            pytest.skip("memory is measured in 3-D")
        case = _single(self.case(LARGE))
        holds_little(lambda: built(*case), self.memory)


def _alike(a: float, b: float, share: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or math.isclose(a, b, rel_tol=share, abs_tol=share * 1e-3 + 1e-12)


def _same(found: Mapping[str, float], expected: Mapping[str, float], share: float = 0) -> None:
    """Hold numbers to one another, up to a share of each."""
    assert set(found) == set(expected)
    for name, value in found.items():
        assert _alike(value, expected[name], share), f"{name} is {value}, and {expected[name]} was expected"


def _turned(case: Case, flips: tuple[int, ...], order: tuple[int, ...]) -> Case:
    """The same case, with axes flipped and then put in another order."""
    pair, found = case
    grid = Grid(tuple(pair.grid.shape[a] for a in order), tuple(pair.grid.spacing[a] for a in order))

    def turn(t: Tensor | None, **how: bool) -> Any:
        return None if t is None else turned(t, flips, order, **how)

    return (
        Pair(turn(pair.moving), turn(pair.fixed), grid, mask=turn(pair.mask)),
        replace(
            found,
            grid=grid,
            displacement=turn(found.displacement, vector=True),
            inverse=turn(found.inverse, vector=True),
            appearance=turn(found.appearance),
        ),
    )


def _single(case: Case) -> Case:
    """The same case in float32."""
    pair, found = case

    def single(of: Any, *names: str) -> dict[str, Any]:
        tensors = {name: getattr(of, name) for name in names}
        return {name: None if t is None else t.float() for name, t in tensors.items()}

    return (
        replace(pair, **single(pair, "moving", "fixed", "mask")),
        replace(found, **single(found, "displacement", "inverse", "appearance")),
    )
