"""A joint tokenizer's two paths, told apart in training and validation."""

import pytest
import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from smalti.errors import SmaltiError
from smalti.trainers import TokenizerTraining
from smalti.types import Batch

WEIGHTS = {"l1": 1.0, "kl": 1e-3}


@pytest.fixture
def clips(clip):
    """Clips and images of one video, by turns."""

    class Clips(LightningDataModule):
        def train_dataloader(self):
            return DataLoader([Batch(clip, ["clip"]), Batch(clip[:, :, 0], ["image"])] * 4, batch_size=None)

        def val_dataloader(self):
            return DataLoader(
                [Batch(clip.repeat(2, 1, 1, 1, 1), ["a", "b"]), Batch(clip[:, :, 0], ["c"])], batch_size=None
            )

    return Clips()


def test_steps_are_logged_by_path(training, trainer, joint, clips):
    run = trainer(max_steps=8)
    run.fit(training(joint(), gan=False, weights=WEIGHTS), clips)
    logged = run.callback_metrics
    assert {"train/l1", "train/l1_discrete", "train/l1_continuous", "train/kl", "train/kl_continuous"} <= logged.keys()
    assert "train/kl_discrete" not in logged
    last = {float(logged["train/l1_discrete"]), float(logged["train/l1_continuous"])}
    assert len(last) == 2
    assert float(logged["train/l1"]) in last


def test_both_paths_are_validated(trainer, joint, clips):
    tokenizer = joint()
    results = trainer().validate(TokenizerTraining(tokenizer, WEIGHTS), clips, verbose=False)[0]
    for name, path in tokenizer.branches.items():
        alone = trainer().validate(TokenizerTraining(path, WEIGHTS), clips, verbose=False)[0]
        assert {key: results[f"{key}_{name}"] for key in alone} == pytest.approx(alone)
        if name == "discrete":
            assert {key: results[key] for key in alone} == pytest.approx(alone)
    assert results["val/psnr_discrete"] != results["val/psnr_continuous"]
    assert not any("codebook" in key and "continuous" in key for key in results)


def test_a_weight_that_neither_path_has_is_refused(training, trainer, joint, clips):
    with pytest.raises(SmaltiError, match="'kll'"):
        trainer(max_steps=8).fit(training(joint(), gan=False, weights={"l1": 1.0, "kll": 1.0}), clips)


def test_psnr_of_a_clip_is_the_mean_over_frames(clip):
    from smalti.eval.functional import psnr
    from smalti.pixels import pixels_to_uint8
    from smalti.trainers.validation_metrics import sample_metrics

    spoiled = clip * torch.linspace(1, 0.5, 8).view(1, 1, 8, 1, 1)
    by_frame = [psnr(pixels_to_uint8(x), pixels_to_uint8(y)) for x, y in zip(clip.unbind(2), spoiled.unbind(2), strict=True)]
    torch.testing.assert_close(sample_metrics(clip, spoiled, None)["psnr"], torch.stack(by_frame).mean(0))
