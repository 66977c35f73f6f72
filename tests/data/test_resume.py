"""A run that was killed at any step resumes with exactly the batches that it would have seen."""

import hashlib
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from smalti.data import (
    Folder,
    ImageData,
    MixedData,
    Shards,
    TrainingTransform,
    VideoData,
    VideoFolder,
    VideoShards,
    training_loader,
)
from smalti.data.sampler import TrainingPosition
from smalti.types import Batch


def digest(batch: Batch) -> str:
    return hashlib.sha256(batch.pixels.numpy().tobytes()).hexdigest()


class Recorder(LightningModule):
    """Trains one number and records the batches."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, tuple(batch.names), digest(batch)))
        return (self.weight - batch.pixels.mean()) ** 2

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveCheckpoint(Callback):
    """Saves a checkpoint in one hook at one optimizer step, and then kills the run if `kill` is set."""

    def __init__(self, hook: str, step: int, path: Path, kill: bool):
        setattr(self, hook, self._save)
        self.step, self.path, self.kill = step, path, kill

    def _save(self, trainer, *_):
        if trainer.global_step == self.step and not trainer.sanity_checking:
            trainer.save_checkpoint(self.path)
            if self.kill:
                raise KeyError("killed")


def fit(tmp_path, data, callbacks=(), ckpt=None, **options):
    module = Recorder()
    trainer = Trainer(
        default_root_dir=tmp_path, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, callbacks=list(callbacks),
        **{"max_epochs": 3, "num_sanity_val_steps": 0, "limit_val_batches": 1, **options},
    )  # fmt: skip
    trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=False)
    return module.seen


@pytest.fixture(params=["folder", "shards"])
def make_data(request, make_folder, make_shards):
    """A function that builds a data module with 5 batches per epoch and a corrupt sample, for a number of workers."""
    if request.param == "folder":
        train = Folder(make_folder(10, bad=(7,)))
        options = {"repeats": 2}
    else:
        train = Shards(make_shards(5, 5, bad=(7,)), samples=21, buffer=6, lanes=3)
        options = {}
    validation = Folder(make_folder(3, name="validation"))

    def make(workers: int = 0) -> ImageData:
        return ImageData(train, validation, size=8, batch_size=4, workers=workers, max_bad=0.5, seed=5, **options)

    return make


def expected(data: ImageData, batches: int = 5):
    """Return the batches of three epochs, loaded without a trainer."""
    seen = []
    for epoch in range(3):
        loader = training_loader(
            data.train, TrainingTransform(8), batch_size=4, repeats=data.repeats, seed=5, max_bad=0.5,
            get_position=lambda epoch=epoch: TrainingPosition(epoch),
        )  # fmt: skip
        seen += [
            (epoch, step, tuple(batch.names), digest(batch)) for step, batch in enumerate(loader) if step < batches
        ]
    return seen


HOOKS = {
    "within an epoch": ("on_train_batch_end", 7, {}),
    "after the last batch": ("on_train_batch_end", 10, {}),
    "before the step of a loaded batch": ("on_train_batch_start", 7, {}),
    "validation within an epoch": ("on_validation_end", 8, {"val_check_interval": 3}),
    "validation at the end of an epoch": ("on_validation_end", 10, {}),
    "end of an epoch": ("on_train_epoch_end", 10, {}),
    "within an epoch, with max_steps": ("on_train_batch_end", 7, {"max_steps": 15, "max_epochs": -1}),
    "end of an epoch, with max_steps": ("on_train_epoch_end", 10, {"max_steps": 15, "max_epochs": -1}),
    "validation at the end of an epoch, with max_steps": ("on_validation_end", 10, {"max_steps": 15, "max_epochs": -1}),
}


@pytest.mark.parametrize(("hook", "step", "options"), HOOKS.values(), ids=HOOKS)
def test_a_killed_run_resumes_with_exactly_the_batches_it_would_have_seen(make_data, tmp_path, hook, step, options):
    data, path = make_data(), tmp_path / "last.ckpt"
    with pytest.raises(KeyError, match="killed"):
        fit(tmp_path, data, [SaveCheckpoint(hook, step, path, kill=True)], **options)
    assert fit(tmp_path, make_data(), ckpt=path, **options) == expected(data)[step:]


def test_the_number_of_workers_changes_nothing_before_or_after_a_restart(make_data, tmp_path):
    path = tmp_path / "last.ckpt"
    complete = fit(tmp_path, make_data(2), [SaveCheckpoint("on_train_batch_end", 7, path, kill=False)])
    assert complete == expected(make_data())
    assert len({checksum for *_, checksum in complete}) == 15
    assert fit(tmp_path, make_data(1), ckpt=path) == complete[7:]


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_run_stopped_by_max_steps_resumes_exactly_also_with_limited_epochs(make_data, tmp_path, stop):
    data, path = make_data(), tmp_path / "last.ckpt"
    save = SaveCheckpoint("on_train_batch_end", stop, path, kill=False)
    reference = expected(data, batches=3)
    assert fit(tmp_path, data, [save], limit_train_batches=3, max_steps=stop) == reference[:stop]
    assert fit(tmp_path, make_data(), ckpt=path, limit_train_batches=3) == reference[stop:]


def test_data_settings_that_differ_from_the_checkpoint_are_logged(make_data, tmp_path, caplog):
    path = tmp_path / "last.ckpt"
    fit(tmp_path, make_data(), [SaveCheckpoint("on_train_batch_end", 7, path, kill=False)])
    fit(tmp_path, make_data(), ckpt=path)
    assert "data settings differ" not in caplog.text
    changed = make_data()
    changed.seed = 6
    fit(tmp_path, changed, ckpt=path)
    assert "not resume exactly: seed was 5 and is now 6" in caplog.text


@pytest.fixture(params=["video folder", "video shards", "mixed"])
def make_clips(request, make_folder, make_videos, make_video_shards):
    """A function that builds a data module with 5 batches per epoch, of clips or also of images, and a corrupt video."""
    validation = VideoFolder(make_videos(2, name="validation"))
    common = {"frames": 3, "size": 8, "batch_size": 4, "max_bad": 0.5, "seed": 5}
    if request.param == "video folder":
        source = VideoFolder(make_videos(10, bad=(7,)))
        return lambda workers=0: VideoData(source, validation, repeats=2, workers=workers, **common)
    if request.param == "video shards":
        source = VideoShards(make_video_shards(3, 3, bad=(7,)), samples=21, buffer=6, lanes=3)
        return lambda workers=0: VideoData(source, validation, workers=workers, **common)
    source, images = VideoFolder(make_videos(6, bad=(4,))), Folder(make_folder(10, bad=(7,)))

    def make(workers: int = 0) -> MixedData:
        return MixedData(
            ImageData(images, images, size=8, batch_size=4, workers=workers, repeats=2, max_bad=0.5, seed=3),
            VideoData(source, validation, repeats=2, workers=workers, **common),
            image_share=0.4,
            seed=5,
        )

    return make


def expected_clips(make_clips):
    """Return the batches of three epochs of clips, loaded without a trainer."""
    seen = []
    for epoch in range(3):
        data = make_clips()
        data.position = lambda epoch=epoch: TrainingPosition(epoch)
        seen += [(epoch, step, tuple(batch.names), digest(batch)) for step, batch in enumerate(data.train_dataloader())]
    return seen


@pytest.mark.parametrize("case", ["within an epoch", "validation within an epoch", "end of an epoch, with max_steps"])
def test_a_killed_run_on_clips_resumes_exactly(make_clips, tmp_path, case):
    hook, step, options = HOOKS[case]
    path = tmp_path / "last.ckpt"
    with pytest.raises(KeyError, match="killed"):
        fit(tmp_path, make_clips(), [SaveCheckpoint(hook, step, path, kill=True)], **options)
    assert fit(tmp_path, make_clips(), ckpt=path, **options) == expected_clips(make_clips)[step:]


def test_the_number_of_workers_changes_nothing_in_a_run_on_clips(make_clips, tmp_path):
    path = tmp_path / "last.ckpt"
    complete = fit(tmp_path, make_clips(2), [SaveCheckpoint("on_train_batch_end", 7, path, kill=False)])
    assert complete == expected_clips(make_clips)
    assert len({checksum for *_, checksum in complete}) == 15
    assert fit(tmp_path, make_clips(1), ckpt=path) == complete[7:]


def test_clip_settings_that_differ_from_the_checkpoint_are_logged(make_clips, tmp_path, caplog):
    path = tmp_path / "last.ckpt"
    fit(tmp_path, make_clips(), [SaveCheckpoint("on_train_batch_end", 7, path, kill=False)])
    changed = make_clips()
    changed.seed = 6
    fit(tmp_path, changed, ckpt=path)
    assert "not resume exactly: seed was 5 and is now 6" in caplog.text
