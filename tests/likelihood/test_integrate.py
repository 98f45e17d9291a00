import pytest
import torch

from diffusion_fw.likelihood.integrate import integrate

FREQUENCIES = torch.tensor([1.0, 3.0, 10.0], dtype=torch.float64)


def rotation(s: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Each example turns at its own frequency."""
    return FREQUENCIES[: len(x), None] * torch.stack([x[:, 1], -x[:, 0]], dim=1)


def unit(count: int) -> torch.Tensor:
    return torch.tensor([[1.0, 0.0]], dtype=torch.float64).repeat(count, 1)


@pytest.mark.parametrize("end", [2.0, -2.0])
@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_the_error_is_of_the_size_of_the_tolerance(tolerance, end):
    x = integrate(rotation, unit(3), 0.0, end, atol=tolerance, rtol=tolerance).x
    exact = torch.stack([torch.cos(FREQUENCIES * end), -torch.sin(FREQUENCIES * end)], dim=1)
    assert (x - exact).abs().max() < 50 * tolerance


def test_a_fifth_order_method_takes_steps_of_the_fifth_root_of_the_tolerance():
    few, many = (integrate(rotation, unit(1), 0.0, 20.0, atol=tol, rtol=tol).evaluations for tol in (1e-5, 1e-10))
    assert many / few == pytest.approx(10, rel=0.25)


def test_time_itself_is_integrated():
    """dx/ds = 5 s^4 from 0 to 1 is 1: of degree 4, so exact for a method of order 5."""
    x = integrate(
        lambda s, x: 5 * s[:, None] ** 4 + 0 * x, torch.zeros(2, 1).double(), 0.0, 1.0, atol=1e-3, rtol=1e-3
    ).x
    torch.testing.assert_close(x, torch.ones_like(x), rtol=0, atol=1e-14)


def test_an_example_does_not_depend_on_its_neighbours():
    alone = integrate(rotation, unit(1), 0.0, 2.0, atol=1e-5, rtol=1e-5).x
    among = integrate(rotation, unit(3), 0.0, 2.0, atol=1e-5, rtol=1e-5).x
    torch.testing.assert_close(among[:1], alone, rtol=0, atol=0)


def test_the_slope_is_the_derivative_at_the_end():
    solution = integrate(rotation, unit(3), 0.0, 2.0, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close(solution.slope, rotation(torch.full((3,), 2.0), solution.x))


def test_it_continues_with_the_step_of_an_earlier_solution():
    first = integrate(rotation, unit(1), 0.0, 1.0, atol=1e-8, rtol=1e-8)
    fresh = integrate(rotation, first.x, 1.0, 2.0, atol=1e-8, rtol=1e-8)
    again = integrate(rotation, first.x, 1.0, 2.0, atol=1e-8, rtol=1e-8, first_step=first.step)
    torch.testing.assert_close(again.x, fresh.x, rtol=0, atol=1e-6)
    assert again.evaluations < fresh.evaluations


def test_a_pole_is_reported():
    with pytest.raises(ArithmeticError, match="atol"):
        integrate(lambda s, x: x**2, torch.ones(1, 1).double(), 0.0, 2.0, atol=1e-8, rtol=1e-8)


def test_too_many_steps_are_reported():
    with pytest.raises(ArithmeticError, match="3 steps"):
        integrate(rotation, unit(3), 0.0, 100.0, atol=1e-8, rtol=1e-8, max_steps=3)
