"""The moving average covers the tokenizer only."""

import torch
from lightning.pytorch.callbacks import EMAWeightAveraging

from smalti.tokenizers.checkpoints import load
from smalti.trainers import Checkpoints, TokenizerEMA


def test_checkpoints_contain_the_average_and_the_live_weights(training, trainer, data, tmp_path):
    module = training()
    run = trainer(Checkpoints(every_n_train_steps=100, dirpath=tmp_path), max_steps=2, enable_checkpointing=True)
    start = {k: v.clone() for k, v in module.tokenizer.state_dict().items()}
    weights = []

    class RecordWeights(type(run.recorder)):
        def on_train_batch_end(self, trainer, module, *_):
            weights.append({k: v.clone() for k, v in module.tokenizer.state_dict().items()})

    run.callbacks.append(RecordWeights())
    run.fit(module, data())
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    name = "decoder.conv_out.weight"
    # The average starts with the weights after the first step.
    expected = 0.9 * weights[0][name] + 0.1 * weights[1][name]
    torch.testing.assert_close(checkpoint["state_dict"][f"tokenizer.{name}"], expected)
    assert torch.equal(checkpoint["current_model_state"][f"tokenizer.{name}"], weights[1][name])
    assert not torch.equal(start[name], weights[1][name])
    assert all(key.startswith(("tokenizer.", "gan.")) for key in checkpoint["state_dict"])
    torch.testing.assert_close(load(tmp_path / "last.ckpt").decoder.conv_out.weight.data, expected)


def test_the_callback_is_a_lightning_callback():
    assert issubclass(TokenizerEMA, EMAWeightAveraging)
