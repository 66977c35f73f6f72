"""Written videos are H.264 of the right frame rate, size and colors, and files are written atomically."""

import weakref
from fractions import Fraction
from itertools import islice

import av
import pytest
import torch

from smalti.errors import SmaltiError
from smalti.video import probe, read_frames, write_video


@pytest.fixture(scope="module")
def bikes(clips_folder):
    """The first 12 frames of a real clip."""
    return list(islice(read_frames(clips_folder / "bikes.mp4"), 12))


def psnr(a, b):
    return float(10 * torch.log10(255**2 / (a.float() - b.float()).square().mean()))


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), 12.5, 29.97, Fraction(1), 60])
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_frame_rate_is_exact_and_pixels_are_nearly_the_same(tmp_path, bikes, rate, suffix):
    path = tmp_path / f"folder/clip{suffix}"
    clip = [frame[:, :64, :96] for frame in bikes]
    write_video(path, iter(clip), rate)
    info = probe(path)
    exact = Fraction(rate).limit_denominator(1001)
    assert info.size == (64, 96)
    assert info.rate == exact
    decoded = list(read_frames(path))
    assert len(decoded) == len(clip) == len(list(read_frames(path, rate=exact)))
    assert min(map(psnr, clip, decoded)) > 36
    assert list(path.parent.iterdir()) == [path]


def test_mp4_has_its_index_in_front_and_keeps_colors(tmp_path):
    colors = torch.tensor([[250, 10, 10], [10, 250, 10], [10, 10, 250], [120, 130, 140]], dtype=torch.uint8)
    clip = [color[:, None, None].expand(3, 32, 48) for color in colors]
    path = tmp_path / "a.mp4"
    write_video(path, clip, 10)
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt, context.colorspace) == ("h264", "yuv420p", 1)
    for expected, decoded in zip(clip, read_frames(path), strict=True):
        # Rounding to 8-bit YUV and compression change a value by a few levels, a wrong color matrix by more than 10.
        assert (expected.int() - decoded.int()).abs().max() <= 6


def test_crf_trades_size_for_quality(tmp_path, bikes):
    clip = [frame[:, :64, :96] for frame in bikes[:5]]
    sizes, quality = [], []
    for crf in (0, 12, 40):
        write_video(tmp_path / "a.mp4", clip, 25, crf=crf)
        sizes.append((tmp_path / "a.mp4").stat().st_size)
        quality.append(min(map(psnr, clip, read_frames(tmp_path / "a.mp4"))))
    assert sizes == sorted(sizes, reverse=True)
    assert quality == sorted(quality, reverse=True)


@pytest.mark.parametrize("size", [(33, 47), (32, 47), (33, 46), (1, 1), (2, 2)])
def test_the_last_row_and_column_of_an_odd_size_are_repeated(tmp_path, bikes, size):
    height, width = size
    clip = [frame[:, 100 : 100 + height, 300 : 300 + width] for frame in bikes[:3]]
    write_video(tmp_path / "a.mp4", clip, 25)
    decoded = list(read_frames(tmp_path / "a.mp4"))
    assert [tuple(frame.shape) for frame in decoded] == [(3, height + height % 2, width + width % 2)] * 3
    padded = torch.nn.functional.pad(clip[0].float(), (0, width % 2, 0, height % 2), mode="replicate")
    assert psnr(padded, decoded[0]) > 34


def test_frames_are_not_kept_in_memory(tmp_path):
    references: list[weakref.ref] = []
    most_alive = 0

    def frames():
        nonlocal most_alive
        for index in range(60):
            frame = torch.full((3, 32, 32), index, dtype=torch.uint8)
            references.append(weakref.ref(frame))
            most_alive = max(most_alive, sum(reference() is not None for reference in references))
            yield frame
            del frame

    write_video(tmp_path / "a.mp4", frames(), 25)
    assert most_alive <= 3


def test_a_failed_write_keeps_the_old_file(tmp_path):
    def frames():
        yield torch.zeros(3, 16, 16, dtype=torch.uint8)
        raise RuntimeError("interrupted")

    path = tmp_path / "a.mp4"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="interrupted"):
        write_video(path, frames(), 25)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_invalid_arguments_give_one_sentence_and_write_nothing(tmp_path):
    frame = torch.zeros(3, 16, 16, dtype=torch.uint8)
    path = tmp_path / "a.mp4"
    for call, message in [
        (lambda: write_video(path, [], 25), "no frames to write"),
        (lambda: write_video(tmp_path / "a.gif", [frame], 25), r"a\.gif cannot be written .*\.mp4"),
        (lambda: write_video(path, [frame], 25, crf=52), "crf is 52"),
        (lambda: write_video(path, [frame], 0), "rate is 0"),
        (lambda: write_video(path, [frame], float("inf")), "rate is inf"),
        (lambda: write_video(path, [frame], float("nan")), "rate is nan"),
    ]:
        with pytest.raises(SmaltiError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)
    for frames in ([frame, frame[:, :8]], [frame.float()], [frame[0]]):
        with pytest.raises(ValueError, match=r"Expected frames|unpack"):
            write_video(path, frames, 25)
    assert list(tmp_path.iterdir()) == []
