"""The pretrained networks of losses are the same on all ranks, in resumed runs and in runs with the same settings."""

import pytest
import torch

from smalti.cli.run_callback import pin_networks
from smalti.errors import SmaltiError
from smalti.trainers import Checkpoints, PerceptualLoss
from smalti.trainers.losses import provenance


@pytest.fixture
def perceptual(training):
    """Return a function that builds a training module with a perceptual loss."""
    return lambda: training(losses={"perceptual": PerceptualLoss("efflite0")}, weights={"l1": 1.0, "perceptual": 1.0})


def test_ranks_with_different_networks_are_refused(monkeypatch):
    lpips = {"perceptual": {"metric": "lpips", "weights": "vgg16.pth", "sha256": "39"}}
    proxy = {"perceptual": {"metric": "perceptual_efflite0", "weights": "lite0.pth", "sha256": "c8"}}
    monkeypatch.setattr(provenance, "gather", lambda value: [lpips, lpips, value])
    provenance.check_same_on_all_ranks(lpips)
    for other, text in ((proxy, "metric perceptual_efflite0, weights lite0.pth, sha256 c8"), ({}, "none")):
        with pytest.raises(SmaltiError, match=rf"metric lpips, .* on rank 0, but {text} on rank 2"):
            provenance.check_same_on_all_ranks(other)


def test_a_run_is_resumed_with_the_same_network_only(perceptual, trainer, data, tmp_path):
    run = trainer(Checkpoints(dirpath=tmp_path), max_steps=1, enable_checkpointing=True)
    run.fit(perceptual(), data())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    saved = checkpoint[provenance.PROVENANCE_KEY]["perceptual"]
    assert saved["metric"] == "perceptual_efflite0"
    assert len(saved["sha256"]) == 64
    trainer(max_steps=2).fit(perceptual(), data(), ckpt_path=tmp_path / "last.ckpt")
    other = perceptual()
    other.losses["perceptual"].provenance = saved | {"sha256": "0" * 64}
    with pytest.raises(SmaltiError, match=f"another network for the loss 'perceptual' .*{saved['sha256']}.*{'0' * 64}"):
        trainer(max_steps=2).fit(other, data(), ckpt_path=tmp_path / "last.ckpt")
    provenance.check_same_as_checkpoint(provenance.loss_provenance(other.losses), {})  # a checkpoint of version 0.1


def test_a_pinned_network_is_verified():
    sha256 = PerceptualLoss("efflite0").provenance["sha256"]
    PerceptualLoss("efflite0", sha256=sha256)
    with pytest.raises(SmaltiError, match=f"expects a perceptual network .* {'0' * 64}, but .*{sha256}"):
        PerceptualLoss("efflite0", sha256="0" * 64)


def test_the_settings_of_a_run_pin_the_network():
    settings = {"perceptual": {"init_args": {"network": "efflite0", "sha256": None}}, "own": {"init_args": {}}}
    pin_networks(settings, {"perceptual": {"metric": "m", "sha256": "c8"}, "own": {"sha256": "39"}})
    assert settings == {"perceptual": {"init_args": {"network": "efflite0", "sha256": "c8"}}, "own": {"init_args": {}}}
    pin_networks(None, {})
