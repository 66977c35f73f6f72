"""Networks by name, and their proxies on a machine without weights and without a connection."""

import logging

import pytest

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.efflite0_frechet import EffLite0MotionNetwork, EffLite0Network
from smalti.eval.feature_networks.efflite0_perceptual import EffLite0Perceptual
from smalti.eval.feature_networks.selection import frechet_network, perceptual_network
from smalti.eval.pretrained_weights import SOURCES, WeightsUnavailableError


@pytest.mark.parametrize(
    ("select", "network", "weights", "proxy", "metric"),
    [
        (perceptual_network, "lpips_vgg", "vgg16", EffLite0Perceptual, "lpips"),
        (perceptual_network, "lpips_alex", "alexnet", EffLite0Perceptual, "lpips"),
        (frechet_network, "inception", "inception", EffLite0Network, "rfid"),
        (frechet_network, "i3d", "i3d", EffLite0MotionNetwork, "rfvd"),
    ],
)
def test_a_proxy_logs_one_warning_and_can_be_disallowed(no_network, caplog, select, network, weights, proxy, metric):
    with caplog.at_level(logging.INFO):
        assert isinstance(select(network), proxy)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    for word in (proxy.metric, metric, "not comparable", SOURCES[weights].file, "SMALTI_WEIGHTS"):
        assert word in record.getMessage()
    with pytest.raises(WeightsUnavailableError):
        select(network, allow_proxy=False)


@pytest.mark.parametrize("select", [perceptual_network, frechet_network])
def test_a_proxy_does_not_hide_a_damaged_file(no_network, tmp_path, select):
    (tmp_path / "x.pth").write_bytes(b"no")
    with pytest.raises(SmaltiError, match="damaged"):
        select(weights=tmp_path / "x.pth")


@pytest.mark.parametrize("select", [perceptual_network, frechet_network])
def test_an_unknown_name_lists_the_choices(select):
    with pytest.raises(SmaltiError, match="efflite0"):
        select("resnet")
