"""Newton-Schulz orthogonalization: equal to the polynomial of the singular values, for all shapes and ranks."""

import pytest
import torch

from smalti.trainers.newton_schulz import COEFFICIENTS, fast_dtype, orthogonalize, orthogonalize_all


def make_matrix(rows, columns, rank, seed=0):
    """Return a float64 matrix with singular values from 1 to 1e-3, and a rank like that of a gradient."""
    generator = torch.Generator().manual_seed(seed)
    left, right = (torch.randn(n, rank, dtype=torch.float64, generator=generator) for n in (rows, columns))
    left, right = torch.linalg.qr(left).Q, torch.linalg.qr(right).Q
    return left * torch.logspace(0, -3, rank, dtype=torch.float64) @ right.T


def exact(matrix, steps):
    """Apply the polynomial to the singular values."""
    a, b, c = COEFFICIENTS
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return u * s @ v


@pytest.mark.parametrize("shape", [(8, 72), (72, 8), (16, 16), (12, 20), (1, 30), (64, 576)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_singular_values_follow_the_polynomial(shape, dtype, tolerance):
    for rank in {min(shape), max(1, min(shape) // 4)}:
        matrix = make_matrix(*shape, rank)
        for steps in (1, 5, 8):
            result = orthogonalize(matrix.to(dtype), steps, dtype)
            torch.testing.assert_close(result.double(), exact(matrix, steps), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_well_conditioned_matrices_become_nearly_orthogonal(dtype):
    matrix = make_matrix(16, 144, 16)
    singular = torch.linalg.svdvals(orthogonalize(matrix.float() + torch.eye(16, 144), 5, dtype).float())
    assert 0.6 < singular.min() <= singular.max() < 1.3


def test_the_scale_does_not_matter_and_zero_remains_zero():
    matrix = make_matrix(8, 72, 8).float()
    torch.testing.assert_close(orthogonalize(matrix), orthogonalize(1024 * matrix), rtol=1e-4, atol=1e-6)
    assert not orthogonalize(torch.zeros(8, 72)).any()


def test_matrices_of_one_shape_are_orthogonalized_together_and_returned_in_order():
    shapes = [(8, 72), (4, 9), (8, 72), (72, 8), (8, 72)]
    matrices = [make_matrix(*shape, min(shape), seed).float() for seed, shape in enumerate(shapes)]
    for matrix, result in zip(matrices, orthogonalize_all(matrices), strict=True):
        torch.testing.assert_close(result, orthogonalize(matrix), rtol=0, atol=2e-3)


@pytest.mark.parametrize("has_it", [False, True])
def test_bfloat16_is_used_where_the_cpu_has_it(monkeypatch, has_it):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"amx_bf16": False, "avx512_bf16": has_it})
    assert fast_dtype(torch.device("cpu")) == (torch.bfloat16 if has_it else torch.float32)
