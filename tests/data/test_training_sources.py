"""The sources of data modules: given as text, checked before anything slow, and compared with each other."""

import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from lightning.pytorch import LightningDataModule, LightningModule
from lightning.pytorch.cli import LightningCLI

from smalti.__main__ import main
from smalti.data import Clips, Folder, ImageData, MixedData, Photos, Shards, VideoData, VideoShards
from smalti.data.sampler import TrainingPosition
from smalti.errors import SmaltiError

SMALL = {
    "trainer": {"max_steps": 1, "accelerator": "cpu", "enable_progress_bar": False, "logger": False},
    "model": {
        "tokenizer": {
            "class_path": "wetok",
            "init_args": {
                "stride": 4,
                "channels": 8,
                "multipliers": [1, 1, 1],
                "blocks": 1,
                "groups": None,
                "bottleneck": {"class_path": "FSQ", "init_args": {"levels": [8, 8]}},
            },
        },
        "weights": {"l1": 1.0, "mse": 1.0},
    },
    "data": {"class_path": "ImageData", "init_args": {"size": 16, "batch_size": 2, "workers": 0, "repeats": 2}},
}


@pytest.fixture
def files(make_folder, make_videos, make_shards, make_video_shards, tmp_path, monkeypatch):
    """Change to a folder with images, videos and shards of both, for training and validation."""
    make_folder(6, name="photos")
    make_folder(3, name="photos_val")
    make_videos(6, name="videos")
    make_videos(2, name="videos_val")
    make_shards(2, 4, name="shards")
    make_video_shards(2, 4, name="clips", images=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fit(files, monkeypatch, capsys):
    """A function that runs `smalti fit` with a small recipe for images, and returns the exit code and the last error."""
    monkeypatch.setattr(sys, "argv", ["smalti"])  # the command changes it
    Path("small.yaml").write_text(yaml.safe_dump(SMALL))

    def run(*options: str) -> tuple[int, str]:
        code = main(["fit", "-c", "small.yaml", *options])
        return code, (capsys.readouterr().err.strip().splitlines() or [""])[-1]

    return run


# Given as text


@pytest.mark.parametrize("train", ["photos", "shards/*.tar", "shards", "shards/{000..001}.tar"])
def test_image_data_is_given_as_text(files, train):
    data = ImageData(train, Path("photos_val"), size=8, batch_size=2, workers=0)
    data.setup("fit")
    names = [name for batch in data.train_dataloader() for name in batch.names]
    assert len(names) == len(set(names)) == 6 if train == "photos" else len(names) == 8
    assert sum(len(batch.names) for batch in data.val_dataloader()) == 3


@pytest.mark.parametrize("train", ["videos", "clips/*.tar", "clips", "clips/{000..001}.tar"])
def test_video_data_is_given_as_text(files, train):
    data = VideoData(train, "videos_val", frames=3, size=8, batch_size=2, workers=0)
    data.setup("fit")
    names = [name for batch in data.train_dataloader() for name in batch.names]
    assert len(names) == len(set(names)) == 6 if train == "videos" else len(names) == 8
    assert type(data.train) is VideoShards or train == "videos"


def test_urls_packaged_sources_single_files_and_the_home_folder_are_opened(files, monkeypatch):
    monkeypatch.setenv("HOME", str(files))
    data = ImageData("https://example.org/train-{000..999}.tar", "photos:validation")
    assert (type(data.train), len(data.train.urls), len(data.validation)) == (Shards, 1000, 4)
    assert type(VideoData("https://example.org/{0..3}.tar", "clips:validation").train) is VideoShards
    assert len(ImageData("~/photos", "photos/0/000.jpg").train) == 6


def test_a_folder_with_both_kinds_uses_the_kind_of_the_module(files, make_folder, make_videos):
    make_folder(2, name="both")
    make_videos(4, name="both")
    assert len(ImageData("both", "both").train) == 2
    assert len(VideoData("both", "both").train) == 4


def test_plain_dictionaries_suffice_in_a_recipe_for_mixed_data(files):
    recipe = """
    data:
      class_path: smalti.data.MixedData
      init_args:
        images: {train: photos, size: 8}
        videos: {train: 'clips/*.tar', validation: videos_val, size: 8, frames: 3}
    """
    Path("recipe.yaml").write_text(recipe)
    data = LightningCLI(
        LightningModule, LightningDataModule, subclass_mode_data=True, run=False, save_config_callback=None,
        args=["-c", "recipe.yaml", "--data.images.workers", "0", "--data.videos.workers", "0"],
    ).datamodule  # fmt: skip
    assert isinstance(data, MixedData)
    data.setup("fit")  # the validation images are not used and need not be given
    assert {batch.pixels.ndim for batch in data.train_dataloader()} == {4, 5}


@pytest.mark.parametrize("name", ["empty.tar", "settings.yaml"])
def test_a_file_is_not_read_as_settings(fit, capsys, name):
    """jsonargparse would read it completely, and use what it contains as `train`."""
    Path(name).write_text("" if name == "empty.tar" else "class_path: Photos")
    with pytest.raises(SystemExit):
        fit("--data.train", name, "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["train"] == name


def test_a_source_with_options_is_written_to_the_config_as_a_class(fit, capsys):
    with pytest.raises(SystemExit):
        fit("--data.train", "Shards", "--data.train.pattern", "shards/*.tar", "--print_config")
    train = yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["train"]
    assert train["class_path"] == "smalti.data.Shards"
    assert train["init_args"]["pattern"] == "shards/*.tar"


# The wrong kind


@pytest.mark.parametrize("as_text", [True, False])
def test_the_wrong_kind_is_one_sentence_that_says_how_to_go_on(files, as_text):
    images, videos = ("photos", "videos") if as_text else (Folder("photos"), Clips("validation"))
    with pytest.raises(
        SmaltiError, match=r"contains no images, but \d+ videos: add `--data VideoData` to train"
    ) as error:
        ImageData(videos, images)
    assert "\n" not in str(error.value)
    with pytest.raises(SmaltiError, match=r"photos contains no videos, but 6 images: add `--data ImageData` to train"):
        VideoData(images, videos)


def test_local_shards_of_the_wrong_kind_are_found_by_their_headers(files, make_shards):
    for spec in ("clips", "clips/*.tar"):
        with pytest.raises(SmaltiError, match=r"clips/.*\.tar contain no images, but videos: add `--data VideoData`"):
            ImageData(spec, "photos")
    with pytest.raises(SmaltiError, match=r"contain no videos, but images"):
        VideoData("videos", "shards/*.tar")  # also for validation
    with pytest.raises(SmaltiError, match="contain no videos, but images"):
        VideoData("shards", "videos")
    for url in Shards("shards/*.tar").urls:
        Path(url).write_bytes(b"not a tar file")
    with pytest.raises(SmaltiError, match="contain no images: check the path"):
        ImageData("shards", "photos")


# The number of samples


def test_local_shards_are_counted_once_at_the_start_and_the_log_says_so(files, caplog):
    shards = Shards("shards/*.tar")
    data = ImageData(shards, "photos", size=8, batch_size=2, workers=0, repeats=3)
    with caplog.at_level(logging.INFO, "smalti.data"):
        assert len(data.train_dataloader()) == 8 * 3 // 2
        data.train_dataloader()
    assert [record.message for record in caplog.records] == ["The shards shards/*.tar contain 8 samples."]
    assert len(ImageData(Shards("shards/*.tar", samples=4), "photos", batch_size=2).train_dataloader()) == 2


def test_all_processes_count_the_same_and_only_the_first_logs_it(files, caplog):
    names = []
    with caplog.at_level(logging.INFO, "smalti.data"):
        for rank in range(2):
            data = ImageData("shards", "shards/000.tar", size=8, batch_size=2, workers=0)
            data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
            data.position = TrainingPosition
            data.setup("fit")
            names.append([name for batch in data.train_dataloader() for name in batch.names])
    assert len(names[0]) == len(names[1]) == 4
    assert not set(names[0]) & set(names[1])
    assert len(caplog.records) == 2  # the number of samples, and the shard that is also used for validation


def test_training_on_urls_names_the_options_to_set_and_they_work(fit):
    spec = "pipe:cat shards/{000..001}.tar"
    code, error = fit("--data.train", spec, "--data.validation", "photos")
    assert code == 2
    (options,) = re.findall("`(.*)`", error)
    assert options == f"--data.train Shards --data.train.pattern '{spec}' --data.train.samples N"
    given = ["--data.train", "Shards", "--data.train.pattern", spec, "--data.train.samples", "8"]
    assert fit(*given, "--data.validation", "photos")[0] == 0
    data = MixedData(ImageData(spec), VideoData("videos", "videos_val"))
    with pytest.raises(SmaltiError, match=r"--data\.images\.train Shards --data\.images\.train\.pattern"):
        data.setup("fit")
    ImageData(spec, "photos").setup("validate")  # the number is needed for training only
    with pytest.raises(SmaltiError, match=r"--data\.train VideoShards"):
        VideoData(spec, "videos").setup("fit")


# Missing


def test_missing_sources_are_one_sentence_with_the_options_to_add(files):
    for data, stage, message in [
        (
            ImageData(),
            "fit",
            r"No images are given for training and validation: add --data.train PATH --data.validation",
        ),
        (ImageData("photos"), "fit", r"No images are given for validation: add --data.validation PATH \(a folder"),
        (VideoData(validation="videos"), "fit", r"No videos are given for training: add --data.train PATH"),
        (ImageData(), "validate", r"No images are given for validation: add"),
        (MixedData(ImageData(), VideoData("videos", "videos")), "fit", "No images .*: add --data.images.train PATH"),
        (MixedData(ImageData("photos"), VideoData("videos")), "fit", "No videos .*: add --data.videos.validation PATH"),
    ]:
        with pytest.raises(SmaltiError, match=message) as error:
            data.setup(stage)
        assert "\n" not in str(error.value)
    with pytest.raises(SmaltiError, match="No images are given for training"):
        ImageData().train_dataloader()
    ImageData(validation="photos").setup("test")


# The same samples for training and validation


def overlap(data, caplog, rank=0):
    caplog.clear()
    data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
    with caplog.at_level(logging.WARNING, "smalti.data"):
        data.setup("fit")
    return "\n".join(record.message for record in caplog.records)


def test_validation_on_training_images_is_logged_once(files, caplog):
    Path("links").mkdir()
    Path("links/a.jpg").symlink_to(files / "photos/1/001.jpg")
    Path("links/b.jpg").symlink_to(files / "photos_val/1/001.jpg")
    Path("linked").symlink_to("photos")
    for train, validation, message in [
        (
            "photos",
            "photos",
            "6 of 6 validation images are also training images (0/000.jpg, 0/003.jpg, 1/001.jpg, ...): ",
        ),
        ("photos", str(files / "photos"), "6 of 6 "),
        ("photos", "linked", "6 of 6 "),
        ("linked", "photos/2", "2 of 2 validation images are also training images (002.jpg, 005.jpg): validation then"),
        (".", "photos_val", "3 of 3 "),
        ("photos", "links", "1 of 2 validation images is also among the training images (a.jpg): "),
        ("links", "photos", "1 of 6 "),
        ("photos", "photos/0/000.jpg", "1 of 1 "),
        (
            "photos:all",
            "photos:validation",
            "4 of 4 validation images are also training images (camera.png, chelsea.png",
        ),
        (
            "shards/*.tar",
            str(files / "shards/001.tar"),
            "1 of 1 validation shards is also among the training shards (001",
        ),
        ("https://example.org/{0..3}.tar", "https://example.org/{3..5}.tar", "1 of 3 validation shards "),
    ]:
        data = ImageData(Shards(train, samples=4) if train.startswith("https") else train, validation)
        assert overlap(data, caplog).startswith(message), (train, validation)
        assert not overlap(data, caplog, rank=1)


def test_different_samples_are_not_reported(files, caplog):
    for train, validation in [
        ("photos", "photos_val"),
        ("photos/0", "photos/1"),
        ("photos:train", "photos:validation"),
        ("photos", "shards"),
        ("shards/000.tar", "shards/001.tar"),
    ]:
        assert not overlap(ImageData(train, validation), caplog)
    assert not overlap(VideoData("clips:train", "clips:validation"), caplog)  # other parts of the same file
    data = ImageData("photos", "photos")
    data.setup("validate")
    assert not caplog.records


def test_an_own_source_is_compared_only_if_it_says_where_its_items_come_from(files, caplog):
    class Own(Photos):
        def origins(self):
            return None

    assert not overlap(ImageData(Own("all"), Own("all")), caplog)


def test_validation_on_training_videos_is_logged_also_for_mixed_data(files, caplog):
    videos = VideoData("videos", "videos/0")
    expected = "2 of 2 validation videos are also training videos (000.mkv, 003.mkv): "
    assert overlap(videos, caplog).startswith(expected)
    assert overlap(MixedData(ImageData("photos"), videos), caplog).startswith(expected)
    assert overlap(VideoData("clips:all", "clips:validation"), caplog).startswith("5 of 5 ")


# On the command line


def test_a_recipe_for_images_trains_on_folders_shards_and_videos(fit, caplog):
    assert fit("--data.train", "photos", "--data.validation", "photos_val")[0] == 0
    assert fit("--data.train", "shards/*.tar", "--data.validation", "shards/001.tar")[0] == 0
    assert "also among the training shards" in caplog.text
    code, error = fit("--data.train", "videos", "--data.validation", "videos_val")
    assert (code, error.partition("error: ")[2]) == (
        2,
        "videos contains no images, but 6 videos: add `--data VideoData` to train on videos, or give images.",
    )
    video_options = ["--data.train", "videos", "--data.validation", "videos_val", "--data.frames", "3"]
    assert fit("--data", "VideoData", *video_options)[0] == 0


def test_settings_that_both_kinds_have_stay_when_the_kind_is_changed(fit, capsys):
    for options in (["--data", "VideoData", "--data.train", "clips"], ["--data.train", "clips", "--data", "VideoData"]):
        with pytest.raises(SystemExit):
            fit(*options, "--print_config")
        data = yaml.safe_load(capsys.readouterr().out)["data"]
        assert data["class_path"] == "smalti.data.VideoData"
        assert {name: data["init_args"][name] for name in ("train", "validation", "size", "batch_size", "frames")} == {
            "train": "clips", "validation": None, "size": 16, "batch_size": 2, "frames": 17,
        }  # fmt: skip


def test_errors_in_the_data_come_before_the_networks_are_built(fit, monkeypatch):
    def build(*_):
        raise AssertionError("the tokenizer was built")

    monkeypatch.setattr("smalti.tokenizers.Tokenizer.__init__", build)
    validation = ["--data.validation", "photos_val"]
    for options, message in [
        (["--data.train", "nowhere", *validation], "'nowhere' is not a data source (there is no such file or folder)"),
        (["--data.train", "Folder", "--data.train.path", "nowhere", *validation], "The folder nowhere does not exist"),
        (["--data.train", "{class_path: Folder, init_args: {path: clips}}", *validation], "clips contains no images"),
        (["--data.train", "https://example.org/{0..3}.tar", *validation], "The number of samples in https://"),
        (
            ["--data", "VideoData", "--data.train", "videos"],
            "No videos are given for validation: add --data.validation",
        ),
    ]:
        code, error = fit(*options)
        assert code == 2
        assert message in error
