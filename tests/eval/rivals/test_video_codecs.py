"""Video codecs: bytes within the budget, streams that decode to what is measured, and encoders that are not installed."""

import io

import pytest
import torch

from smalti.errors import MissingExtraError
from smalti.eval.rivals import video_codecs
from smalti.eval.rivals.base import sample_psnr
from smalti.eval.rivals.video_codecs import H264, HEVC

CODECS = [H264(), HEVC()]


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_no_budget_is_exceeded_and_more_bits_are_better(codec, clips):
    clip = clips[0, :, :5, :64, :63]  # an odd width
    bits = 0.5 * clip.numel() / 3
    approximations = codec.approximate(clip, bits)
    assert {1.0, 2.0} <= approximations.keys()
    for multiple, approximation in approximations.items():
        assert 0 < approximation.bits <= multiple * bits
        assert approximation.sample.shape == clip.shape
    decibels = [sample_psnr(clip, approximations[multiple].sample) for multiple in sorted(approximations)]
    assert decibels == sorted(decibels)
    assert decibels[-1] > 28


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
def test_streams_decode_to_what_is_measured_in_the_order_of_the_frames(codec, clips):
    import av

    clip = clips[1]
    file = codec.encode(clip, 80)
    assert all(codec.encode(clip, 80) == file for _ in range(2))
    with av.open(io.BytesIO(file.data)) as container:
        assert container.streams.video[0].codec_context.name == codec.name
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    decoded = codec.decode(file.data)
    assert torch.equal(decoded, torch.stack([torch.from_numpy(frame) for frame in frames]).permute(3, 0, 1, 2))
    decoded = decoded[..., :64, :64]
    assert sample_psnr(clip, decoded) > 32
    # Frames in another order would be far from the original.
    assert sample_psnr(clip, decoded.flip(1)) < 30


@pytest.mark.parametrize(("codec", "overhead"), [(CODECS[0], (600, 900)), (CODECS[1], (40, 150))], ids=("h264", "hevc"))
def test_headers_are_not_counted(codec, overhead, clips):
    """x264 writes its settings into each stream, which takes more bytes than a short clip."""
    file = codec.encode(clips[0], 60)
    assert overhead[0] < len(file.data) - file.counted_bytes < overhead[1]


def test_missing_encoders_are_stated(monkeypatch):
    class WithoutEncoders:
        codecs_available = frozenset(("h264", "hevc"))

    monkeypatch.setattr(video_codecs, "import_av", WithoutEncoders)
    assert "has no libx265" in HEVC().find_obstacle()

    def missing():
        raise MissingExtraError("av", "video", "Videos")

    monkeypatch.setattr(video_codecs, "import_av", missing)
    assert "Videos need av, which is not installed" in H264().find_obstacle()
