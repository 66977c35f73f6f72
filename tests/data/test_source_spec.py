"""The data sources that `--data` can name, including sources from outside the package."""

import sys

import pytest
import yaml

from smalti.data import (
    Clips,
    Folder,
    ImageData,
    ImageFiles,
    Photos,
    Shards,
    VideoFiles,
    VideoFolder,
    VideoShards,
    evaluation_loader,
    open_source,
)
from smalti.errors import SmaltiError
from smalti.pixels import image_to_pixels


def test_paths_shards_and_packaged_sources_are_opened(make_folder, make_shards, tmp_path):
    folder = make_folder(3)
    pattern = make_shards(2, 2)
    image = folder / "0" / "000.jpg"
    assert isinstance(open_source(str(folder)), Folder)
    assert isinstance(open_source(pattern), Shards)
    assert isinstance(open_source("https://example.org/{0..3}.tar"), Shards)
    assert isinstance(open_source("photos:validation"), Photos)
    single = open_source(str(image))
    assert (len(single), single.name(0), single[0].size) == (1, "000.jpg", (24, 20))
    for bad in ("nowhere", "photos:test", "", str(tmp_path / "missing.jpg"), str(tmp_path / "x-*.tar")):
        with pytest.raises(SmaltiError) as caught:
            open_source(bad)
        assert "\n" not in str(caught.value)


def test_images_and_videos_are_distinguished(make_videos, make_folder, make_video_shards, tmp_path):
    videos, images = make_videos(2), make_folder(2)
    (images / "notes.txt").write_text("x")
    assert isinstance(open_source(str(videos)), VideoFolder)
    assert isinstance(open_source(str(images)), Folder)
    assert isinstance(open_source(f"videos:{videos}"), VideoFolder)
    assert isinstance(open_source(str(videos / "0" / "000.mkv")), VideoFiles)
    assert isinstance(open_source(f"videos:{images}/0/000.jpg"), VideoFiles)
    assert isinstance(open_source(f"images:{images}/0/000.jpg"), ImageFiles)
    assert isinstance(open_source("clips:validation"), Clips)
    pattern = make_video_shards(1, 1)
    assert type(open_source(f"videos:{pattern}")) is VideoShards
    assert type(open_source(pattern)) is type(open_source(f"images:{pattern}")) is Shards
    (videos / "poster.jpg").write_bytes((images / "0" / "000.jpg").read_bytes())
    with pytest.raises(SmaltiError, match=r"1 images \(poster.jpg, ...\) and 2 videos .*'images:.*' or 'videos:"):
        open_source(str(videos))
    assert len(open_source(f"images:{videos}")) == 1
    assert len(open_source(f"videos:{videos}")) == 2
    (tmp_path / "empty").mkdir()
    for bad, message in {
        "clips:test": "no split 'test'",
        f"videos:{images}": "contains no videos",
        "videos:nowhere": "is not a data source",
        "videos:": "is not a data source",
        str(tmp_path / "empty"): "contains no images",
    }.items():
        with pytest.raises(SmaltiError, match=message):
            open_source(bad)


SOURCE_FILE = """
from PIL import Image

from smalti.data import ImageSource


class GrayImages(ImageSource):
    prefix = "gray"

    def __init__(self, count="2"):
        self.count = int(count)

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return Image.new("RGB", (4, 4), (index, index, index))

    def name(self, index):
        return f"gray-{index}"

    def __str__(self):
        return f"gray:{self.count}"


class RequiresTwo(GrayImages):
    def __init__(self, first, second):
        super().__init__(first)


class NotASource:
    pass
"""


@pytest.fixture
def outside_source(tmp_path, monkeypatch):
    """The name of a module outside of smalti that defines a data source, in a folder on PYTHONPATH."""
    name = "sources_outside_of_smalti.target"  # contains ".tar", as the names of shards do
    package = tmp_path / "modules" / "sources_outside_of_smalti"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "target.py").write_text(SOURCE_FILE)
    (package / "broken.py").write_text("raise RuntimeError('first line\\nsecond line.')")
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield name
    for module in [module for module in sys.modules if module.startswith("sources_outside_of_smalti")]:
        del sys.modules[module]


def test_a_source_from_outside_is_opened_by_class_path_and_loads_batches(outside_source):
    source = open_source(f"{outside_source}.GrayImages:5")
    assert (type(source).__name__, len(source)) == ("GrayImages", 5)
    assert len(open_source(f"{outside_source}.GrayImages")) == 2
    assert len(open_source("gray:3")) == 3  # the prefix is available once the module is imported
    names = [name for batch in evaluation_loader(source, image_to_pixels, batch_size=2) for name in batch.names]
    assert names == [f"gray-{index}" for index in range(5)]


def test_a_source_from_outside_is_used_in_a_recipe(outside_source, tmp_path):
    from lightning.pytorch import LightningDataModule, LightningModule
    from lightning.pytorch.cli import LightningCLI

    source = {"class_path": f"{outside_source}.GrayImages", "init_args": {"count": "4"}}
    options = {"train": source, "validation": source, "size": 8, "batch_size": 2, "workers": 0}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"data": {"class_path": "smalti.data.ImageData", "init_args": options}}))
    data = LightningCLI(
        LightningModule, LightningDataModule, subclass_mode_data=True, run=False, save_config_callback=None,
        args=["-c", str(recipe)],
    ).datamodule  # fmt: skip
    assert isinstance(data, ImageData)
    assert [len(batch.names) for batch in data.train_dataloader()] == [2, 2]


def test_a_class_path_that_cannot_be_opened_raises_an_error_of_one_sentence(outside_source):
    for spec, message in {
        "no_such_package.MySource": r"no_such_package.MySource cannot be imported \(No module named 'no_such_package'\)",
        f"{outside_source}.Missing:x": "Missing cannot be imported .*has no Missing",
        "sources_outside_of_smalti.broken.Source": r"cannot be imported \(first line second line\)",
        f"{outside_source}.NotASource": "NotASource is not a data source: derive it from ImageSource",
        f"{outside_source}.RequiresTwo:1": r"Two:1' cannot be constructed \(missing a required argument: 'second'\)",
        "smalti.data.Source": "smalti.data.Source is not a data source",
        "missing-file.JPG": "is not a data source: give a folder",
    }.items():
        with pytest.raises(SmaltiError, match=message) as caught:
            open_source(spec)
        assert "\n" not in str(caught.value)


def test_an_existing_file_is_preferred_to_a_class_path(make_folder, monkeypatch):
    image = make_folder(1) / "0" / "000.jpg"
    monkeypatch.chdir(image.parent)
    image.rename("photo.JPG")
    assert isinstance(open_source("photo.JPG"), ImageFiles)
