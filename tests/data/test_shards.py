"""Shards: patterns, reading complete and damaged tar files, and lanes."""

import gzip
import io
import pickle
import shutil
import tarfile
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread

import pytest

from smalti.data import Shards, VideoShards, shard_reading
from smalti.data.shard_headers import find_sample
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
    monkeypatch.setattr(shard_reading, "RETRY_DELAYS", (0.0,))
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


def test_a_failing_pipe_is_a_failure(monkeypatch):
    monkeypatch.setattr(shard_reading, "RETRY_DELAYS", ())
    (failure,) = Shards("pipe:exit 3")
    assert isinstance(failure, ReadFailure)
    assert failure.name == "pipe:exit 3"


def test_a_shard_is_read_from_any_sample(make_shards, tmp_path):
    (url,) = Shards(make_shards(1, 6)).urls
    compressed = tmp_path / "a.tar.gz"
    compressed.write_bytes(gzip.compress(Path(url).read_bytes()))
    for shards in (Shards(url), Shards(str(compressed)), Shards(f"pipe:cat {url}", samples=6)):
        samples = list(shards)
        for first in range(7):
            assert list(shards.read_shard(0, first)) == samples[first:]


def test_reading_from_a_sample_of_a_local_shard_seeks_to_it(make_shards, monkeypatch):
    (url,) = Shards(make_shards(1, 6)).urls
    stream = shard_reading._MonitoredStream
    sizes = []

    class Counting(stream):
        def read(self, size=-1):
            data = super().read(size)
            sizes.append(len(data))
            return data

    monkeypatch.setattr(shard_reading, "_MonitoredStream", Counting)
    offset = find_sample(url, Shards.suffixes, 5)
    assert len(list(Shards(url).read_shard(0, 5))) == 1
    assert offset > 5 * 1024
    assert sum(sizes) == Path(url).stat().st_size - offset


def write_flaky_command(folder: Path, url: str, sizes: list[int]) -> str:
    """Return a pipe that breaks off after so many bytes, one number for each attempt, and then succeeds."""
    script, count = folder / "flaky.sh", folder / "attempts"
    count.write_text("")
    cases = "".join(f"{attempt}) head -c {size} {url}; exit 1;;\n" for attempt, size in enumerate(sizes))
    script.write_text(f"n=$(wc -c < {count})\nprintf x >> {count}\ncase $n in\n{cases}esac\ncat {url}\n")
    return f"pipe:sh {script}"


def test_a_remote_shard_that_breaks_off_is_retried_before_it_counts_as_damaged(make_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(shard_reading, "RETRY_DELAYS", (0.0, 0.0))
    (url,) = Shards(make_shards(1, 6)).urls
    contents = [sample.content for sample in Shards(url)]
    with tarfile.open(url) as tar:
        members = tar.getmembers()  # two files per sample
    for size in (0, members[4].offset, members[5].offset_data + 10, members[9].offset):
        for first in (0, 3):
            pipe = write_flaky_command(tmp_path, url, [size, size + 700])
            assert [sample.content for sample in Shards(pipe, samples=6).read_shard(0, first)] == contents[first:]
    *samples, failure = Shards(write_flaky_command(tmp_path, url, [0, members[4].offset, 0]))
    # webdataset drops what was read last if the command has already failed by then.
    assert [sample.content for sample in samples] == contents[: len(samples)]
    assert len(samples) <= 2
    assert isinstance(failure, ReadFailure)
    assert (tmp_path / "attempts").read_text() == "xxx"


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset opens URLs with curl")
def test_a_url_that_stalls_is_opened_again_and_named_if_it_stalls_every_time(make_shards, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(shard_reading, "RETRY_DELAYS", (0.0, 0.0))
    monkeypatch.setattr(shard_reading, "READ_TIMEOUT", 0.3)
    shards = Shards(make_shards(1, 6))
    data = Path(shards.urls[0]).read_bytes()
    requests, end = [], Event()

    class Stalling(BaseHTTPRequestHandler):
        """Sends nothing to request 1, half of the shard to request 2, all of it to request 3; dead.tar never ends."""

        def do_GET(self):
            requests.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            sent = 0 if self.path == "/dead.tar" else (0, len(data) // 2, len(data))[len(requests) - 1]
            self.wfile.write(data[:sent])
            self.wfile.flush()
            if sent < len(data):
                end.wait(30)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Stalling) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        samples = list(Shards(f"{url}/slow.tar", samples=6))
        assert [sample.content for sample in samples] == [sample.content for sample in shards]
        assert requests == ["/slow.tar"] * 3
        assert list(Shards(f"{url}/dead.tar")) == [ReadFailure(f"{url}/dead.tar", "no data for 0.3 s", 1)]
        assert len(requests) == 6
        end.set()
        server.shutdown()


def test_a_url_of_an_unknown_kind_is_a_failure(monkeypatch):
    monkeypatch.setattr(shard_reading, "RETRY_DELAYS", ())
    (failure,) = Shards("unknown://bucket/a.tar")
    assert failure == ReadFailure("unknown://bucket/a.tar", failure.reason, 1)


def test_numbers_of_samples_are_counted_listed_or_assumed_to_be_equal(make_shards):
    pattern = make_shards(3, 2)
    assert Shards(pattern, samples=4).sizes() == [2, 2, 2]
    assert (Shards(pattern, [2, 1, 0]).sizes(), Shards(pattern, [2, 1, 0]).samples) == ([2, 1, 0], 3)
    assert Shards("https://example.org/{0..2}.tar", samples=8).sizes() == [3, 3, 3]
    for wrong in ([2, 2], [3, -1, 2]):
        with pytest.raises(SmaltiError, match=r"samples of Shards is a list of \d numbers for 3 shards"):
            Shards(pattern, wrong)
