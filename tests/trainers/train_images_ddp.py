"""Script for test_distributed.py: train on images in one process or two (DDP), and write the results of rank 0."""

import json
import logging
import sys
from contextlib import nullcontext
from pathlib import Path

import lightning.pytorch as pl
import torch
from fake_gpu import FakeGPU, FakeGPUStrategy
from feature_loss import FeatureLoss

from smalti.data import ImageData, Photos
from smalti.tokenizers import Tokenizer, WeTokDecoder, WeTokEncoder
from smalti.tokenizers.bottlenecks import GQ
from smalti.trainers import Audit, Checkpoints, GANLoss, Health, ReconstructionGrid, TokenizerEMA, TokenizerTraining


class Counts(pl.Callback):
    """Counts the collectives of each training step, and how often the host waits for the fake GPU."""

    def __init__(self, gpu):
        self.gpu, self.steps = gpu, []

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.gpu.counts.clear()

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.steps.append(dict(self.gpu.counts))


def main(devices, out, start, poison):
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.manual_seed(0)
    shape = {"channels": 32, "multipliers": [1, 1, 1], "blocks": 1}
    tokenizer = Tokenizer(WeTokEncoder(8, **shape), GQ(2, 4), WeTokDecoder(8, **shape))
    weights = {
        "l1": 1.0, "features": 0.1, "adversarial": 0.1, "lecam": 0.05, "token_entropy": 0.1, "codebook_entropy": -0.5,
        "commitment": 0.25,
    }  # fmt: skip
    # Without batch norm, which computes statistics per process: two processes would not equal one with both batches.
    discriminator = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 2), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(8, 1, 4))
    module = TokenizerTraining(
        tokenizer, weights, {"features": FeatureLoss()}, gan=GANLoss(discriminator, start=start, adaptive=True),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.1), gradient_checkpointing=devices > 1,
    )  # fmt: skip
    if poison:
        step = module.training_step

        def poisoned(batch, batch_idx):
            if module.global_step == 1 and module.global_rank == 1:
                batch.pixels[:] = float("inf")
            return step(batch, batch_idx)

        module.training_step = poisoned
    on_gpu = devices > 1 and not poison
    strategy = FakeGPUStrategy() if on_gpu else "ddp" if devices > 1 else "auto"
    counts = Counts(FakeGPU())
    callbacks = [Audit(), TokenizerEMA(0.5), counts, Checkpoints(dirpath=out, monitor=None), ReconstructionGrid()]
    callbacks.append(Health(samples=8))
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy=strategy, max_steps=start + 1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, val_check_interval=1,
        callbacks=callbacks, default_root_dir=out,
    )  # fmt: skip
    data = ImageData(Photos("train"), Photos("validation"), size=32, batch_size=4 // devices, workers=0, flip=False)
    with counts.gpu if on_gpu else nullcontext():
        trainer.fit(module, data)
    if trainer.is_global_zero:
        weights = {name: weight.double().flatten().tolist()[:200] for name, weight in module.state_dict().items()}
        (out / "result.json").write_text(
            json.dumps({
                "weights": weights,
                "metrics": {k: v.item() for k, v in trainer.callback_metrics.items() if k.startswith(("val/", "train/"))},
                "counts": counts.steps,
                "global_step": trainer.global_step,
            })
        )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), len(sys.argv) > 4)
