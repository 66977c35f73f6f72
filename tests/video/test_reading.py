"""Frames are read as players show them, at the right times; incomplete files are detected."""

import pickle
from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from smalti.errors import SmaltiError
from smalti.video import UnreadableVideoError, VideoInfo, probe, read_frames, reading

NTSC = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def bikes(clips_folder):
    """All 250 frames of a real clip, 25 frames per second."""
    return list(read_frames(clips_folder / "bikes.mp4"))


def indices(frames):
    """Return the indices of decoded gray frames."""
    return [round(float(frame.float().mean()) / 8) for frame in frames]


def test_probe_and_read_a_path_and_bytes(bikes, clips_folder):
    info = VideoInfo(size=(272, 640), rate=Fraction(25), duration=Fraction(10), frames=250)
    data = (clips_folder / "bikes.mp4").read_bytes()
    assert probe(clips_folder / "bikes.mp4") == probe(data) == info
    assert len(bikes) == 250
    assert all(frame.shape == (3, 272, 640) and frame.dtype == torch.uint8 for frame in bikes)
    assert all(map(torch.equal, islice(read_frames(data), 5), bikes))
    assert probe(clips_folder / "carphone_pristine.mp4").rate == NTSC


@pytest.mark.parametrize(
    ("rate", "expected"), [(25, range(250)), (12.5, range(0, 250, 2)), (50, [i // 2 for i in range(500)])]
)
def test_a_rate_samples_the_displayed_frames(bikes, clips_folder, rate, expected):
    frames = read_frames(clips_folder / "bikes.mp4", rate=rate)
    assert all(torch.equal(frame, bikes[index]) for frame, index in zip(frames, expected, strict=True))


@pytest.mark.parametrize("start", [Fraction(1, 25), 1.2, 5.0, 7.48, 9.88])
def test_seeking_equals_decoding_from_the_start(bikes, clips_folder, start):
    path, first = clips_folder / "bikes.mp4", round(start * 25)
    for options in ({}, {"rate": 25}, {"stride": 3}):
        frames = islice(read_frames(path, start=start, **options), 6)
        expected = bikes[first :: options.get("stride", 1)][:6]
        assert all(torch.equal(a, b) for a, b in zip(frames, expected, strict=True))
    assert len(list(read_frames(path, start=start, stop=start + 0.2))) == min(5, 250 - first)
    assert len(list(read_frames(path, start=start, stop=start + 0.2, rate=50))) == min(10, 500 - 2 * first)


def test_a_late_start_decodes_from_the_nearest_keyframe(clips_folder, monkeypatch):
    decoded, decode = [], reading._decode

    def count(opened):
        for frame in decode(opened):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(reading, "_decode", count)
    frames = read_frames(clips_folder / "bikes.mp4", start=8.0, threads=1)
    next(frames)
    assert len(decoded) < 20  # the keyframe is frame 187, the requested frame is frame 200
    next(frames)
    frames.close()
    assert len(decoded) < 22


def test_no_frames_after_the_end(clips_folder):
    assert list(read_frames(clips_folder / "bikes.mp4", start=10)) == []
    assert list(read_frames(clips_folder / "bikes.mp4", start=99, rate=5)) == []


@example(gaps=[1, 1, 1, 1, 230], rate=NTSC, start=0, container=("a.mp4", "libx264", "yuv420p"))
@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gaps=st.lists(st.integers(1, 400), min_size=1, max_size=12),
    rate=st.sampled_from([Fraction(7), Fraction(25), NTSC, Fraction(3, 2)]),
    start=st.integers(0, 2000),
    container=st.sampled_from([("a.mkv", "ffv1", "bgr0"), ("a.mp4", "libx264", "yuv420p")]),
)
def test_a_variable_frame_rate_is_sampled_by_timestamps(
    tmp_path, encode_video, gray_frames, gaps, rate, start, container
):
    name, codec, pixel_format = container
    pts = np.cumsum([0, *gaps]).tolist()
    path = encode_video(tmp_path / name, gray_frames(len(pts)), codec=codec, pixel_format=pixel_format, pts=pts)
    with av.open(str(path)) as opened:
        tolerance = (
            min(1000 * opened.streams.video[0].time_base, 1) / 2
        )  # of timestamps in ms, rounded to the time base
    begin = Fraction(start, 1000)
    sampled = indices(read_frames(path, rate=rate, start=begin))
    times = [1000 * (begin + k / rate) for k in range(10**4)]
    expected = [
        max(index for index, timestamp in enumerate(pts) if timestamp <= time + tolerance)
        for time in times
        if time < pts[-1]
    ]
    # No next frame ends the last one: it lasts as long as the file says.
    assert sampled[: len(expected)] == expected
    assert set(sampled[len(expected) :]) <= {len(pts) - 1}
    assert indices(read_frames(path)) == list(range(len(pts)))


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4", "a.webm"])
def test_rounded_timestamps_neither_drop_nor_repeat_a_frame(tmp_path, encode_video, gray_frames, name):
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    path = encode_video(tmp_path / name, gray_frames(30), NTSC, codec)
    for rate in (NTSC, 29.97002997, 29.97):
        assert indices(read_frames(path, rate=rate)) == list(range(30))


@pytest.mark.parametrize("start", [0.0, 0.4, 1.0, 1.9])
def test_frames_are_right_in_a_format_that_seeks_inexactly(tmp_path, encode_video, gray_frames, start):
    path = encode_video(tmp_path / "a.ts", gray_frames(30), Fraction(15))
    assert indices(read_frames(path, start=start, rate=15)) == list(range(round(start * 15), 30))


@pytest.mark.parametrize("kind", ["vob", "mpegts"])
def test_frames_after_a_seek_equal_sequential_frames_in_formats_with_sparse_timestamps(tmp_path, kind):
    path, noise = tmp_path / f"a.{kind}", np.random.default_rng(0).integers(0, 60, (64, 64, 3)).astype(np.uint8)
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream("mpeg2video", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt, stream.gop_size, stream.bit_rate, stream.codec_context.max_b_frames = (
            "yuv420p",
            12,
            4_000_000,
            2,
        )
        for index in range(120):
            image = noise.copy()
            for bit in range(8):
                image[:, 8 * bit : 8 * bit + 8] = 255 if index >> bit & 1 else image[:, 8 * bit : 8 * bit + 8]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())
    sequential = list(read_frames(path, threads=1))
    assert len(sequential) == 120
    assert all(torch.equal(a, b) for a, b in zip(read_frames(path, rate=25, threads=1), sequential, strict=True))
    for first in (60, *range(80, 87)):  # the keyframe 84 of the program stream has the timestamp of frame 82
        after_seek = list(islice(read_frames(path, start=Fraction(first, 25), threads=1), 3))
        assert all(torch.equal(a, b) for a, b in zip(after_seek, sequential[first:], strict=False)), first


@pytest.mark.parametrize(("curve", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_refused_with_the_command_that_converts_it(tmp_path, curve, name):
    path = tmp_path / "hdr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p10le"
        stream.codec_context.color_trc, stream.codec_context.color_primaries, stream.codec_context.colorspace = (
            curve,
            9,
            9,
        )
        frame = av.VideoFrame.from_ndarray(np.full((16, 32, 3), 128, np.uint8), "rgb24")
        container.mux([*stream.encode(frame.reformat(format="yuv420p10le")), *stream.encode()])
    for read in (probe, lambda video: list(read_frames(video)), lambda video: list(read_frames(video, rate=5))):
        with pytest.raises(UnreadableVideoError, match=rf"hdr\.mp4 .*HDR \({name}\).*`ffmpeg -i") as caught:
            read(path)
    assert "ffmpeg" in pickle.loads(pickle.dumps(caught.value)).summary  # it reaches the log of the loader


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_and_mirroring_are_applied(tmp_path, encode_video, degrees, mirrored):
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :24] = (250, 40, 40)
    image[16:, :24] = (40, 250, 40)
    image[:16, 24:] = (40, 40, 250)
    path = encode_video(tmp_path / "a.mp4", [image] * 2, rotation=(degrees, mirrored, False))
    expected = torch.rot90(torch.from_numpy(image), degrees // 90)
    expected = (expected.flip(1) if mirrored else expected).permute(2, 0, 1)
    first = next(read_frames(path))
    assert probe(path).size == tuple(first.shape[1:]) == tuple(expected.shape[1:])
    samples = (slice(None), slice(2, -2, 4), slice(2, -2, 4))
    # Compression changes a value by a few levels, a wrong orientation most of them by 210.
    assert (first[samples].float() - expected[samples].float()).abs().median() < 16


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"), [("a.webm", "libvpx-vp9", "yuv420p"), ("a.mkv", "ffv1", "bgr0")]
)
def test_odd_sizes_are_read_completely(tmp_path, encode_video, gray_frames, name, codec, pixel_format):
    path = encode_video(tmp_path / name, gray_frames(3, (17, 23)), codec=codec, pixel_format=pixel_format)
    assert probe(path).size == (17, 23)
    assert [tuple(frame.shape) for frame in read_frames(path)] == [(3, 17, 23)] * 3


@pytest.mark.parametrize("threads", [1, 16])
@pytest.mark.parametrize("fault", ["truncated", "damaged"])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_a_truncated_or_damaged_file_yields_its_frames_and_then_an_error(tmp_path, encode_video, name, fault, threads):
    noise = np.random.default_rng(0).integers(0, 255, (32, 32, 3)).astype(np.uint8)
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    options = {"movflags": "+faststart"} if name == "a.mp4" else {}
    path = encode_video(tmp_path / name, [np.roll(noise, i, 1) for i in range(120)], codec=codec, **options)
    data = path.read_bytes()
    middle, rest = len(data) * 6 // 10, len(data) * 8 // 10
    path.write_bytes(data[:middle] + (b"" if fault == "truncated" else bytes(rest - middle) + data[rest:]))
    # More threads raise the error earlier: up to one frame per thread is lost inside the decoder.
    assert len(list(islice(read_frames(path, threads=threads), 10))) == 10
    frames = []
    with pytest.raises(UnreadableVideoError, match=r"truncated after|Invalid data|damaged") as caught:
        frames.extend(read_frames(path, threads=threads))
    assert 10 < len(frames) < 110
    assert "Errno" not in caught.value.reason


def test_invalid_arguments_give_one_sentence(tmp_path):
    path = tmp_path / "a.mp4"
    for call, message in [
        (lambda: read_frames(path, rate=-1), "rate is -1"),
        (lambda: read_frames(path, start=-1), "start is -1"),
        (lambda: read_frames(path, stride=0), "stride is 0"),
    ]:
        with pytest.raises(SmaltiError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
