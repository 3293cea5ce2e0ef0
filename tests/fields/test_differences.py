"""Gradient, divergence and Jacobian against closed forms, SimpleITK and each other."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmtk.fields import divergence, gradient, identity, jacobian, jacobian_determinant


@given(shape=st.lists(st.integers(2, 9), min_size=2, max_size=3), seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_divergence_is_minus_the_transpose_of_the_gradient(shape, seed):
    rng = torch.Generator().manual_seed(seed)
    f = torch.randn(2, 1, *shape, generator=rng, dtype=torch.float64)
    v = torch.randn(2, len(shape), *shape, generator=rng, dtype=torch.float64)
    torch.testing.assert_close((gradient(f) * v).sum(), -(f * divergence(v)).sum(), rtol=1e-12, atol=1e-12)


def test_gradient_of_a_wave_is_its_derivative_to_second_order():
    errors = []
    for n in (32, 64):
        x = 2 * torch.pi * torch.arange(n, dtype=torch.float64) / n
        wave = torch.sin(x).view(1, 1, n, 1).expand(1, 1, n, 4)
        exact = 2 * torch.pi / n * torch.cos(x)
        errors.append(float((gradient(wave)[0, 0, :, 0] - exact).abs().max() * n))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("dim", [2, 3])
def test_jacobian_of_a_linear_map_is_its_matrix(dim):
    matrix = torch.eye(dim, dtype=torch.float64) + 0.2 * torch.randn(
        dim, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(3)
    )
    shape = (5, 6, 7)[:dim]
    points = identity(shape, dtype=torch.float64)
    u = torch.einsum("ab,nb...->na...", matrix - torch.eye(dim, dtype=torch.float64), points)
    found = jacobian(u)
    torch.testing.assert_close(found, matrix.view(1, dim, dim, *[1] * dim).expand_as(found))
    determinant = jacobian_determinant(u)
    torch.testing.assert_close(determinant, torch.linalg.det(matrix).expand_as(determinant))


def test_determinant_agrees_with_simpleitk_away_from_the_border():
    shape, spacing = (9, 8, 7), (1.0, 1.5, 2.5)
    u = torch.randn(1, 3, *shape, generator=torch.Generator().manual_seed(0)) * 0.2
    mm = u[0].numpy() * np.array(spacing).reshape(3, 1, 1, 1)
    field = sitk.GetImageFromArray(np.moveaxis(mm, 0, -1).transpose(2, 1, 0, 3), isVector=True)
    field.SetSpacing(spacing)
    expected = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(field)).transpose(2, 1, 0)
    found = jacobian_determinant(u)[0, 0].numpy()
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(found[inner], expected[inner], atol=1e-5)
