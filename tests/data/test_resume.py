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
from smalti.data.sampler import Position
from smalti.types import Batch


def digest(batch: Batch) -> str:
    return hashlib.sha256(batch.pixels.numpy().tobytes()).hexdigest()


class Recorder(LightningModule):
    """Trains one number and notes what it saw."""

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


class Save(Callback):
    """Writes a checkpoint at one moment, counted in optimizer steps, and then, if asked to, kills the run."""

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
    """A function: a data module of 5 batches an epoch, with a corrupt sample and a number of workers."""
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
    """What three epochs must show, without a trainer."""
    seen = []
    for epoch in range(3):
        loader = training_loader(
            data.train, TrainingTransform(8), batch_size=4, repeats=data.repeats, seed=5, max_bad=0.5,
            position=lambda epoch=epoch: Position(epoch),
        )  # fmt: skip
        seen += [
            (epoch, step, tuple(batch.names), digest(batch)) for step, batch in enumerate(loader) if step < batches
        ]
    return seen


MOMENTS = {
    "in the middle": ("on_train_batch_end", 7, {}),
    "after the last batch": ("on_train_batch_end", 10, {}),
    "before the step of a fetched batch": ("on_train_batch_start", 7, {}),
    "validation in the middle": ("on_validation_end", 8, {"val_check_interval": 3}),
    "validation at the end": ("on_validation_end", 10, {}),
    "end of the epoch": ("on_train_epoch_end", 10, {}),
    "in the middle, counting steps": ("on_train_batch_end", 7, {"max_steps": 15, "max_epochs": -1}),
    "end of the epoch, counting steps": ("on_train_epoch_end", 10, {"max_steps": 15, "max_epochs": -1}),
    "validation at the end, counting steps": ("on_validation_end", 10, {"max_steps": 15, "max_epochs": -1}),
}


@pytest.mark.parametrize(("hook", "step", "options"), MOMENTS.values(), ids=MOMENTS)
def test_a_killed_run_goes_on_with_exactly_the_batches_it_would_have_seen(make_data, tmp_path, hook, step, options):
    data, path = make_data(), tmp_path / "last.ckpt"
    with pytest.raises(KeyError, match="killed"):
        fit(tmp_path, data, [Save(hook, step, path, kill=True)], **options)
    assert fit(tmp_path, make_data(), ckpt=path, **options) == expected(data)[step:]


def test_workers_change_nothing_before_or_after_a_restart(make_data, tmp_path):
    path = tmp_path / "last.ckpt"
    whole = fit(tmp_path, make_data(2), [Save("on_train_batch_end", 7, path, kill=False)])
    assert whole == expected(make_data())
    assert len({checksum for *_, checksum in whole}) == 15
    assert fit(tmp_path, make_data(1), ckpt=path) == whole[7:]


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_stop_by_max_steps_is_resumed_exactly_also_in_shortened_epochs(make_data, tmp_path, stop):
    data, path = make_data(), tmp_path / "last.ckpt"
    save = Save("on_train_batch_end", stop, path, kill=False)
    wanted = expected(data, batches=3)
    assert fit(tmp_path, data, [save], limit_train_batches=3, max_steps=stop) == wanted[:stop]
    assert fit(tmp_path, make_data(), ckpt=path, limit_train_batches=3) == wanted[stop:]


def test_other_data_than_the_checkpoint_was_written_with_is_named(make_data, tmp_path, caplog):
    path = tmp_path / "last.ckpt"
    fit(tmp_path, make_data(), [Save("on_train_batch_end", 7, path, kill=False)])
    fit(tmp_path, make_data(), ckpt=path)
    assert "goes on with other data" not in caplog.text
    changed = make_data()
    changed.seed = 6
    fit(tmp_path, changed, ckpt=path)
    assert "not exactly: seed was 5 and is 6" in caplog.text


@pytest.fixture(params=["video folder", "video shards", "mixed"])
def make_clips(request, make_folder, make_videos, make_video_shards):
    """A function: a data module of 5 batches an epoch, of clips or of clips and images, with a corrupt video."""
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


def shown(make_clips):
    """What three epochs of clips must show, without a trainer."""
    seen = []
    for epoch in range(3):
        data = make_clips()
        data.position = lambda epoch=epoch: Position(epoch)
        seen += [(epoch, step, tuple(batch.names), digest(batch)) for step, batch in enumerate(data.train_dataloader())]
    return seen


@pytest.mark.parametrize("moment", ["in the middle", "validation in the middle", "end of the epoch, counting steps"])
def test_a_killed_run_of_clips_goes_on_exactly(make_clips, tmp_path, moment):
    hook, step, options = MOMENTS[moment]
    path = tmp_path / "last.ckpt"
    with pytest.raises(KeyError, match="killed"):
        fit(tmp_path, make_clips(), [Save(hook, step, path, kill=True)], **options)
    assert fit(tmp_path, make_clips(), ckpt=path, **options) == shown(make_clips)[step:]


def test_workers_change_nothing_in_a_run_of_clips(make_clips, tmp_path):
    path = tmp_path / "last.ckpt"
    whole = fit(tmp_path, make_clips(2), [Save("on_train_batch_end", 7, path, kill=False)])
    assert whole == shown(make_clips)
    assert len({checksum for *_, checksum in whole}) == 15
    assert fit(tmp_path, make_clips(1), ckpt=path) == whole[7:]


def test_other_clips_than_the_checkpoint_was_written_with_are_named(make_clips, tmp_path, caplog):
    path = tmp_path / "last.ckpt"
    fit(tmp_path, make_clips(), [Save("on_train_batch_end", 7, path, kill=False)])
    changed = make_clips()
    changed.seed = 6
    fit(tmp_path, changed, ckpt=path)
    assert "not exactly: seed was 5 and is 6" in caplog.text
