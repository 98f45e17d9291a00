import pytest
import torch

from diffusion_fw import registry
from diffusion_fw.process.schedules.continuous import VP
from diffusion_fw.process.schedules.tables import Linear
from diffusion_fw.registry import ConfigError
from diffusion_fw.samplers.ddim import DDIM
from diffusion_fw.samplers.unipc import UniPC, coefficients


@pytest.mark.parametrize("begin", [1.0, 0.35])
@pytest.mark.parametrize("variant", ["bh1", "bh2"])
@pytest.mark.parametrize("predictor_order", [1, 2, 3])
def test_the_corrector_raises_the_order_to_p_plus_1(measured_order, predictor_order, variant, begin):
    def build(steps, grid):
        return UniPC(steps, grid, predictor_order=predictor_order, variant=variant)

    assert build(50, None).order == predictor_order + 1
    # The fourth order shows only where the steps are small and the errors still above rounding.
    counts = (128, 256, 512) if predictor_order == 3 else (64, 128, 256)
    assert measured_order(build, counts, begin=begin) == pytest.approx(predictor_order + 1, abs=0.15)


@pytest.mark.parametrize("predictor_order", [1, 2, 3])
def test_the_predictor_alone_has_order_p(measured_order, predictor_order):
    def build(steps, grid):
        return UniPC(steps, grid, predictor_order=predictor_order, corrector=False)

    assert measured_order(build, begin=0.35) == pytest.approx(build(50, None).order, abs=0.15)


@pytest.mark.parametrize("corrector", [True, False])
def test_a_first_step_of_order_1_or_2_holds_the_order(measured_order, corrector):
    def build(steps, grid):
        return UniPC(steps, grid, predictor_order=3, corrector=corrector, warm_up="lower_order")

    order = measured_order(build, (128, 256, 512), begin=0.35)
    assert order == pytest.approx(build(50, None).order, abs=0.15)


def test_without_corrector_order_1_is_ddim(tools):
    denoiser, x = tools.Mixture(Linear()), tools.start()
    result = UniPC(20, predictor_order=1, corrector=False)(denoiser, x)
    torch.testing.assert_close(result, DDIM(20)(denoiser, x), rtol=0, atol=1e-9)


def test_the_corrector_costs_no_evaluation(tools):
    steps = UniPC(20).trajectory(tools.Mixture(Linear()), tools.start())
    assert sum(step.evaluations for step in steps) == 20


def test_where_the_equations_are_solved_the_choice_of_b_cancels():
    """B(h) a_k does not depend on B(h) for two ratios or more; for one the published 1/2 does (Zhao et al. 2023)."""
    h, ratios = 0.3, [1.0, -0.8]
    bh1, bh2 = -h, torch.expm1(torch.tensor(-h, dtype=torch.float64)).item()
    first, second = ([b * a for a in coefficients(ratios, h, b)] for b in (bh1, bh2))
    assert first == pytest.approx(second, rel=1e-12)


def test_bh1_has_no_value_where_there_is_no_signal():
    with pytest.raises(ConfigError, match="zero_terminal_snr"):
        UniPC(10, variant="bh1").check(Linear(zero_terminal_snr=True))


def test_fewer_steps_than_the_order_are_refused():
    with pytest.raises(ConfigError, match=r"sampler\.steps"):
        UniPC(2, predictor_order=3).check(VP())


def test_the_former_name_of_the_predictors_order_still_works():
    with pytest.warns(FutureWarning, match="predictor_order"):
        assert registry.build("sampler", "unipc", solver_order=3) == UniPC(predictor_order=3)
