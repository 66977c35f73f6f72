import gzip
import importlib.util
import pickle
import shutil
import socket
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import torch

from smalti.data import (
    EvaluationTransform,
    Folder,
    ImageFiles,
    Photos,
    Shards,
    TrainingTransform,
    open_source,
    packaged_files as packaged,
)
from smalti.data import packaged_photos as photos_module
from smalti.data.packaged_files import locate
from smalti.data.shard_reading import Encoded, expand_pattern
from smalti.data.sources import Fault, ImageSource
from smalti.errors import MissingExtraError, SmaltiError
from smalti.pixels import image_to_pixels


def test_a_folder_is_read_in_order_with_all_below_it(make_folder):
    root = make_folder(7)
    (root / "b.PNG").write_bytes((root / "0" / "000.jpg").read_bytes())
    (root / "._b.png").write_bytes(b"resource fork")
    (root / ".cache").mkdir()
    (root / ".cache" / "a.jpg").write_bytes(b"")
    (root / "notes.txt").write_text("x")
    (root / "1" / "loop").symlink_to(root, target_is_directory=True)
    (root.parent / "elsewhere").mkdir()
    (root.parent / "elsewhere" / "linked.jpg").write_bytes((root / "0" / "000.jpg").read_bytes())
    (root / "z").symlink_to(root.parent / "elsewhere", target_is_directory=True)
    folder = Folder(str(root))
    names = [folder.name(index) for index in range(len(folder))]
    assert names == [
        "0/000.jpg", "0/003.jpg", "0/006.jpg", "1/001.jpg", "1/004.jpg", "2/002.jpg", "2/005.jpg", "b.PNG", "z/linked.jpg"
    ]  # fmt: skip
    assert folder[7].tobytes() == folder[0].tobytes() == folder[8].tobytes() != folder[1].tobytes()


def test_what_is_no_folder_of_images_is_said_in_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "words").mkdir()
    (tmp_path / "words" / "a.txt").write_text("x")
    for path, words in {
        tmp_path / "missing": "There is no folder .*missing",
        tmp_path / "words" / "a.txt": "a.txt is a file",
        tmp_path / "empty": "empty holds no images",
        tmp_path / "words": "words holds no images",
    }.items():
        with pytest.raises(SmaltiError, match=words) as caught:
            Folder(path)
        assert "\n" not in str(caught.value)


def test_photos_are_held_out_by_photo_and_need_no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    train, validation, everything = (Photos(split) for split in ("train", "validation", "all"))
    names = [{source.name(i) for i in range(len(source))} for source in (train, validation, everything)]
    assert (len(train), len(validation), len(everything)) == (12, 4, 16)
    assert not names[0] & names[1]
    assert names[0] | names[1] == names[2]
    assert all(everything[i].mode == "RGB" and min(everything[i].size) >= 256 for i in range(16))
    assert everything[0] is everything[0]


def test_no_photo_of_one_split_is_a_near_duplicate_of_one_of_the_other():
    twins = ImageFiles([locate(f"motorcycle_{side}.png", photos_module._SKIMAGE) for side in ("left", "right")])

    def features(source: ImageSource) -> torch.Tensor:
        small = torch.stack([EvaluationTransform(16, 16)(source[i]).flatten() for i in range(len(source))])
        return torch.nn.functional.normalize(small - small.mean(dim=1, keepdim=True), dim=1)

    likeness = features(Photos("train")) @ features(Photos("validation")).T
    twin = torch.dot(*features(twins))  # the stereo pair, of which one is left out, shows what too near looks like
    assert likeness.max() < 0.75 < twin


def test_photos_name_the_extra_that_is_missing(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(packaged, "find_spec", lambda name: None if name == "sklearn" else real(name))
    with pytest.raises(MissingExtraError, match=r"scikit-learn.*smalti\[photos\]"):
        Photos("train")
    with pytest.raises(SmaltiError, match="no split 'test'"):
        Photos("test")


def test_shards_give_every_sample_once_in_order(make_shards):
    pattern = make_shards(3, 4)
    shards = Shards(pattern)
    samples = list(shards)
    assert [sample.name.rpartition("/")[2] for sample in samples] == [f"{n:04}" for n in range(12)]
    assert samples[0].name.endswith("000.tar/0000")
    assert list(Shards(str(Path(pattern).parent / "*.tar"))) == samples
    assert list(Shards([*shards.urls, pattern])) == samples
    assert list(Shards(f"pipe:cat {pattern}")) == [s._replace(name=f"pipe:cat {s.name}") for s in samples]
    assert pickle.loads(pickle.dumps(shards)).urls == shards.urls


def test_patterns_expand_to_urls_unopened():
    assert expand_pattern("https://example.org/a-{08..10}.tar") == [f"https://example.org/a-{n:02}.tar" for n in (8, 9, 10)]
    assert expand_pattern("pipe:cat a-{0..1}.tar") == ["pipe:cat a-0.tar", "pipe:cat a-1.tar"]


def test_patterns_that_match_nothing_are_said_in_one_sentence(tmp_path, make_shards):
    pattern = make_shards(2, 1)
    for bad, words in {
        str(tmp_path / "*.tar"): r"No shard matches '.*/\*.tar'",
        str(tmp_path / "a.tar"): "No shard matches '.*a.tar'",
        pattern.replace("001", "002"): "No shard matches '.*/002.tar' of the pattern",
        str(tmp_path / "{000..2.tar"): "braces",
    }.items():
        with pytest.raises(SmaltiError, match=words):
            Shards(bad)
    for options in ({"samples": 0}, {"buffer": 0}, {"lanes": 0}):
        with pytest.raises(SmaltiError, match=f"{next(iter(options))} is 0"):
            Shards(pattern, **options)


def test_a_truncated_shard_gives_its_whole_samples_and_a_fault(make_shards):
    shards = Shards(make_shards(3, 6))
    first, second = (Path(url) for url in shards.urls[:2])
    whole = list(shards)
    with tarfile.open(second) as tar:
        third = tar.getmembers()[4]  # two files a sample
    data = second.read_bytes()
    cuts = (third.offset, third.offset + 300, third.offset_data, third.offset_data + 300)  # boundary, header, data
    for cut in cuts:
        second.write_bytes(data[:cut])
        items = list(shards)
        faults = [item for item in items if isinstance(item, Fault)]
        assert [(fault.name, fault.shards, bool(fault.reason)) for fault in faults] == [(str(second), 3, True)]
        samples = [item for item in items if isinstance(item, Encoded) and item.content]
        assert samples == [*whole[:8], *whole[12:]]
    first.write_bytes(b"")
    second.unlink()
    assert [item.name for item in shards if isinstance(item, Fault)] == [str(first), str(second)]
    second.write_bytes(gzip.compress(data))
    assert list(shards)[1:] == whole[6:]


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset opens URLs with curl")
def test_shards_are_read_over_http(make_shards):
    pattern = Path(make_shards(2, 3))
    handler = partial(SimpleHTTPRequestHandler, directory=pattern.parent)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        samples = list(Shards(f"{url}/{pattern.name}"))
        missing = list(Shards(f"{url}/{{001..002}}.tar"))
        server.shutdown()
    assert [sample.content for sample in samples] == [sample.content for sample in Shards(str(pattern))]
    assert [item.name for item in missing if isinstance(item, Fault)] == [f"{url}/002.tar"]


def test_a_pipe_that_fails_is_a_fault():
    (fault,) = Shards("pipe:exit 3")
    assert isinstance(fault, Fault)
    assert fault.name == "pipe:exit 3"


def test_lanes_deal_out_every_shard_and_end_only_if_all_are_empty(make_shards):
    shards = Shards(make_shards(7, 2), buffer=4, lanes=2)
    seen = []
    for rank in range(3):
        for lane in range(shards.lanes_of(rank, 3)):
            items = shards.lane(lane, seed=1, epoch=2, rank=rank, world=3)
            own = len(shards.urls[rank::3][lane :: shards.lanes_of(rank, 3)]) * 2
            seen += [next(items).name for _ in range(8 * own)]
    assert set(seen) == {item.name for item in shards}
    for url in shards.urls:
        Path(url).write_bytes(b"")
    rest = list(shards.lane(0, seed=1, epoch=2, rank=0, world=1))
    assert len(rest) == 4 + 7  # its own, then all
    assert all(isinstance(item, Fault) for item in rest)


def test_open_source_takes_what_a_command_may_be_given(make_folder, make_shards, tmp_path, monkeypatch):
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


@pytest.mark.parametrize("size", [(1, 1), (3, 90), (90, 3), (31, 32), (64, 64), (400, 300)])
def test_every_size_of_image_becomes_the_size_that_is_asked_for(size):
    from PIL import Image

    image = Image.radial_gradient("L").resize(size).convert("RGB")
    for transform in (TrainingTransform(32), EvaluationTransform(32, 32)):
        pixels = transform(image)
        assert pixels.shape == (3, 32, 32)
        assert pixels.dtype == torch.float32
        assert -1 <= pixels.min() <= pixels.max() <= 1


def test_pixels_run_from_minus_one_to_one_and_nothing_is_moved():
    from PIL import Image

    ramp = Image.frombytes("L", (256, 1), bytes(range(256))).convert("RGB")
    torch.testing.assert_close(image_to_pixels(ramp)[0, 0], torch.linspace(-1, 1, 256))
    photo = Photos("validation")[1]
    square = photo.crop((0, 0, 64, 64))
    torch.testing.assert_close(EvaluationTransform(64, 64)(square), image_to_pixels(square), rtol=0, atol=0)


def test_transforms_refuse_numbers_out_of_range():
    for arguments in ((0,), (32, (0.0, 1.0)), (32, (0.6, 0.5)), (32, (0.5, 1.5))):
        with pytest.raises(SmaltiError):
            TrainingTransform(*arguments)
    with pytest.raises(SmaltiError, match="size is 0"):
        EvaluationTransform(0)


@pytest.mark.slow
def test_importing_the_room_does_not_import_lightning_or_the_photo_packages():
    import subprocess
    import sys

    names = "('av', 'lightning', 'skimage', 'sklearn', 'skvideo', 'webdataset')"
    code = f"import sys, smalti.data; print([name for name in {names} if name in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
    )
