"""Modes: orthonormal, they give the rows back, and they are numpy's singular vectors."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mmtk.atlas.modes import principal_modes


@st.composite
def tables(draw):
    cases, numbers = draw(st.integers(2, 7)), draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**32 - 1))
    made = np.random.default_rng(seed).standard_normal((cases, numbers))
    return made * draw(st.sampled_from([1e-3, 1.0, 1e3])) + draw(st.sampled_from([0.0, 5.0]))


@given(tables(), st.integers(1, 500))
def test_scores_and_orthonormal_modes_give_the_rows_back_whatever_the_blocks(rows, numbers):
    found = principal_modes(rows, len(rows), most=8 * len(rows) * numbers)
    assert np.allclose(found.basis @ found.basis.T, np.eye(len(found.basis)), atol=1e-6)
    scale = np.abs(rows).max()
    assert np.allclose(found.mean + found.scores @ found.basis, rows, atol=1e-6 * scale)
    whole = principal_modes(rows, len(rows))
    assert np.allclose(found.variances, whole.variances, rtol=1e-6, atol=1e-9 * scale**2)


@given(tables())
def test_variances_and_modes_are_those_of_a_singular_value_decomposition(rows):
    found = principal_modes(rows, 2)
    _, sizes, right = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)
    variances = sizes**2 / (len(rows) - 1)
    count = len(found.variances)
    assert np.allclose(found.variances, variances[:count], rtol=1e-6, atol=1e-8 * variances[0])
    assert np.allclose(variances[count:], 0, atol=1e-8 * variances[0])
    assert found.explained.sum() == 1 or np.isclose(found.explained.sum(), 1)
    if count > 1 and variances[1] < 0.9 * variances[0]:  # else the first two may be mixed
        assert abs(found.basis[0] @ right[0]) > 1 - 1e-6
        assert found.scores[np.abs(found.scores[:, 0]).argmax(), 0] > 0


def test_equal_rows_have_no_modes():
    found = principal_modes(np.ones((4, 5)), 3)
    assert len(found.variances) == 0 and found.basis.shape == (0, 5) and (found.mean == 1).all()
