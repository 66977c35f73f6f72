"""Comparability with published values: protocol, data and network must be theirs, else there is a reason."""

from dataclasses import replace

import pytest

from smalti.eval.metrics import PSNR, SSIM
from smalti.eval.pretrained_weights import SOURCES
from smalti.eval.protocols import PROTOCOLS, get_protocol
from smalti.eval.published import COCO, IMAGENET, PROTOCOL_NOTES, PUBLISHED, Conditions, find_published
from smalti.eval.results import MetricResult

IMAGENET_NAMES = [f"n01440764/ILSVRC2012_val_{index:08d}.JPEG" for index in range(1, 50_001)]
INCEPTION = {"rfid": {"sha256": SOURCES["inception"].prefix + "0" * 56}}


def result(metric=PSNR, **changes):
    described = MetricResult(1.0, metric.comparable, metric.higher_is_better, metric.range, metric.definition)
    return replace(described, **changes)


def conditions(protocol="imagenet256_bilinear", names=IMAGENET_NAMES, networks=INCEPTION):
    return Conditions(get_protocol(protocol), names, networks)


@pytest.mark.parametrize("metric", ["psnr", "rfid"])
def test_the_complete_validation_set_is_comparable_with_a_named_paper(metric):
    found = find_published(metric, result(), conditions())
    assert found.reason is None
    assert "WeTok (arXiv 2508.05599)" in found.comparable_with
    assert "ImageNet-1k validation" in found.comparable_with
    shards = [f"val-{index % 50:02d}.tar/ILSVRC2012_val_{index:08d}" for index in range(1, 50_001)]
    assert find_published(metric, result(), conditions(names=shards)) == found
    coco = [f"{index * 7:012d}.jpg" for index in range(5_000)]
    assert COCO.name in find_published(metric, result(), conditions("coco256_bilinear", coco)).comparable_with


@pytest.mark.parametrize(
    ("metric", "changes", "reason"),
    [
        ("psnr", {"names": IMAGENET_NAMES[:4]}, "they are 4 samples instead of 50,000"),
        (
            "psnr",
            {"names": [f"{index}.png" for index in range(50_000)]},
            "names are not like ILSVRC2012_val_00000001.JPEG",
        ),
        ("psnr", {"names": [*IMAGENET_NAMES[1:], "again/" + IMAGENET_NAMES[1]]}, "names are not like"),
        (
            "psnr",
            {"protocol": "imagenet256"},
            "are known: WeTok's values are for imagenet256_bilinear",
        ),
        ("psnr", {"protocol": "square128"}, "no published values with the protocol square128 are known"),
        ("psnr", {"protocol": "mcljcv17x256"}, "all consecutive clips of each video"),
        ("ssim", {}, "uniform window of 7 x 7"),
        ("lpips", {}, "has no lpips"),
        ("rfid", {"networks": {"rfid": {"sha256": "other"}}}, "the network of rfid is not that of published values"),
        ("rfid", {"networks": {}}, "the network of rfid is not that of published values"),
    ],
)
def test_every_other_value_has_a_reason(metric, changes, reason):
    found = find_published(metric, result(SSIM), conditions(**changes))
    assert found.comparable_with is None
    assert reason in found.reason


def test_proxies_and_changed_protocols_are_never_comparable():
    assert "not a metric of published tables" in find_published("psnr", result(comparable=False), conditions()).reason
    protocol = replace(get_protocol("imagenet256_bilinear"), antialias=False)
    found = find_published("psnr", result(), Conditions(protocol, IMAGENET_NAMES, INCEPTION))
    assert "no published values" in found.reason


def test_the_entries_name_protocols_and_weights_that_exist():
    assert {entry.protocol for entry in PUBLISHED} | PROTOCOL_NOTES.keys() <= PROTOCOLS.keys()
    assert {weights for entry in PUBLISHED for weights in entry.metrics.values() if weights} <= SOURCES.keys()
    assert IMAGENET.find_difference(IMAGENET_NAMES) is None
