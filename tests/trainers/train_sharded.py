"""Training for test_sharding.py, in one process or, run as a script, in two with FSDP2."""

import json
import sys
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from smalti.data import ImageData, Photos
from smalti.tokenizers import Tokenizer, WeTokDecoder, WeTokEncoder, wetok
from smalti.tokenizers.bottlenecks import FSQ, Projected, SimVQ
from smalti.trainers import Audit, Checkpoints, GANLoss, RankWatch, Start, TokenizerEMA, TokenizerTraining
from smalti.trainers.sharding import local_part, whole_weights

STEPS = 3


class UnevenImages(ImageData):
    """The first rank validates on one batch more than the others."""

    def val_dataloader(self):
        batches = list(super().val_dataloader())
        return DataLoader(batches + batches[:1] * (self.trainer.global_rank == 0), batch_size=None)


class Shares(Callback):
    """Measures which share of the numbers of encoder and decoder this process holds."""

    def __init__(self, average):
        self.average, self.shares = average, {}

    def on_before_optimizer_step(self, trainer, module, optimizer):
        parameters = list(module.tokenizer.encoder.parameters()) + list(module.tokenizer.decoder.parameters())
        average = self.average._average_model.module
        moments = [optimizer.state[p]["momentum_buffer"] for p in parameters if p in optimizer.state]
        for name, tensors in {
            "weights": parameters,
            "gradients": [p.grad for p in parameters],
            "average": [*average.encoder.parameters(), *average.decoder.parameters()],
            "optimizer": moments,
        }.items():
            if tensors:
                whole = sum(t.numel() for t in tensors)
                self.shares[name] = sum(local_part(t).numel() for t in tensors) / whole


def train(out, devices=1, checkpoint=None):
    """Train until step 3, with a checkpoint of each step. The GAN loss starts at step 1."""
    torch.manual_seed(0)
    shape = {"channels": 32, "multipliers": [1, 1], "blocks": 1}
    tokenizer = Tokenizer(WeTokEncoder(8, **shape), SimVQ(8, 16), WeTokDecoder(8, **shape))
    discriminator = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 4, 2), torch.nn.LeakyReLU(0.2), torch.nn.Conv2d(8, 1, 4))
    module = TokenizerTraining(
        tokenizer, {"l1": 1.0, "commitment": 0.25, "adversarial": 0.1}, gan=GANLoss(discriminator, start=1),
        optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01),
        gradient_checkpointing=devices > 1,
    )  # fmt: skip
    average = TokenizerEMA(0.5)
    shares, audit = Shares(average), Audit()
    checkpoints = Checkpoints(every_n_train_steps=1, save_top_k=-1, dirpath=out, monitor=None)
    trainer = pl.Trainer(
        accelerator="cpu", devices=devices, strategy="fsdp2" if devices > 1 else "auto", max_steps=STEPS, logger=False,
        accumulate_grad_batches=2, gradient_clip_val=0.1, num_sanity_val_steps=0, val_check_interval=2,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
        callbacks=[audit, average, checkpoints, RankWatch(), shares],
    )  # fmt: skip
    data = UnevenImages(
        Photos("train"), Photos("validation"), size=32, batch_size=4 // devices, repeats=2, workers=0, flip=False
    )
    trainer.fit(module, data, ckpt_path=checkpoint)
    result = {"shares": shares.shares, "losses": {loss.name: loss.parts for loss in audit.losses}}
    (Path(out) / f"result_{trainer.global_rank}.json").write_text(json.dumps(result))


def start(out):
    """Start as a linear codec in two processes, train one step, and store the quality before it and the weights."""
    torch.manual_seed(0)
    tokenizer = wetok(Projected(FSQ([8, 8, 5, 5]), 8), stride=4, channels=16, multipliers=[1, 2, 2], blocks=1, groups=4)
    module = TokenizerTraining(tokenizer, {"l1": 1.0}, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.0))
    average = TokenizerEMA(0.5)
    measured = {}

    class Measure(Callback):
        def on_train_start(self, trainer, module):
            with whole_weights(module.tokenizer) as whole:
                measured["weights"] = whole.state_dict()

    trainer = pl.Trainer(
        accelerator="cpu", devices=2, strategy="fsdp2", max_steps=1, logger=False, num_sanity_val_steps=0,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=out,
        callbacks=[average, Start("linear", samples=48), Measure(), Checkpoints(every_n_train_steps=1, dirpath=out)],
    )  # fmt: skip
    data = ImageData(Photos("train"), Photos("validation"), size=32, batch_size=8, repeats=4, workers=0, flip=False)
    trainer.fit(module, data)
    torch.save(measured["weights"], Path(out) / f"weights_{trainer.global_rank}.pt")


if __name__ == "__main__" and sys.argv[2] == "start":
    start(Path(sys.argv[1]))
elif __name__ == "__main__":
    train(Path(sys.argv[1]), devices=2, checkpoint=sys.argv[2])
