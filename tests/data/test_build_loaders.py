"""Loaders of images: order, augmentation, distribution over processes and workers, and unreadable samples."""

import contextlib
import io
import itertools
import logging
import os
import signal
import subprocess
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from smalti.data import (
    EvaluationTransform,
    Folder,
    ImageFiles,
    ImageSource,
    Photos,
    Shards,
    TrainingTransform,
    evaluation_loader,
    training_loader,
)
from smalti.data.datasets import IndexedTrainingDataset, ShardTrainingDataset, collate
from smalti.data.sampler import SampleKey, TrainingPosition, TrainingSampler
from smalti.data.shard_plan import ShardPlan
from smalti.errors import SmaltiError
from smalti.pixels import image_to_pixels, uint8_to_pixels

RANDOM_CROP = TrainingTransform(8)
SMALL = EvaluationTransform(8, 8)


class GrayImages(ImageSource):
    """Images in memory; the gray level of each is its index modulo 256."""

    def __init__(self, count: int):
        self.images = [Image.new("RGB", (4, 4), (i % 256,) * 3) for i in range(count)]

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index]

    def name(self, index):
        return str(index)

    def __str__(self):
        return "gray images"


def load_epochs(source, epochs=1, **options):
    """Return the names and pixels of each batch of the first epochs."""
    position = TrainingPosition()
    loader = training_loader(source, RANDOM_CROP, **{"batch_size": 4, "get_position": lambda: position, **options})
    batches = []
    for epoch in range(epochs):
        position = TrainingPosition(epoch)
        batches += [(batch.names, batch.pixels) for batch in loader]
    loader.close()
    return batches


def equal(a, b):
    """Return whether two lists of (names, pixels) are equal, bit by bit."""
    return len(a) == len(b) and all(x[0] == y[0] and torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 60), st.integers(1, 5), st.integers(1, 5))
def test_evaluation_uses_every_image_once_over_the_processes(count, world_size, batch_size):
    all_names = []
    for rank in range(world_size):
        loader = evaluation_loader(GrayImages(count), image_to_pixels, batch_size, rank=rank, world_size=world_size)
        batches = list(loader)
        assert len(loader) == len(batches)
        for pixels, names in batches:
            assert pixels.shape[1:] == (3, 4, 4)
            levels = ((pixels[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
            assert names == [str(level) for level in levels]
            all_names += names
        assert loader.skipped.requested == sum(len(batch.names) for batch in batches)
    assert sorted(all_names, key=int) == [str(i) for i in range(count)]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 2, 5])
def test_evaluation_deals_the_samples_of_shards_evenly_and_uses_each_once(make_shards, workers, world_size):
    """Also if there are fewer shards than processes."""
    shards = Shards(make_shards(3, 4))
    names = [
        [name for batch in evaluation_loader(shards, SMALL, 2, workers, rank, world_size) for name in batch.names]
        for rank in range(world_size)
    ]
    assert sorted(itertools.chain(*names)) == [sample.name for sample in shards]
    assert {len(part) for part in names} <= {12 // world_size, -(-12 // world_size)}


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_evaluation_on_any_number_of_processes_reports_each_failure_of_shards_once(tmp_path, mode):
    """Samples without an image, a truncated shard, an empty one, and a wrong list of samples."""
    png = io.BytesIO()
    Image.new("RGB", (4, 4), "white").save(png, "PNG")
    for shard in range(4):
        with tarfile.open(tmp_path / f"{shard}.tar", mode) as tar:
            for index, suffix in enumerate(["cls", "png", "cls", "png", "png", "cls", "cls", "png", "png", "cls"]):
                info = tarfile.TarInfo(f"{shard}{index}.{suffix}")
                info.size = len(png.getvalue())
                tar.addfile(info, io.BytesIO(png.getvalue()))
    data = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(data[: 7 * len(data) // 10])
    (tmp_path / "2.tar").write_bytes(b"")
    expected = None
    for samples in (None, [9, 1, 2, 3]):
        for world_size in (1, 2, 3, 7):
            shards = Shards(str(tmp_path / "*.tar"), samples)
            names, failures, requested = Counter(), Counter(), 0
            for rank in range(world_size):
                loader = evaluation_loader(shards, image_to_pixels, 1, 0, rank, world_size, max_bad=1.0)
                with contextlib.suppress(SmaltiError):  # more than all of the shards of a process may be damaged
                    names.update(name for batch in loader for name in batch.names)
                failures.update(name for name in loader.skipped.names if not name.endswith(".tar"))
                requested += loader.skipped.requested
            assert set(names.values()) | set(failures.values()) == {1}
            expected = expected or (names, failures, requested)
            assert (names, failures, requested) == expected
    assert len(expected[0]) >= 10
    assert len(expected[1]) >= 10


def test_evaluation_batches_of_files_do_not_depend_on_workers(make_folder):
    folder = Folder(make_folder(7, bad=(3,)))
    batches, with_workers = (list(evaluation_loader(folder, SMALL, 2, workers, max_bad=0.2)) for workers in (0, 2))
    assert equal([batch[::-1] for batch in batches], [batch[::-1] for batch in with_workers])
    names = [folder.name(i) for i in range(7)]
    assert [name for batch in batches for name in batch.names] == [name for name in names if "003" not in name]
    assert [len(batch.names) for batch in batches].count(1) == 2


def test_without_a_transform_images_keep_their_size(make_folder):
    root = make_folder(2)
    Image.new("RGB", (5, 9), "white").save(root / "white.png")
    batches = list(evaluation_loader(Folder(root), None, batch_size=4))
    assert [tuple(batch.pixels.shape) for batch in batches] == [(1, 3, 20, 24), (1, 3, 20, 24), (1, 3, 9, 5)]
    assert batches[2].pixels.eq(1).all()


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_training_batches_do_not_depend_on_workers_but_on_epoch_and_seed(kind, make_folder, make_shards):
    if kind == "folder":
        source, options = Folder(make_folder(9, bad=(2,))), {"repeats": 2, "max_bad": 0.5}
    else:
        source, options = Shards(make_shards(5, 4, bad=(2,)), samples=18, buffer=8, lanes=2), {"max_bad": 0.5}
    batches = load_epochs(source, epochs=2, **options)
    assert len(batches) == 8
    for workers in (1, 2, 3):  # with 3, two workers read the same lane
        assert equal(batches, load_epochs(source, epochs=2, workers=workers, **options))
    assert not equal(batches[:4], batches[4:])
    assert not equal(batches, load_epochs(source, epochs=2, seed=1, **options))


def test_workers_send_8_bits_which_become_pixels_in_the_loader(make_folder, make_shards):
    for source in (Folder(make_folder(6)), Shards(make_shards(2, 3), samples=6)):
        options = {"batch_size": 6, "seed": 2}
        (batch,) = training_loader(source, RANDOM_CROP, **options)
        (levels,) = training_loader(source, RANDOM_CROP, **options, as_uint8=True)
        assert batch.names == levels.names
        assert (batch.pixels.dtype, levels.pixels.dtype) == (torch.float32, torch.uint8)
        assert torch.equal(batch.pixels, uint8_to_pixels(levels.pixels))
        (batch,), (levels,) = (evaluation_loader(source, SMALL, 6, as_uint8=as_uint8) for as_uint8 in (False, True))
        assert levels.pixels.dtype == torch.uint8
        assert torch.equal(batch.pixels, uint8_to_pixels(levels.pixels))


def test_overridden_methods_of_sources_and_transforms_are_called(make_folder, make_shards):
    class Inverted(TrainingTransform):
        def forward(self, image):
            return -super().forward(image)

    class WhiteFolder(Folder):
        def __getitem__(self, index):
            return Image.new("RGB", super().__getitem__(index).size, "white")

    class WhiteShards(Shards):
        def decode(self, sample):
            return Image.new("RGB", super().decode(sample).size, "white")

    root, shards = make_folder(4), make_shards(2, 2)
    (batch,), (inverted,) = (
        training_loader(Folder(root), transform(8), batch_size=4) for transform in (TrainingTransform, Inverted)
    )
    assert torch.equal(inverted.pixels, -batch.pixels)
    for source in (WhiteFolder(root), WhiteShards(shards)):
        (batch,) = training_loader(source, TrainingTransform(8), batch_size=4)
        assert batch.pixels.eq(1).all()


def test_keys_determine_samples_in_any_order_and_preserve_the_global_generator(make_folder, make_shards):
    shards = Shards(make_shards(3, 4, bad=(1,)), samples=12, buffer=4, lanes=2)
    plan = ShardPlan(shards.sizes(), samples=12, batch_size=2, lanes=2, world_size=1, seed=3)
    for dataset in (
        IndexedTrainingDataset(Folder(make_folder(5)), RANDOM_CROP, 3),
        ShardTrainingDataset(shards, RANDOM_CROP, 3, plan),
    ):
        keys = [SampleKey(epoch, index) for epoch in (0, 1) for index in range(10)]
        in_order = {key: dataset[key] for key in keys}
        torch.manual_seed(0)
        state = torch.get_rng_state()
        for key in [keys[i] for i in (7, 3, 19, 12, 0, 5, 5)]:
            assert torch.equal(dataset[key].pixels, in_order[key].pixels)
            assert dataset[key].name == in_order[key].name
        assert torch.equal(torch.get_rng_state(), state)


def test_repeated_images_get_different_crops():
    batches = load_epochs(Photos("validation"), repeats=3)
    names = Counter(name for names, _ in batches for name in names)
    assert set(names.values()) == {3}
    assert len({pixels.numpy().tobytes() for _, batch in batches for pixels in batch}) == 12


def test_training_shards_are_distributed_over_processes_without_overlap(make_shards):
    shards = Shards(make_shards(5, 6), buffer=4, lanes=2)
    parts = [load_epochs(shards, batch_size=3, rank=rank, world_size=2) for rank in range(2)]
    names = [name for part in parts for batch, _ in part for name in batch]
    assert sorted(names) == [sample.name for sample in shards]
    # A shard with fewer samples than requested is read again.
    one_shard = Shards(shards.urls[:1], samples=24, buffer=2)
    counts = Counter(name for names, _ in load_epochs(one_shard) for name in names)
    assert set(counts.values()) == {4}


def test_processes_draw_different_crops_of_shards(make_shards):
    """Also if all samples are the same image."""
    folder = Path(make_shards(4, 1)).parent
    image = next(iter(Shards(str(folder / "000.tar")))).content
    for shard in range(4):
        with webdataset.TarWriter(str(folder / f"{shard:03}.tar")) as tar:
            for index in range(4):
                tar.write({"__key__": f"{index}", "jpg": image})
    shards = Shards(str(folder / "*.tar"), lanes=2)
    pixels = [
        pixels for rank in range(2) for _, batch in load_epochs(shards, rank=rank, world_size=2) for pixels in batch
    ]
    assert len({image.numpy().tobytes() for image in pixels}) == len(pixels) == 16


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_files_are_counted_logged_and_replaced_in_training(make_folder, caplog, workers):
    folder = Folder(make_folder(12, bad=(4, 5)))
    epochs = itertools.count()
    loader = training_loader(
        folder,
        RANDOM_CROP,
        batch_size=4,
        workers=workers,
        max_bad=0.25,
        get_position=lambda: TrainingPosition(next(epochs)),
    )
    with caplog.at_level(logging.WARNING, "smalti.data"):
        for _ in range(3):
            batches = list(loader)
            assert [len(batch.names) for batch in batches] == [4, 4, 4]
            assert not any(bad in name for batch in batches for name in batch.names for bad in ("004", "005"))
    loader.close()
    assert loader.skipped.requested == 36
    assert set(loader.skipped.names) == {"1/004.jpg", "2/005.jpg"}
    assert loader.skipped.count >= 6
    assert sorted(record.args[0] for record in caplog.records) == ["1/004.jpg", "2/005.jpg"]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unreadable_files_raise_an_error_with_their_number_and_names(make_folder, workers):
    folder = Folder(make_folder(20, bad=(3, 8)))
    assert len(list(evaluation_loader(folder, SMALL, 4, workers, max_bad=0.1))) == 5
    for loader in (
        evaluation_loader(folder, SMALL, 4, workers),
        training_loader(folder, RANDOM_CROP, batch_size=4, workers=workers),
    ):
        with pytest.raises(SmaltiError, match=r"1 of the 20 samples .*00[38]\.jpg .*[Tt]runcated") as caught:
            list(loader)
        assert "\n" not in str(caught.value)
        loader.close()


def test_the_error_is_raised_as_soon_as_the_limit_is_certainly_exceeded(make_folder):
    folder = Folder(make_folder(40, bad=(0, 1, 2, 3)))
    loader = evaluation_loader(folder, SMALL, 1, max_bad=0.05)
    names = []
    with pytest.raises(SmaltiError, match="3 of the 40 samples"):
        names.extend(name for batch in loader for name in batch.names)
    assert loader.skipped.count == 3
    assert all("000" not in name for name in names)


def test_training_stops_at_the_first_batch_if_everything_is_unreadable(make_folder, make_shards):
    folder = Folder(make_folder(5, bad=tuple(range(5))))
    for source in (folder, Shards(make_shards(2, 3, bad=tuple(range(6))), samples=8, buffer=2)):
        loader = training_loader(source, RANDOM_CROP, batch_size=2, max_bad=1.0)
        with pytest.raises(SmaltiError, match="No readable replacement was found") as caught:
            next(iter(loader))
        assert "\n" not in str(caught.value)
    with pytest.raises(SmaltiError, match="5 of the 5 samples"):
        list(evaluation_loader(folder, image_to_pixels, max_bad=0.9))


def test_truncated_shards_count_as_a_fraction_of_the_shards(make_shards, caplog):
    shards = Shards(make_shards(4, 5), samples=40, buffer=2)
    Path(shards.urls[1]).write_bytes(Path(shards.urls[1]).read_bytes()[:2000])
    for max_bad in (0.2, 0.3):
        for loader in (
            evaluation_loader(shards, SMALL, 2, workers=2, max_bad=max_bad),
            training_loader(shards, RANDOM_CROP, batch_size=4, workers=2, max_bad=max_bad),
        ):
            if max_bad == 0.2:
                with pytest.raises(SmaltiError, match=r"25% of the shards could not be read .*001.tar"):
                    list(loader)
            else:
                assert sum(len(batch.names) for batch in loader) in (15, 40)
            loader.close()
    assert any(record.args[0] == shards.urls[1] for record in caplog.records)
    for url in shards.urls:
        Path(url).write_bytes(b"")
    for loader in (
        evaluation_loader(shards, SMALL, 2, max_bad=1.0),
        training_loader(shards, RANDOM_CROP, batch_size=4, max_bad=1.0),
    ):
        with pytest.raises(SmaltiError, match=r"00\d\.tar"):
            list(loader)


@pytest.mark.parametrize("max_bad", [0.2, 0.5])
def test_a_shard_that_disappears_during_training_is_named(make_shards, max_bad):
    """It counts as bad: the next epoch continues without it if max_bad allows it, and ends with its name otherwise."""
    shards = Shards(make_shards(4, 4), buffer=1)
    position = TrainingPosition()
    loader = training_loader(shards, RANDOM_CROP, batch_size=2, max_bad=max_bad, get_position=lambda: position)
    assert len(list(loader)) == 8
    Path(shards.urls[2]).unlink()
    position = TrainingPosition(1)
    if max_bad < 0.25:
        with pytest.raises(SmaltiError, match=r"25% of the shards could not be read .*002\.tar \(No such file"):
            list(loader)
    else:
        assert sum(len(batch.names) for batch in loader) == 16
        assert set(loader.skipped.names) == {shards.urls[2]}


def test_shard_samples_without_an_image_are_skipped(tmp_path):
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), "white").save(stream, "PNG")
    png = stream.getvalue()
    with webdataset.TarWriter(str(tmp_path / "a.tar")) as tar:
        tar.write({"__key__": "a", "cls": b"1"})
        tar.write({"__key__": "b", "mask.png": b"no", "png": png})
        tar.write({"__key__": "c", "JPEG": png})
    loader = evaluation_loader(Shards(str(tmp_path / "a.tar")), image_to_pixels, max_bad=0.4)
    assert [batch.names for batch in loader] == [[f"{tmp_path}/a.tar/b"], [f"{tmp_path}/a.tar/c"]]
    assert loader.skipped.names == {f"{tmp_path}/a.tar/a": "no image in the sample"}


def test_repeats_of_shards_read_their_samples_again(make_shards):
    pattern = make_shards(2, 4)
    for shards in (Shards(pattern), Shards(pattern, samples=8)):
        names = [
            name for batch in training_loader(shards, RANDOM_CROP, batch_size=4, repeats=3) for name in batch.names
        ]
        assert len(names) == 24
        assert len(set(names)) > 4


def test_invalid_arguments_raise_an_error(make_folder, make_shards):
    folder, pattern = Folder(make_folder(5)), make_shards(2, 4)
    for source, options, message in [
        (folder, {"batch_size": 6}, "5 samples, fewer than one batch of 6 on each of 1"),
        (folder, {"batch_size": 3, "world_size": 2}, "5 samples, fewer than one batch of 3 on each of 2"),
        (folder, {"batch_size": 0}, "batch_size is 0"),
        (folder, {"repeats": 0}, "repeats is 0"),
        (folder, {"workers": -1}, "workers is -1"),
        (folder, {"max_bad": 2.0}, "max_bad is 2.0"),
        (Shards("https://example.org/{0..3}.tar"), {}, "cannot be counted, because it is a URL: set `samples`"),
        (Shards(pattern, samples=1), {}, "1 samples, fewer than one batch of 2"),
    ]:
        with pytest.raises(SmaltiError, match=message):
            training_loader(source, RANDOM_CROP, **{"batch_size": 2, **options})
    with pytest.raises(SmaltiError, match="batch_size is 0"):
        evaluation_loader(folder, image_to_pixels, 0)


@pytest.mark.slow
class KillsItsProcess(GrayImages):
    """The process that reads image 5 is killed, as the kernel does when memory is short."""

    def __getitem__(self, index):
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


def test_a_worker_that_is_killed_gives_one_sentence():
    message = r"loads data \(pid [\d, ]+\) was killed.*; memory may be short: .*workers"
    with pytest.raises(SmaltiError, match=message) as caught:
        list(evaluation_loader(KillsItsProcess(8), image_to_pixels, 1, workers=1))
    assert "\n" not in str(caught.value)
    assert subprocess.run(["true"], check=True).returncode == 0  # PyTorch does not raise it again when a process ends


def test_workers_can_be_spawned(make_shards):
    shards = Shards(make_shards(2, 4), samples=8, buffer=2)
    plan = ShardPlan(shards.sizes(), samples=8, batch_size=2, lanes=2, world_size=1, seed=0)
    photos = Photos("validation")
    for build in (
        lambda: IndexedTrainingDataset(photos, RANDOM_CROP, 0),
        lambda: ShardTrainingDataset(shards, RANDOM_CROP, 0, plan),
    ):
        sampler = TrainingSampler(4, shuffle=False, rank=0, world_size=1, seed=0, batch_size=2)
        options = {"batch_size": 2, "sampler": sampler, "collate_fn": collate}
        main_process = list(DataLoader(build(), **options))
        spawned = list(DataLoader(build(), num_workers=1, multiprocessing_context="spawn", **options))
        assert equal([loaded.batch[::-1] for loaded in main_process], [loaded.batch[::-1] for loaded in spawned])


def test_files_without_a_root_are_named_by_their_file_names(make_folder):
    paths = Folder(make_folder(2)).paths
    assert [name for batch in evaluation_loader(ImageFiles(paths), None) for name in batch.names] == [
        "000.jpg",
        "001.jpg",
    ]


def test_a_process_among_others_repeats_its_last_batch_instead_of_raising_an_error(make_folder):
    """It can take part in the collectives of the step. An error before the first batch is raised."""
    source = Folder(make_folder(8))
    loader = training_loader(source, TrainingTransform(8), batch_size=2, world_size=2)
    batches = iter(loader)
    first = next(batches)
    assert loader.error is None
    loader._check_limit = lambda *_: 1 / 0
    for _ in range(2):
        assert next(batches) is first
        assert isinstance(loader.error, ZeroDivisionError)
    alone = training_loader(source, TrainingTransform(8), batch_size=2, world_size=2)
    alone._check_limit = loader._check_limit
    with pytest.raises(ZeroDivisionError):
        next(iter(alone))
