from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

import diffusion_fw as dfw
from diffusion_fw.networks.blocks import magnitude
from diffusion_fw.registry import ConfigError

SMALL = {"channels": 16, "channel_mult": (1, 2), "num_res_blocks": 1, "attention_resolutions": (4,)}


def unet(shape=(3, 8, 8), **kwargs):
    """A small network whose gains, which start at zero, are not zero."""
    torch.manual_seed(0)
    network = dfw.build("network", "edm2_unet", shape=shape, **{**SMALL, **kwargs})
    for parameter in network.parameters():
        if not parameter.dim():
            nn.init.ones_(parameter)
    return network


def inputs(batch, shape=(3, 8, 8)):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *shape, generator=generator), torch.rand(batch, generator=generator) - 0.5


def test_output_is_zero_before_training():
    network = dfw.build("network", "edm2_unet", shape=(3, 8, 8), num_classes=2, **SMALL)
    assert not network(*inputs(2), torch.tensor([0, 2])).any()


def test_layers_and_sums_keep_the_magnitude():
    torch.manual_seed(0)
    x, y = torch.randn(2, 64, 32, 16, 16)

    def rms(values):
        return values.square().mean().sqrt().item()

    assert rms(magnitude.silu(x)) == pytest.approx(1, abs=0.01)
    assert rms(magnitude.mix(x, y, 0.3)) == pytest.approx(1, abs=0.01)
    assert rms(magnitude.concatenate(x, y[:, :8])) == pytest.approx(1, abs=0.01)
    assert rms(magnitude.concatenate(x, y[:, :8])[:, 32:]) == pytest.approx((20 / 8) ** 0.5, abs=0.01)
    assert rms(magnitude.Conv(32, 64, 1)(x)) == pytest.approx(1, abs=0.05)
    assert rms(magnitude.Fourier(64)(torch.randn(500))) == pytest.approx(1, abs=0.05)
    assert rms(magnitude.normalize(5 * x, dims=(1,))) == pytest.approx(1, abs=0.001)


def test_only_the_direction_of_a_weight_matters():
    network = unet().eval()
    x, label = inputs(2)
    output = network(x, label)
    for parameter in network.parameters():
        if parameter.dim():
            parameter.data *= 3
    torch.testing.assert_close(network(x, label), output, rtol=1e-3, atol=1e-3)


def test_training_normalizes_the_weights_in_place_and_evaluation_leaves_them():
    network = unet(num_classes=2)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim():
                parameter.mul_(3)
    kept = copy.deepcopy(network).eval()
    before = copy.deepcopy(kept.state_dict())
    kept(*inputs(2))
    assert all(torch.equal(value, before[name]) for name, value in kept.state_dict().items())
    network.train()(*inputs(2), torch.tensor([0, 2]))
    for name, parameter in network.named_parameters():
        if parameter.dim():
            torch.testing.assert_close(
                parameter.flatten(1).square().mean(1), torch.ones(len(parameter)), rtol=1e-3, atol=0
            )
        else:
            assert torch.equal(parameter, before[name])


def test_two_forward_passes_before_a_backward_pass_give_the_sum_of_the_gradients():
    def gradients(*batches):
        network = unet().train()
        sum(network(*batch).square().sum() for batch in batches).backward()
        return [parameter.grad for parameter in network.parameters()]

    first, second = (inputs(2), (inputs(2)[0].flip(0), inputs(2)[1]))
    both = gradients(first, second)
    for grad, *apart in zip(both, gradients(first), gradients(second), strict=True):
        torch.testing.assert_close(grad, apart[0] + apart[1], rtol=1e-3, atol=1e-3)


def test_checkpointing_gives_the_same_gradients_and_weights():
    def trained(**changed):
        network = unet(num_classes=3, dropout=0.2, **changed).train()
        torch.manual_seed(2)
        network(*inputs(2), torch.tensor([0, 3])).square().sum().backward()
        return [(parameter, parameter.grad) for parameter in network.parameters()]

    for plain, checkpointed in zip(trained(), trained(checkpointing=True), strict=True):
        assert torch.equal(plain[0], checkpointed[0])
        torch.testing.assert_close(plain[1], checkpointed[1])


def test_compiled_it_trains_the_same_and_its_layers_are_one_graph():
    def trained(network):
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            network(*inputs(2)).square().mean().backward()
            optimizer.step()
        return network.state_dict()

    small = {"channel_mult": (1,), "attention_resolutions": ()}
    compiled = unet(**small).train()
    compiled.compile(backend="eager")
    plain = trained(unet(**small).train())
    for name, value in trained(compiled).items():
        torch.testing.assert_close(value, plain[name], rtol=1e-4, atol=1e-4)
    whole = unet(**small).eval()
    whole.compile(backend="eager", fullgraph=True)
    assert whole(*inputs(2)).shape == (2, 3, 8, 8)


def test_embeds_the_label_in_float32_under_autocast():
    network = unet(num_classes=2).eval()
    x = inputs(1)[0].expand(2, -1, -1, -1)
    label = torch.tensor([1.0, 1.001])  # the same number in bf16
    seen = []
    network.time.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    exact = network(x, label)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(x, label)
    assert torch.equal(seen[0], seen[1])
    assert (output.float() - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("shape", [(3, 8, 8), (4, 4, 8), (1, 8, 2)], ids=str)
def test_keeps_the_shape_of_images(shape, outputs):
    network = unet(shape, outputs=outputs).to(memory_format=torch.channels_last)
    output = network(*inputs(2, shape))
    assert output.shape == (2, outputs * shape[0], *shape[1:])
    assert output.is_contiguous()


def test_no_class_is_another_output():
    network = unet(num_classes=2).eval()
    x, label = inputs(1)
    outputs = [network(x, label, torch.tensor([cond])) for cond in range(3)]
    assert all((first - second).norm() > 1e-3 for first, second in itertools.combinations(outputs, 2))
    torch.testing.assert_close(network(x, label), outputs[2])


@pytest.mark.parametrize(
    ("shape", "changes", "message"),
    [
        ((3, 9, 8), {}, r"network.channel_mult=\(1, 2\).*9x8.*next size that fits is 10x8"),
        ((2,), {}, r"network=edm2_unet.*\(C, H, W\).*\(2,\).*network=mlp"),
        ((3, 8, 8), {"channel_mult": ()}, r"network.channel_mult=\(\)"),
        ((3, 8, 8), {"attention_resolutions": (16,)}, r"network.attention_resolutions=\(16,\).*sizes 8, 4"),
        ((3, 8, 8), {"num_head_channels": 12}, r"network.num_head_channels=12.*32 channels"),
        ((3, 8, 8), {"class_conditional": True}, r"network.class_conditional.*data"),
    ],
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_does_not_fit_is_refused_when_it_is_built(shape, changes, message, device):
    with torch.device(device), pytest.raises(ConfigError, match=message):
        dfw.build("network", "edm2_unet", shape=shape, **{**SMALL, **changes})
