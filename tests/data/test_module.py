from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI

from smalti.data import Folder, ImageData, MixedData, Photos, Shards, VideoData, VideoFolder, VideoShards
from smalti.errors import SmaltiError

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


class Idle(LightningModule):
    """A model that only counts what it is given."""

    def __init__(self):
        super().__init__()
        self.names = []

    def validation_step(self, batch, batch_idx):
        assert batch.pixels.shape[1:] == (3, 16, 16)
        self.names += batch.names


def command(*arguments: str) -> LightningCLI:
    return LightningCLI(
        Idle, LightningDataModule, subclass_mode_data=True, run=False, save_config_callback=None, args=list(arguments)
    )


def test_the_recipe_for_photos_builds_and_yields_batches():
    data = command("-c", str(CONFIGS / "photos.yaml"), "--data.init_args.size", "32").datamodule
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


def test_the_recipe_of_clips_gives_clips_that_are_held_out():
    data = command("-c", str(CONFIGS / "clips.yaml"), "--data.size", "32", "--data.workers", "0").datamodule
    assert isinstance(data, VideoData)
    train, validation = data.train_dataloader(), data.val_dataloader()
    assert len(train) == 128
    pixels, names = next(iter(train))
    assert pixels.shape == (2, 3, 17, 32, 32)
    assert pixels.dtype == torch.float32
    assert -1 <= pixels.min() < -0.2 < 0.2 < pixels.max() <= 1
    assert {name.partition("@")[0] for name in names} == {"bikes.mp4"}
    assert all(float(name.partition("@")[2]) < 7.48 - 16 / 25 for name in names)
    seen = [name for batch in validation for name in batch.names]
    assert len(seen) == len(set(seen)) == 5
    assert seen[-1] == "bikes.mp4@7.480"


def test_the_recipe_of_a_mixture_gives_both_kinds():
    options = [f"--data.{kind}.init_args.{what}" for kind in ("images", "videos") for what in ("size=16", "workers=0")]
    data = command("-c", str(CONFIGS / "mixed.yaml"), *options).datamodule
    assert isinstance(data, MixedData)
    train = data.train_dataloader()
    assert len(train) == 128 + 32
    shapes = set()
    for batch in train:
        shapes.add(tuple(batch.pixels.shape))
        if len(shapes) == 2:
            break
    assert shapes == {(8, 3, 16, 16), (2, 3, 17, 16, 16)}


@pytest.mark.parametrize(("recipe", "kind"), [("videos.yaml", VideoFolder), ("video_shards.yaml", VideoShards)])
def test_the_recipes_of_videos_build_once_the_paths_are_there(
    recipe, kind, make_videos, make_video_shards, tmp_path, monkeypatch
):
    for split in ("train", "validation"):
        make_videos(1, name=f"data/{split}")
        pattern = Path(make_video_shards(1, 1, name=split))
        (pattern.parent / "000.tar").rename(tmp_path / "data" / f"{split}-000.tar")
    monkeypatch.chdir(tmp_path)
    data = command("-c", str(CONFIGS / recipe)).datamodule
    assert isinstance(data, VideoData)
    assert isinstance(data.train, kind)
    assert isinstance(data.validation, kind)


@pytest.mark.parametrize(("recipe", "kind"), [("folder.yaml", Folder), ("shards.yaml", Shards)])
def test_the_other_recipes_build_once_the_paths_are_there(
    recipe, kind, make_folder, make_shards, tmp_path, monkeypatch
):
    make_folder(3, name="data/train")
    make_folder(2, name="data/validation")
    for split in ("train", "validation"):
        Path(make_shards(1, 2, name=split)[:-14]).rename(tmp_path / f"shards-{split}")
        (tmp_path / f"shards-{split}" / "000.tar").rename(tmp_path / "data" / f"{split}-000.tar")
    monkeypatch.chdir(tmp_path)
    data = command("-c", str(CONFIGS / recipe)).datamodule
    assert isinstance(data, ImageData)
    assert isinstance(data.train, kind)
    assert isinstance(data.validation, kind)


def test_recipes_hold_data_alone():
    recipes = sorted(CONFIGS.glob("*.yaml"))
    names = {"clips", "folder", "mixed", "photos", "shards", "video_shards", "videos"}
    assert names <= {recipe.stem for recipe in recipes}
    assert all(list(yaml.safe_load(recipe.read_text())) == ["data"] for recipe in recipes)


def test_a_misspelt_key_is_refused(tmp_path, capsys):
    recipe = (CONFIGS / "photos.yaml").read_text().replace("repeats", "repeat")
    (tmp_path / "bad.yaml").write_text(recipe)
    with pytest.raises(SystemExit):
        command("-c", str(tmp_path / "bad.yaml"))
    assert "repeat" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_validation_sees_each_image_once_through_the_trainer(kind, make_folder, make_shards):
    folder, shards = Folder(make_folder(7)), Shards(make_shards(3, 2))
    names = [folder.name(i) for i in range(7)] if kind == "folder" else [sample.name for sample in shards]
    data = ImageData(folder, folder if kind == "folder" else shards, size=16, batch_size=3, workers=2)
    model = Idle()
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    trainer.validate(model, data, verbose=False)
    assert sorted(model.names) == sorted(names)


def test_each_process_takes_its_part(make_folder):
    class Place:
        global_rank, world_size = 1, 2

    folder = Folder(make_folder(7))
    data = ImageData(folder, folder, size=16, batch_size=3, workers=0)
    data.trainer = Place()
    assert [batch.names for batch in data.val_dataloader()] == [[folder.name(i) for i in (1, 3, 5)]]
    assert len(data.train_dataloader()) == 1


def test_less_than_a_batch_is_said_in_one_sentence(make_folder):
    folder = Folder(make_folder(3))
    with pytest.raises(SmaltiError, match="3 samples, fewer than one batch of 4"):
        ImageData(folder, folder, size=16).train_dataloader()
