"""Shards: patterns, reading complete and damaged tar files, and lanes."""

import gzip
import io
import pickle
import shutil
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from smalti.data import Shards, VideoShards
from smalti.data.shard_patterns import expand_pattern
from smalti.data.shard_reading import EncodedSample
from smalti.data.sources import ReadFailure
from smalti.errors import SmaltiError


def test_shards_yield_every_sample_once_in_order(make_shards):
    pattern = make_shards(3, 4)
    shards = Shards(pattern)
    samples = list(shards)
    assert [sample.name.rpartition("/")[2] for sample in samples] == [f"{n:04}" for n in range(12)]
    assert samples[0].name.endswith("000.tar/0000")
    assert list(Shards(str(Path(pattern).parent / "*.tar"))) == samples
    assert list(Shards([*shards.urls, pattern])) == samples
    assert list(Shards(f"pipe:cat {pattern}")) == [s._replace(name=f"pipe:cat {s.name}") for s in samples]
    assert pickle.loads(pickle.dumps(shards)).urls == shards.urls


def test_patterns_of_urls_are_expanded_without_opening_them():
    assert expand_pattern("https://example.org/a-{08..10}.tar") == [
        f"https://example.org/a-{n:02}.tar" for n in (8, 9, 10)
    ]
    assert expand_pattern("pipe:cat a-{0..1}.tar") == ["pipe:cat a-0.tar", "pipe:cat a-1.tar"]


def test_patterns_without_a_match_and_invalid_numbers_raise_an_error(tmp_path, make_shards):
    pattern = make_shards(2, 1)
    for bad, message in {
        str(tmp_path / "*.tar"): r"No shard matches '.*/\*.tar'",
        str(tmp_path / "a.tar"): "No shard matches '.*a.tar'",
        pattern.replace("001", "002"): "No shard matches '.*/002.tar' of the pattern",
        str(tmp_path / "{000..2.tar"): "braces",
    }.items():
        with pytest.raises(SmaltiError, match=message):
            Shards(bad)
    for options in ({"samples": 0}, {"buffer": 0}, {"lanes": 0}):
        with pytest.raises(SmaltiError, match=f"{next(iter(options))} of Shards is 0"):
            Shards(pattern, **options)


def test_a_truncated_shard_yields_its_complete_samples_and_a_failure(make_shards):
    shards = Shards(make_shards(3, 6))
    first, second = (Path(url) for url in shards.urls[:2])
    samples = list(shards)
    with tarfile.open(second) as tar:
        third_sample = tar.getmembers()[4]  # two files per sample
    data = second.read_bytes()
    for size in (
        third_sample.offset,  # truncated between two files
        third_sample.offset + 300,  # within the header of a file
        third_sample.offset_data,  # between header and data
        third_sample.offset_data + 300,  # within the data
    ):
        second.write_bytes(data[:size])
        items = list(shards)
        failures = [item for item in items if isinstance(item, ReadFailure)]
        assert [(failure.name, failure.num_shards, bool(failure.reason)) for failure in failures] == [
            (str(second), 3, True)
        ]
        readable = [item for item in items if isinstance(item, EncodedSample) and item.content]
        assert readable == [*samples[:8], *samples[12:]]
    first.write_bytes(b"")
    second.unlink()
    assert [item.name for item in shards if isinstance(item, ReadFailure)] == [str(first), str(second)]
    second.write_bytes(gzip.compress(data))
    assert list(shards)[1:] == samples[6:]


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset opens URLs with curl")
def test_shards_are_read_over_http(make_shards, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    pattern = Path(make_shards(2, 3))
    handler = partial(SimpleHTTPRequestHandler, directory=pattern.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        samples = list(Shards(f"{url}/{pattern.name}"))
        missing = list(Shards(f"{url}/{{001..002}}.tar"))
        server.shutdown()
    assert [sample.content for sample in samples] == [sample.content for sample in Shards(str(pattern))]
    assert [item.name for item in missing if isinstance(item, ReadFailure)] == [f"{url}/002.tar"]


def test_counting_reads_the_same_samples_as_training(tmp_path):
    """Also with long names, other suffixes, upper case, folders, metadata, several files per sample, and damage."""
    files = {
        "a/0001.jpg": b"1", "a/0001.cls": b"1", "a/0002.JPG": b"1", "a/0003.txt": b"no image", "a/0003.x.png": b"",
        "b": None, "b/0001.png": b"1", "__meta__/x.jpg": b"1", "__info__": b"1", "no_suffix": b"1", "c.cls": b"no image",
        f"{'long/' * 40}{'name' * 40}.webp": b"1", "d.seg.png": b"1", "d.jpg": b"1", "clip.mp4": b"1",
    }  # fmt: skip

    def write(path: Path, mode: str, tar_format: int) -> None:
        with tarfile.open(path, mode, format=tar_format) as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
                info.size = len(content or b"")
                tar.addfile(info, io.BytesIO(content or b""))

    write(tmp_path / "0.tar", "w", tarfile.PAX_FORMAT)
    write(tmp_path / "1.tar", "w", tarfile.GNU_FORMAT)
    write(tmp_path / "2.tar", "w:gz", tarfile.PAX_FORMAT)
    data = (tmp_path / "0.tar").read_bytes()
    (tmp_path / "3.tar").write_bytes(data[: data.index(b"b/0001.png") + 100])  # truncated within a header
    (tmp_path / "4.tar").write_bytes(b"")
    (tmp_path / "5.tar").write_bytes(b"not a tar file" * 100)
    for cls, expected in ((Shards, [6, 6, 6, 3, 0, 0]), (VideoShards, [1, 1, 1, 0, 0, 0])):
        for index, count in enumerate(expected):
            shards = cls(str(tmp_path / f"{index}.tar"))
            read = [item for item in shards if isinstance(item, EncodedSample) and item.content is not None]
            assert shards.count_samples() == len(read) == count, (cls, index)
            assert shards.contains_samples() == (count > 0)
        assert cls(str(tmp_path / "*.tar")).count_samples() == sum(expected)


def test_urls_are_not_counted():
    with pytest.raises(SmaltiError, match=r"https://example.org/a.tar cannot be counted, because it is a URL"):
        Shards("https://example.org/a.tar").count_samples()


def test_a_failing_pipe_is_a_failure():
    (failure,) = Shards("pipe:exit 3")
    assert isinstance(failure, ReadFailure)
    assert failure.name == "pipe:exit 3"


def test_lanes_read_every_shard_and_end_only_if_all_shards_are_empty(make_shards):
    shards = Shards(make_shards(7, 2), buffer=4, lanes=2)
    names = []
    for rank in range(3):
        for lane in range(shards.num_lanes(rank, 3)):
            items = shards.read_lane(lane, seed=1, epoch=2, rank=rank, world_size=3)
            samples_in_lane = len(shards.urls[rank::3][lane :: shards.num_lanes(rank, 3)]) * 2
            names += [next(items).name for _ in range(8 * samples_in_lane)]
    assert set(names) == {item.name for item in shards}
    for url in shards.urls:
        Path(url).write_bytes(b"")
    failures = list(shards.read_lane(0, seed=1, epoch=2, rank=0, world_size=1))
    assert len(failures) == 4 + 7  # the shards of the lane, then all shards
    assert all(isinstance(item, ReadFailure) for item in failures)
