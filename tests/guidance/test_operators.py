"""Linear operators against their dense matrices."""

from __future__ import annotations

import pytest
import torch

from diffusion_fw.guidance.operators import AveragePool, ChannelMatrix, Mask, Matrix


def gaussian(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


LOW_RANK = gaussian(5, 2) @ gaussian(2, 8)
OPERATORS = {
    "mask": (Mask(torch.tensor([[True, False, False, True], [True, True, False, False]])), (2, 4)),
    "wide": (Matrix(gaussian(3, 8), (2, 4)), (2, 4)),
    "tall": (Matrix(gaussian(11, 8), (2, 4)), (2, 4)),
    "low rank": (Matrix(LOW_RANK, (2, 4)), (2, 4)),
    "average": (AveragePool(2), (1, 4, 4)),
    "gray": (ChannelMatrix(torch.full((1, 3), 1 / 3)), (3, 2, 2)),
    "channels": (ChannelMatrix(gaussian(2, 3)), (3, 1, 2)),
}


@pytest.fixture(params=OPERATORS)
def case(request):
    operator, shape = OPERATORS[request.param]
    basis = torch.eye(torch.Size(shape).numel(), dtype=torch.float64).unflatten(1, shape)
    return operator, basis, operator(basis).flatten(1).T


def test_the_transpose_is_the_matrixs(case):
    operator, _, dense = case
    y = operator(torch.zeros_like(case[1]))[:1]
    units = torch.eye(y.numel(), dtype=torch.float64).unflatten(1, y.shape[1:])
    torch.testing.assert_close(operator.transpose(units).flatten(1), dense)


@pytest.mark.parametrize(("prior", "noise"), [(0.7, 0.2), (0.7, 0.0), (0.0, 0.3)])
def test_the_normal_equations_are_solved_wherever_there_is_a_measurement(case, prior, noise):
    operator, basis, dense = case
    y = operator(basis)
    covariance = prior * dense @ dense.T + noise * torch.eye(len(dense), dtype=torch.float64)
    expected = y.flatten(1) @ torch.linalg.pinv(covariance).T
    spread = torch.full((len(y), *(1,) * (y.ndim - 1)), prior, dtype=torch.float64)
    for given in (prior, spread):
        torch.testing.assert_close(operator.solve(y, given, noise).flatten(1), expected, rtol=1e-8, atol=1e-8)


def test_the_pseudo_inverse_is_moore_and_penroses(case):
    operator, basis, dense = case
    y = operator(basis)
    got = operator.pseudo_inverse(y).flatten(1)
    torch.testing.assert_close(got, y.flatten(1) @ torch.linalg.pinv(dense).T, rtol=1e-9, atol=1e-9)
    single = operator.pseudo_inverse(y[0])
    torch.testing.assert_close(single.flatten(), got[0])
