"""The plain U-Net: shapes, size, symmetries and what a pixel sees."""

import pytest
import torch

from medtutor.nn.unet import UNet, conv_block


def parameters_of(inputs, classes, channels, dim):
    """The count by hand: kernels, two numbers a normalised channel, and the biased up-convolutions and head."""
    def block(a, b):
        return 3**dim * (a * b + b * b) + 4 * b

    total = sum(block(a, b) for a, b in zip((inputs, *channels), channels, strict=False))
    for fine, coarse in zip(channels, channels[1:], strict=False):
        total += 2**dim * coarse * fine + fine + block(2 * fine, fine)
    return total + channels[0] * classes + classes


@pytest.mark.parametrize(("inputs", "classes", "channels", "dim"), [
    (1, 2, (16, 32, 64), 2), (3, 5, (4, 6, 10, 12), 2), (1, 3, (4, 8), 3), (2, 1, (5,), 2), (2, 2, (3, 4, 5), 3)])
def test_shape_and_parameter_count(inputs, classes, channels, dim):
    net = UNet(inputs, classes, channels, dim).eval()
    assert sum(p.numel() for p in net.parameters()) == parameters_of(inputs, classes, channels, dim)
    sides = [(k + 1) * 2 ** (len(channels) - 1) for k in range(dim)]
    assert net(torch.zeros(2, inputs, *sides)).shape == (2, classes, *sides)


def test_published_size_of_the_original_on_the_meta_device():
    with torch.device("meta"):
        net = UNet(1, 2, (64, 128, 256, 512, 1024))
    # 31.0 million in the common padded form; the batch norms replace the biases of the convolutions.
    assert sum(p.numel() for p in net.parameters()) == parameters_of(1, 2, (64, 128, 256, 512, 1024), 2)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(31.04e6, rel=1e-3)


@pytest.mark.parametrize(("sides", "dim"), [((30, 32), 2), ((32, 33), 2), ((8, 8, 6), 3)])
def test_sides_that_cannot_be_halved_are_one_sentence(sides, dim):
    with pytest.raises(ValueError, match=r"every side of \(.*\) must be divisible by 4: pad or resize"):
        UNet(1, 2, (2, 3, 4), dim)(torch.zeros(1, 1, *sides))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    net = UNet(1, 2, (4, 6, 8)).double()
    net(torch.randn(8, 1, 32, 32, dtype=torch.float64))  # running statistics that are not 0 and 1
    return net.eval()


def test_translation_by_the_stride_moves_the_output_and_by_less_does_not(net):
    image = torch.randn(1, 1, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inner = slice(32, 64)

    def gap(shift):
        moved = net(image.roll((shift, shift), (2, 3))).roll((-shift, -shift), (2, 3))
        return (moved - net(image))[..., inner, inner].abs().max().item()

    assert gap(4) < 1e-9
    assert gap(8) < 1e-9
    assert gap(1) > 1e-4


def test_a_pixel_sees_its_receptive_field_and_no_further(net):
    image = torch.randn(1, 1, 96, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    image.requires_grad_()
    net(image)[0, 0, 48, 48].backward()
    rows = image.grad[0, 0].abs().sum(1).nonzero().flatten()
    # Two convolutions at each of the strides 1, 2, 4, 2, 1 reach 20 pixels; pooling adds the rest of a cell.
    reach = max(48 - int(rows.min()), int(rows.max()) - 48)
    assert 16 <= reach <= 26


def test_every_parameter_gets_a_gradient_and_cases_do_not_mix_in_evaluation(net):
    images = torch.randn(3, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(net(images), torch.cat([net(image[None]) for image in images]))
    torch.manual_seed(0)
    fresh = UNet(1, 2, (4, 6, 8))
    fresh(images.float()).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in fresh.parameters())


def test_the_skips_carry_the_finest_scale():
    torch.manual_seed(0)
    net = UNet(1, 1, (2, 3)).eval()
    flat = torch.ones(1, 1, 16, 16)
    with torch.no_grad():
        for up in net.up:  # nothing comes up from below
            up.weight.zero_()
            up.bias.zero_()
    edge = flat.clone()
    edge[..., 8:] = 0
    assert (net(edge) - net(flat)).abs().max() > 1e-4


def test_a_block_keeps_the_size():
    assert conv_block(2, 5)(torch.zeros(2, 2, 7, 9)).shape == (2, 5, 7, 9)
    assert conv_block(2, 5, dim=3)(torch.zeros(2, 2, 3, 7, 9)).shape == (2, 5, 3, 7, 9)
