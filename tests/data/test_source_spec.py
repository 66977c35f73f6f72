"""The data sources that `--data` can name, including sources from outside the package."""

import sys
from pathlib import Path

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
    assert isinstance(open_source(str(folder)), ImageFiles)
    assert list(open_source(str(folder)).paths) == list(Folder(folder).paths)
    assert str(open_source(str(folder))) == str(folder)
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
    assert isinstance(open_source(str(videos)), VideoFiles)
    assert isinstance(open_source(str(images)), ImageFiles)
    assert isinstance(open_source(f"videos:{videos}"), VideoFiles)
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
    assert len(open_source(str(videos), videos=False)) == 1
    assert len(open_source(str(videos), videos=True)) == 2
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
        "missing-file.JPG": r"is not a data source \(there is no such file or folder\): give a folder",
        "Source": "'Source' is not a data source",
        "Shards": r"'Shards' cannot be constructed \(missing a required argument: 'pattern'\)",
    }.items():
        with pytest.raises(SmaltiError, match=message) as caught:
            open_source(spec)
        assert "\n" not in str(caught.value)


def test_an_existing_file_or_folder_is_preferred_to_a_class(make_folder, tmp_path, monkeypatch):
    image = make_folder(1, name="Photos") / "0" / "000.jpg"
    monkeypatch.chdir(tmp_path)
    image.rename("photo.JPG")
    make_folder(2, name="Photos")
    assert isinstance(open_source("photo.JPG"), ImageFiles)
    assert len(open_source("Photos")) == 2
    monkeypatch.chdir(tmp_path / "Photos")
    assert isinstance(open_source("Photos"), Photos)


def test_the_requested_kind_decides_where_both_are_possible(make_video_shards, make_folder, make_videos):
    pattern = make_video_shards(2, 1)
    folder = Path(pattern).parent
    for spec in (pattern, str(folder), str(folder / "000.tar"), "https://example.org/{0..3}.tar"):
        assert type(open_source(spec, videos=True)) is VideoShards
        assert type(open_source(spec, videos=False)) is type(open_source(spec)) is Shards
        assert type(open_source(f"videos:{spec}", videos=False)) is VideoShards
    assert open_source(str(folder)).urls == [str(folder / "000.tar"), str(folder / "001.tar")]
    # A folder or a file of the other kind is opened as what it is.
    assert isinstance(open_source(str(make_folder(1)), videos=True), ImageFiles)
    assert isinstance(open_source(str(make_videos(1) / "0" / "000.mkv"), videos=False), VideoFiles)


def test_relative_paths_and_the_home_folder_are_opened(make_folder, make_shards, tmp_path, monkeypatch):
    make_folder(3, name="home/photos")
    make_shards(1, 1, name="home/shards")
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for prefix in ("", "./", "~/", "images:", "images:~/"):
        assert len(open_source(f"{prefix}photos")) == 3
        assert len(open_source(f"{prefix}photos/0/000.jpg")) == 1
        assert len(list(open_source(f"{prefix}shards/*.tar"))) == 1


def test_a_file_in_a_folder_with_tar_in_its_name_is_no_shard(make_folder):
    folder = make_folder(1, name="photos.tar.extracted")
    assert isinstance(open_source(str(folder / "0" / "000.jpg")), ImageFiles)
