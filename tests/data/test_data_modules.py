"""Data modules: the recipes in configs/data build them, and they distribute samples over processes."""

from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI

from smalti.data import (
    Folder,
    ImageData,
    ImageFiles,
    MixedData,
    MultiSizeImageData,
    Photos,
    Shards,
    VideoData,
    VideoFiles,
    VideoShards,
)
from smalti.errors import SmaltiError

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


class RecordNames(LightningModule):
    """A model that records the names of validation samples. They are transferred in 8 bits."""

    def __init__(self):
        super().__init__()
        self.names = []

    def on_before_batch_transfer(self, batch, dataloader_idx):
        assert batch.pixels.dtype == torch.uint8
        return batch

    def validation_step(self, batch, batch_idx):
        assert batch.pixels.dtype == torch.float32
        assert batch.pixels.shape[1:] == (3, 16, 16)
        self.names += batch.names


def build(*arguments: str) -> LightningDataModule:
    """Build the data module of a recipe on the command line."""
    return LightningCLI(
        RecordNames,
        LightningDataModule,
        subclass_mode_data=True,
        run=False,
        save_config_callback=None,
        args=list(arguments),
    ).datamodule


def test_the_photo_recipe_yields_batches():
    data = build("-c", str(CONFIGS / "photos.yaml"), "--data.init_args.size", "32")
    assert isinstance(data, ImageData)
    assert isinstance(data.train, Photos)
    data.workers = 0
    train, validation = data.train_dataloader(), data.val_dataloader()
    assert len(train) == 12 * 64 // 4
    assert len(validation) == 1
    pixels, names = next(iter(train))
    assert pixels.shape == (4, 3, 32, 32)
    assert pixels.dtype == torch.float32
    assert -1 <= pixels.min() < -0.2 < 0.2 < pixels.max() <= 1
    assert next(iter(validation)).names == ["camera.png", "chelsea.png", "coffee.png", "rocket.jpg"]
    assert not set(names) & set(next(iter(validation)).names)


def test_the_aspect_ratio_of_crops_is_an_option_of_images_and_videos():
    options = ("--data.size", "16", "--data.aspect_ratio", "[1, 1]")
    for recipe in ("photos.yaml", "clips.yaml"):
        data = build("-c", str(CONFIGS / recipe), *options)
        transform = getattr(data._transforms[0], "_spatial", data._transforms[0])
        assert transform._crop.ratio == (1, 1)


def test_the_clip_recipe_yields_clips_and_holds_out_the_validation_clips():
    data = build("-c", str(CONFIGS / "clips.yaml"), "--data.size", "32", "--data.workers", "0")
    assert isinstance(data, VideoData)
    train, validation = data.train_dataloader(), data.val_dataloader()
    assert len(train) == 128
    pixels, names = next(iter(train))
    assert pixels.shape == (2, 3, 17, 32, 32)
    assert pixels.dtype == torch.float32
    assert -1 <= pixels.min() < -0.2 < 0.2 < pixels.max() <= 1
    assert {name.partition("@")[0] for name in names} == {"bikes.mp4"}
    assert all(float(name.partition("@")[2]) < 7.48 - 16 / 25 for name in names)
    validation_names = [name for batch in validation for name in batch.names]
    assert len(validation_names) == len(set(validation_names)) == 5
    assert validation_names[-1] == "bikes.mp4@7.480"


def test_the_mixed_recipe_yields_images_and_clips():
    options = [
        f"--data.{kind}.init_args.{value}" for kind in ("images", "videos") for value in ("size=16", "workers=0")
    ]
    data = build("-c", str(CONFIGS / "mixed.yaml"), *options)
    assert isinstance(data, MixedData)
    train = data.train_dataloader()
    assert len(train) == 128 + 32
    shapes = set()
    for batch in train:
        shapes.add(tuple(batch.pixels.shape))
        if len(shapes) == 2:
            break
    assert shapes == {(8, 3, 16, 16), (2, 3, 17, 16, 16)}


@pytest.mark.parametrize(("recipe", "source"), [("videos.yaml", VideoFiles), ("video_shards.yaml", VideoShards)])
def test_video_recipes_build_if_the_paths_exist(recipe, source, make_videos, make_video_shards, tmp_path, monkeypatch):
    for split in ("train", "validation"):
        make_videos(1, name=f"data/{split}")
        pattern = Path(make_video_shards(1, 1, name=split))
        (pattern.parent / "000.tar").rename(tmp_path / "data" / f"{split}-000.tar")
    monkeypatch.chdir(tmp_path)
    data = build("-c", str(CONFIGS / recipe))
    assert isinstance(data, VideoData)
    assert isinstance(data.train, source)
    assert isinstance(data.validation, source)


@pytest.mark.parametrize(("recipe", "source"), [("folder.yaml", ImageFiles), ("shards.yaml", Shards)])
def test_image_recipes_build_if_the_paths_exist(recipe, source, make_folder, make_shards, tmp_path, monkeypatch):
    make_folder(3, name="data/train")
    make_folder(2, name="data/validation")
    for split in ("train", "validation"):
        pattern = Path(make_shards(1, 2, name=split))
        (pattern.parent / "000.tar").rename(tmp_path / "data" / f"{split}-000.tar")
    monkeypatch.chdir(tmp_path)
    data = build("-c", str(CONFIGS / recipe))
    assert isinstance(data, ImageData)
    assert isinstance(data.train, source)
    assert isinstance(data.validation, source)


def test_data_recipes_contain_only_the_data_section():
    recipes = sorted(CONFIGS.glob("*.yaml"))
    names = {"clips", "folder", "mixed", "photos", "shards", "video_shards", "videos"}
    assert names <= {recipe.stem for recipe in recipes}
    assert all(list(yaml.safe_load(recipe.read_text())) == ["data"] for recipe in recipes)


def test_a_misspelled_key_is_refused(tmp_path, capsys):
    recipe = (CONFIGS / "photos.yaml").read_text().replace("repeats", "repeat")
    (tmp_path / "bad.yaml").write_text(recipe)
    with pytest.raises(SystemExit):
        build("-c", str(tmp_path / "bad.yaml"))
    assert "repeat" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_the_trainer_validates_on_each_image_once(kind, make_folder, make_shards):
    folder, shards = Folder(make_folder(7)), Shards(make_shards(3, 2))
    names = [folder.name(i) for i in range(7)] if kind == "folder" else [sample.name for sample in shards]
    data = ImageData(folder, folder if kind == "folder" else shards, size=16, batch_size=3, workers=2)
    model = RecordNames()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.validate(model, data, verbose=False)
    assert sorted(model.names) == sorted(names)


def test_each_process_gets_its_share(make_folder):
    class FakeTrainer:
        global_rank, world_size = 1, 2

    folder = Folder(make_folder(7))
    data = ImageData(folder, folder, size=16, batch_size=3, workers=0)
    data.trainer = FakeTrainer()
    assert [batch.names for batch in data.val_dataloader()] == [[folder.name(i) for i in (1, 3, 5)]]
    assert len(data.train_dataloader()) == 1


def test_a_process_without_validation_images_validates_like_the_others(make_folder):
    """Lightning skips a validation of length 0. The other processes would wait for this one in their first collective."""

    class FakeTrainer:
        global_rank, world_size = 1, 2

    training = Folder(make_folder(3))
    validation = ImageFiles([training.image_file(0)])
    for data in (
        ImageData(training, validation, size=16, batch_size=1, workers=0),
        MultiSizeImageData(training, validation, sizes=(8, 16), batch_sizes=(1, 1), workers=0),
    ):
        data.trainer = FakeTrainer()
        loader = data.val_dataloader()
        assert len(loader) == 1
        assert list(loader) == []


def test_an_epoch_shorter_than_a_batch_is_refused(make_folder):
    folder = Folder(make_folder(3))
    with pytest.raises(SmaltiError, match="3 samples, fewer than one batch of 4"):
        ImageData(folder, folder, size=16).train_dataloader()
