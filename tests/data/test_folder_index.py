"""The index of large folders: it is written once, shared by processes, and never outdated."""

import logging
import os
import threading
import time
from pathlib import Path

import pytest

from smalti.data import Folder, ImageFiles, Photos, Shards, folder_index, open_source
from smalti.data.folder_index import index_folder
from smalti.data.path_table import digest_names
from smalti.folders import list_files

NAMES = ["a/0.jpg", "a/1.JPG", "b/2.png", "b/c/3.webp", "n\udcff.jpg", "v.mp4"]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Keep an index of every folder with files, in an empty cache. Changes are old enough at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(folder_index, "MIN_FILES", 1)
    monkeypatch.setattr(folder_index, "_SETTLED", 0.0)
    return tmp_path / "cache" / "smalti" / "folders"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "photos"
    for name in (*NAMES, "notes.txt", ".hidden.jpg", ".hidden/x.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.fixture
def listed(monkeypatch):
    """The folders that were read, in order."""
    folders, scandir = [], os.scandir

    def scan(folder):
        folders.append(Path(folder).name)
        return scandir(folder)

    monkeypatch.setattr(folder_index.os, "scandir", scan)
    return folders


def names(root):
    return [str(path.relative_to(root)) for path in index_folder(root).images]


def test_a_folder_is_listed_once_and_then_read_from_its_index(cache, folder, listed):
    first = index_folder(folder)
    assert [str(path.relative_to(folder)) for path in first.images] == NAMES[:5]
    assert list(first.videos) == [folder / "v.mp4"]
    assert not first.shards
    assert [file.suffix for file in cache.iterdir()].count(".safetensors") == 1
    listed.clear()
    again = index_folder(folder)
    assert [list(table) for table in again] == [list(table) for table in first]
    assert not listed
    assert Folder(folder).digest() == open_source(f"images:{folder}").digest() == digest_names(NAMES[:5])


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "b/c/4.jpg").touch(),
        lambda root: (root / "a/0.jpg").unlink(),
        lambda root: (root / "a/0.jpg").rename(root / "a/5.jpg"),
        lambda root: (root / "b/c").rename(root / "b/d"),
        lambda root: (root / "new").symlink_to(root / "a"),
        lambda root: ((root / "b/c/3.webp").unlink(), (root / "b/c").rmdir()),
    ],
)
def test_every_change_of_the_names_is_noticed(cache, folder, change):
    before = names(folder)
    change(folder)
    after = names(folder)
    assert after != before or (folder / "new").exists()
    assert after == names(folder)
    assert set(after) == {
        os.path.relpath(file, folder) for file in list_files(folder) if file.lower().endswith((".jpg", ".png", ".webp"))
    }


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: data[:-1] + b"x"])
def test_a_damaged_index_is_replaced(cache, folder, listed, damage):
    before = names(folder)
    (file,) = cache.glob("*.safetensors")
    file.write_bytes(damage(file.read_bytes()))
    listed.clear()
    assert names(folder) == before
    assert listed
    listed.clear()
    assert names(folder) == before
    assert not listed


def test_processes_that_start_together_list_a_folder_once(cache, folder, listed, monkeypatch):
    lists, one_list = [], folder_index._list

    def slow_list(root, limit=None):
        if limit is None:
            lists.append(root)
            time.sleep(0.2)
        return one_list(root, limit)

    monkeypatch.setattr(folder_index, "_list", slow_list)
    results = []
    threads = [threading.Thread(target=lambda: results.append(names(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [NAMES[:5]] * 4
    assert len(lists) == 1


def test_small_and_changing_folders_have_no_index_and_a_cache_that_cannot_be_written_is_named(
    cache, folder, monkeypatch, caplog
):
    future = time.time() + 100
    os.utime(folder, (future, future))
    assert names(folder) == NAMES[:5]  # a later change could get the same time
    os.utime(folder, (1, 1))
    monkeypatch.setattr(folder_index, "MIN_FILES", 20)
    assert names(folder) == NAMES[:5]
    assert not list(cache.glob("*.safetensors"))
    monkeypatch.setattr(folder_index, "MIN_FILES", 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "notes.txt"))
    with caplog.at_level(logging.WARNING):
        assert names(folder) == NAMES[:5]
    assert "Every process lists the folder" in caplog.text


def test_digests_identify_names_order_and_shards(folder, make_shards):
    files = [folder / name for name in NAMES[:2]]
    assert ImageFiles(files, folder).digest() == digest_names(NAMES[:2]) != ImageFiles(files[::-1], folder).digest()
    assert ImageFiles(files).digest() == digest_names(["0.jpg", "1.JPG"])
    assert Photos("validation").digest() == digest_names(["camera.png", "chelsea.png", "coffee.png", "rocket.jpg"])
    pattern = make_shards(2, 3)
    digest = Shards(pattern).digest()
    assert digest == Shards(pattern).digest() != Shards(pattern, samples=[3, 3]).digest()
    with Path(Shards(pattern).urls[0]).open("ab") as shard:
        shard.write(bytes(512))
    assert Shards(pattern).digest() != digest
    assert Shards("https://host/a-{0..1}.tar", 2).digest() != Shards("https://host/a-{1..0}.tar", 2).digest()
