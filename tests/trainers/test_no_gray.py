"""Variants of the quickstart, at tiny size: other levels, widths, norms, strides and bottlenecks. None ends in gray."""

import json
from itertools import islice

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from smalti.cli.build_data import build_data
from smalti.cli.build_tokenizer import build_tokenizer
from smalti.eval.functional import psnr
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers import bottlenecks
from smalti.tokenizers.bottlenecks.sign_quantizer import SignQuantizer
from smalti.tokenizers.linear_start.start import start_as_linear_codec
from smalti.trainers import Muon, TokenizerTraining, WarmupSchedule

LINEAR_STEPS, RANDOM_STEPS = 12, 32
MARGIN = 0.75
"""dB above the mean color. A gray run stays within 0.3 dB of it."""
WEIGHTS = {"l1": 1.0, "mse": 1.0, "commitment": 0.25, "token_entropy": 0.1, "codebook_entropy": -0.1, "kl": 1e-5}


def bottleneck(name, **arguments):
    getattr(bottlenecks, name)  # some are imported on first use
    return {"bottleneck": {"class_path": name, "init_args": arguments}}


LINEAR = {
    "the quickstart": {},
    "two channels per token, wider": {"channels": 16, **bottleneck("FSQ", levels=[16, 16], tokens_per_position=4)},
    "two levels": bottleneck("FSQ", levels=[2] * 8, tokens_per_position=4),
    "norms": {"channels": 16, "multipliers": [1, 2], "groups": 4},
    "stride 16": {"stride": 16, "multipliers": [1, 2, 4, 8]},
    "GQ": bottleneck("GQ", groups=4, bits=8),
    "BSQ": bottleneck("BSQ", groups=4, bits=8),
}
"""Changes of the tokenizer, by name. They start as a linear codec."""
RANDOM = {
    "KL": bottleneck("KL", dim=16, initial_std=0.05),
    "VQ": bottleneck("VQ", dim=8, codebook_size=64, kmeans_init=True),
}
"""Those without a linear start."""


@pytest.fixture(scope="module")
def photos():
    """Return training batches of the quickstart's data, and all validation photos."""
    data = build_data("quickstart.yaml", "{data: {size: 32, batch_size: 4, workers: 0}}")
    return list(islice(data.train_dataloader(), RANDOM_STEPS)), next(iter(data.val_dataloader())).pixels


def quality(pixels, reconstruction):
    return float(psnr(pixels_to_uint8(pixels), pixels_to_uint8(reconstruction)).mean())


@pytest.mark.parametrize("name", [*LINEAR, *RANDOM])
def test_no_variant_of_the_quickstart_ends_in_gray(photos, name, tmp_path):
    batches, validation = photos
    torch.manual_seed(0)
    change = {"multipliers": [1, 2, 2, 4], **(LINEAR | RANDOM)[name]}
    recipe = {"model": {"tokenizer": {"init_args": change}}}
    tokenizer = build_tokenizer("quickstart.yaml", json.dumps(recipe))
    color = torch.cat([batch.pixels for batch in batches]).mean((0, 2, 3)).view(1, 3, 1, 1)
    gray = quality(validation, color.expand_as(validation))
    is_linear = name in LINEAR
    if is_linear:
        start_as_linear_codec(tokenizer, [batch.pixels for batch in batches])
    signs = isinstance(tokenizer.bottleneck, SignQuantizer)
    module = TokenizerTraining(
        tokenizer.train(),
        WEIGHTS,
        frozen=["encoder"] if signs else None,
        optimizer=lambda groups: (
            Muon(groups, lr=5e-3) if is_linear else torch.optim.Adam(groups, lr=2e-3, betas=(0.9, 0.99))
        ),
        scheduler=(lambda optimizer: WarmupSchedule(optimizer, warmup_steps=10)) if is_linear else None,
    )
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=LINEAR_STEPS if is_linear else RANDOM_STEPS, gradient_clip_val=1.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, DataLoader(batches, batch_size=None))
    with torch.no_grad():
        trained = quality(validation, tokenizer.eval()(validation)[0])
    assert trained > gray + MARGIN
