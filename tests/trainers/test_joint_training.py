"""Training and validating a joint tokenizer: both branches are logged."""

import pytest
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader

from smalti.errors import SmaltiError
from smalti.trainers import TokenizerTraining
from smalti.types import Batch

WEIGHTS = {"l1": 1.0, "kl": 1e-3}


@pytest.fixture
def clips(clip):
    """Return a data module that alternates between clips and images of one video."""

    class Clips(LightningDataModule):
        def train_dataloader(self):
            return DataLoader([Batch(clip, ["clip"]), Batch(clip[:, :, 0], ["image"])] * 4, batch_size=None)

        def val_dataloader(self):
            return DataLoader(
                [Batch(clip.repeat(2, 1, 1, 1, 1), ["a", "b"]), Batch(clip[:, :, 0], ["c"])], batch_size=None
            )

    return Clips()


def test_steps_are_logged_by_branch(training, trainer, joint, clips):
    run = trainer(max_steps=8)
    run.fit(training(joint(), gan=False, weights=WEIGHTS), clips)
    logged = run.callback_metrics
    assert {"train/l1", "train/l1_discrete", "train/l1_continuous", "train/kl", "train/kl_continuous"} <= logged.keys()
    assert "train/kl_discrete" not in logged
    last = {float(logged["train/l1_discrete"]), float(logged["train/l1_continuous"])}
    assert len(last) == 2
    assert float(logged["train/l1"]) in last


def test_both_branches_are_validated(trainer, joint, clips, toy_loss):
    class ClipLoss(toy_loss):
        def forward(self, reconstruction, original):
            return super().forward(*(x.reshape(-1, 3, *x.shape[-2:]) for x in (reconstruction, original)))

    def validate(tokenizer):
        module = TokenizerTraining(tokenizer, WEIGHTS, {"features": ClipLoss()})
        return trainer().validate(module, clips, verbose=False)[0]

    tokenizer = joint()
    results = validate(tokenizer)
    for name, branch in tokenizer.branches.items():
        alone = validate(branch)
        assert "val/features" in alone
        assert {key: results[f"{key}_{name}"] for key in alone} == pytest.approx(alone)
        if name == "discrete":
            assert {key: results[key] for key in alone} == pytest.approx(alone)
    assert results["val/psnr_discrete"] != results["val/psnr_continuous"]
    assert not any("codebook" in key and "continuous" in key for key in results)


def test_a_weight_that_neither_branch_has_is_refused(training, joint):
    with pytest.raises(SmaltiError, match=r"'kll'.*did you mean 'kl'"):
        training(joint(), gan=False, weights={"l1": 1.0, "kll": 1.0})


def test_a_loss_name_of_one_branch_is_refused(training, joint, toy_loss):
    with pytest.raises(SmaltiError, match="'kl', but the bottleneck"):
        training(joint(), gan=False, weights={"l1": 1.0}, losses={"kl": toy_loss()})
