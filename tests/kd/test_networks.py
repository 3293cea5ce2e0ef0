"""Teacher and student, what shares their weights, and the models that they are compared with."""

from __future__ import annotations

import pytest
import torch

from mmtk.errors import ConfigError
from mmtk_kd.networks import UHVED, HeMIS, UNet, layers_of, recorded, zeroed

WIDTHS = (2, 4, 6, 8)


def network(**settings: object) -> UNet:
    torch.manual_seed(0)
    return UNet(**{"modalities": 1, "widths": WIDTHS, **settings}).eval()


def test_three_down_samplings_and_any_size() -> None:
    for shape in ((16, 16, 16), (13, 17, 10)):
        image = torch.rand(2, 1, *shape)
        with recorded(network(), ["sc1", "sc3", "bottleneck", "up1"]) as found:
            pass
        net = network()
        with recorded(net, ["sc1", "sc3", "bottleneck", "up1"]) as found:
            logits = net(image)
        assert logits.shape == (2, 4, *shape)
        padded = [-(-n // 8) * 8 for n in shape]
        assert found["sc1"].shape == (2, 2, *padded)
        assert found["sc3"].shape == (2, 6, *[n // 4 for n in padded])
        assert found["bottleneck"].shape == (2, 8, *[n // 8 for n in padded])
        assert found["up1"].shape == (2, 2, *padded)


def test_two_dimensions_and_any_number_of_levels() -> None:
    net = UNet(modalities=3, classes=2, widths=(2, 3, 4), dim=2).eval()
    assert net(torch.rand(1, 3, 9, 12)).shape == (1, 2, 9, 12)
    assert list(net.named_layers()) == ["sc1", "sc2", "bottleneck", "up2", "up1", "output"]


def test_layers_of_any_network_are_found_by_their_dotted_names() -> None:
    plain = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU())
    assert list(layers_of(plain)) == ["0", "1"]
    with recorded(plain, ["0"]) as found:
        plain(torch.rand(1, 1, 3, 3))
    assert found["0"].shape == (1, 2, 3, 3)
    with (
        pytest.raises(ConfigError, match="layer 'up9': UNet has none of this name; it has sc1"),
        recorded(network(), ["up9"]),
    ):
        pass


def test_without_skips_the_bottleneck_alone_is_decoded() -> None:
    net, image = network(skips=False), torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        features = net.encoder(image)
        torch.testing.assert_close(
            net.decoder([torch.zeros_like(f) for f in features[:-1]] + features[-1:]), net(image)
        )


def test_a_layer_is_zeroed_for_those_who_take_it_and_only_there() -> None:
    net, image = network(), torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad():
        before = net(image)
        features = net.encoder(image)
        features[1] = torch.zeros_like(features[1])
        expected = net.decoder(features)  # the bottleneck still comes of the skip's own features
        with zeroed(net, "sc2"):
            torch.testing.assert_close(net(image), expected)
        with zeroed(net, "output"):
            assert not net(image).any()
        torch.testing.assert_close(net(image), before)
    assert not torch.allclose(before, expected)


def test_hemis_takes_mean_and_variance_of_what_is_there() -> None:
    torch.manual_seed(0)
    net, image = HeMIS(4, width=3).eval(), torch.rand(1, 4, 5, 6, 7)
    with torch.no_grad():
        some = net(image[:, [2, 0]], [2, 0])
        torch.testing.assert_close(some, net(image[:, [0, 2]], [0, 2]))
        a, b = (net.encoders[k](image[:, k : k + 1]) for k in (0, 2))
        moments = torch.cat([(a + b) / 2, (a - b) ** 2 / 2], 1)
        torch.testing.assert_close(some, net.decoder(moments))
        alone = torch.cat([a, torch.zeros_like(a)], 1)
        torch.testing.assert_close(net(image[:, :1], [0]), net.decoder(alone))
    with pytest.raises(ConfigError, match="2 channels for 4 modalities"):
        net(image[:, :2])


def test_u_hved_multiplies_gaussians() -> None:
    torch.manual_seed(0)
    net, image = UHVED(2, widths=(2, 4)).eval(), torch.rand(1, 2, 8, 8, 8)
    with torch.no_grad():
        told = [net.moments[k][1](net.encoders[k](image[:, k : k + 1])[1]).chunk(2, 1) for k in range(2)]
        mean, log = net.posterior(image, [0, 1])[1]
    precision = 1 + sum(torch.exp(-v) for _, v in told)
    torch.testing.assert_close(log.exp(), 1 / precision)
    torch.testing.assert_close(mean, sum(m * torch.exp(-v) for m, v in told) / precision)
    with torch.no_grad():
        alone = net.posterior(image[:, 1:], [1])[1][1]
    assert bool((alone.exp() > log.exp()).all())  # one modality is less sure


def test_u_hved_learns_to_paint_what_is_missing() -> None:
    net = UHVED(3, classes=2, widths=(2, 4))
    logits, painted, divergence = net.learn(torch.rand(1, 1, 6, 8, 8), [1])
    assert logits.shape == (1, 2, 6, 8, 8) and painted.shape == (1, 3, 6, 8, 8) and float(divergence.detach()) >= 0
