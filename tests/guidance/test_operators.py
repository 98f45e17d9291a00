"""Linear operators against their dense matrices."""

from __future__ import annotations

import pytest
import torch

from diffusion_fw.guidance.operators import AveragePool, Blur, ChannelMatrix, Grayscale, Mask, Matrix


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
    "luma": (Grayscale(), (3, 2, 2)),
    "blur": (Blur(0.7), (1, 4, 3)),
    "blur of all": (Blur(0.7, least=0.0), (1, 3, 4)),
    "strong blur": (Blur(2.0), (2, 4, 2)),
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


@pytest.mark.parametrize("std", [0.4, 1.0, 3.0])
def test_a_blur_is_the_convolution_of_the_reflected_image(std):
    scipy = pytest.importorskip("scipy.ndimage")
    x = gaussian(2, 3, 6, 9)
    expected = scipy.gaussian_filter(x.numpy(), (0, 0, std, std), mode="reflect", truncate=9)
    torch.testing.assert_close(Blur(std, least=0.0)(x), torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


def test_a_blur_sets_what_hardly_passes_to_0_and_amplifies_no_more_than_that():
    x = gaussian(1, 1, 8, 8)
    blur, whole = Blur(1.5), Blur(1.5, least=0.0)
    torch.testing.assert_close(blur(x), whole(x), rtol=0, atol=0.03 * float(x.norm()))
    assert float(blur.pseudo_inverse(x).norm()) <= float(x.norm()) / blur.least
    assert float(whole.pseudo_inverse(x).norm()) > 10 * float(x.norm()) / blur.least


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf"), 1001.0])
def test_a_blur_of_no_width_is_refused(std):
    with pytest.raises(ValueError, match="must be in"):
        Blur(std)


def test_a_blur_first_used_in_inference_mode_is_differentiable_afterwards():
    blur = Blur(0.123456)
    with torch.inference_mode():
        blur(gaussian(1, 1, 5, 7))
    x = gaussian(1, 1, 5, 7).requires_grad_()
    blur(x).square().sum().backward()
    torch.testing.assert_close(x.grad, 2 * blur(blur(x.detach())))


BASELINES = {
    "mask": (Mask(torch.tensor([[[True, False], [True, False]]])), (3, 2, 2)),
    "average": (AveragePool(2), (3, 4, 4)),
    "blur": (Blur(1.0), (3, 4, 4)),
    "luma": (Grayscale(), (3, 4, 4)),
    "matrix": (Matrix(gaussian(3, 12), (3, 2, 2)), (3, 2, 2)),
}


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_and_pictures_of_measurements_have_the_shape_of_examples(name):
    operator, shape = BASELINES[name]
    x = gaussian(2, *shape)
    y = operator(x)
    assert operator.baseline(y).shape == operator.as_example(y).shape == x.shape


def test_baselines_are_what_they_are_called():
    known = torch.tensor([[[True, False], [True, False]]])
    filled = Mask(known).baseline(torch.tensor([[[[1.0, 9.0], [3.0, 9.0]]]]))
    assert filled.tolist() == [[[[1.0, 2.0], [3.0, 2.0]]]]
    flat = torch.full((1, 1, 2, 2), 0.3)
    torch.testing.assert_close(AveragePool(3).baseline(flat), torch.full((1, 1, 6, 6), 0.3))
    gray = Grayscale().baseline(flat)
    torch.testing.assert_close(Grayscale()(gray), flat)
