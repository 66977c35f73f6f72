"""Sharded training (FSDP2) on two processes: equal to one process, with the same checkpoints."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import smalti
from smalti.data import EvaluationTransform, Photos
from smalti.errors import SmaltiError
from smalti.eval.functional import psnr
from smalti.pixels import pixels_to_uint8, to_pixels
from smalti.trainers import GANLoss
from smalti.trainers.sharding import FSDP2Strategy

SCRIPT = Path(__file__).parent / "train_sharded.py"


@pytest.fixture
def train():
    spec = importlib.util.spec_from_file_location("train_sharded", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script.train


def assert_equal_checkpoints(folder, other, step):
    one, two = (torch.load(path / f"step={step}.ckpt", weights_only=True) for path in (folder, other))
    assert one["global_step"] == two["global_step"] == step
    momenta = [{str(i): s["momentum_buffer"] for i, s in c["optimizer_states"][0]["state"].items()} for c in (one, two)]
    for states in (momenta, [c["state_dict"] for c in (one, two)], [c["current_model_state"] for c in (one, two)]):
        assert states[0].keys() == states[1].keys()
        for name, value in states[0].items():
            torch.testing.assert_close(states[1][name], value, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_sharded_training_equals_one_process(train, tmp_path, run_ranks):
    """Two processes continue the run of one, and one process continues the run of two."""
    train(tmp_path / "one")
    for code, messages in run_ranks(SCRIPT, str(tmp_path / "two"), str(tmp_path / "one" / "step=1.ckpt")):
        assert code == 0, messages
        assert "FSDP2-wrapped" not in messages
    for step in (2, 3):
        assert_equal_checkpoints(tmp_path / "one", tmp_path / "two", step)
    train(tmp_path / "resumed", checkpoint=tmp_path / "two" / "step=2.ckpt")
    assert_equal_checkpoints(tmp_path / "one", tmp_path / "resumed", 3)
    results = [json.loads((tmp_path / "two" / f"result_{rank}.json").read_text()) for rank in (0, 1)]
    assert results[0]["losses"] == json.loads((tmp_path / "one" / "result_0.json").read_text())["losses"] != {}
    shares = [result["shares"] for result in results]
    for name in ("weights", "gradients", "average", "optimizer"):
        assert shares[0][name] + shares[1][name] == pytest.approx(1)
        assert shares[0][name] == pytest.approx(0.5, abs=0.02)
    assert smalti.load(tmp_path / "two" / "step=3.ckpt").encode(torch.zeros(1, 3, 32, 32)).z.shape == (1, 256, 8)


@pytest.mark.slow
def test_sharded_networks_start_as_a_linear_codec(tmp_path, run_ranks):
    for code, messages in run_ranks(SCRIPT, str(tmp_path), "start"):
        assert code == 0, messages
    first, second = (torch.load(tmp_path / f"weights_{rank}.pt") for rank in range(2))
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    tokenizer = smalti.load(next(tmp_path.glob("*.ckpt")))  # the averaged weights of a step that changed nothing
    for name, weight in tokenizer.state_dict().items():
        torch.testing.assert_close(weight, first[name])
    transform = EvaluationTransform(resize=64, crop=64)
    photos = to_pixels(torch.stack([transform(photo) for photo in Photos("validation")]))
    quality = psnr(pixels_to_uint8(photos), pixels_to_uint8(tokenizer(photos)[0])).mean()
    assert float(quality) > 20


@pytest.mark.parametrize(
    ("options", "scaler", "message"),
    [
        ({"compile": True}, None, "model.compile does not work with strategy fsdp2"),
        ({"gan": {"adaptive": True}}, None, "model.gan.adaptive does not work with strategy fsdp2"),
        ({}, object(), "16-mixed does not work with strategy fsdp2.*bf16-mixed"),
    ],
)
def test_settings_that_need_whole_weights_are_refused(training, options, scaler, message):
    if "gan" in options:
        options = {"gan": GANLoss(**options["gan"])}
    module = training(**options)
    module._trainer = SimpleNamespace(strategy=FSDP2Strategy(), precision_plugin=SimpleNamespace(scaler=scaler))
    with pytest.raises(SmaltiError, match=message):
        module.setup("fit")
