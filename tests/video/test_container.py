"""Errors of one sentence for files that cannot be opened, and for a missing PyAV."""

import io
import pickle
import sys

import av
import numpy as np
import pytest
import torch
from av.stream import Disposition

from smalti.errors import MissingExtraError
from smalti.video import UnreadableVideoError, probe, read_frames, write_video


def write_audio(path, cover=None):
    """Write a file with audio only, possibly with a cover picture (H, W, 3) uint8."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16000)
        if cover is not None:
            cover_stream = container.add_stream("png", rate=1)
            cover_stream.height, cover_stream.width = cover.shape[:2]
            cover_stream.pix_fmt = "rgb24"
            cover_stream.disposition = Disposition.attached_pic
            picture = av.VideoFrame.from_ndarray(cover, "rgb24")
            container.mux([*cover_stream.encode(picture), *cover_stream.encode()])
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_unreadable_files_give_one_sentence(tmp_path, encode_video, gray_frames):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("not a video at all, but text in a file with a misleading name" * 20)
    write_audio(tmp_path / "audio.mp4")
    write_audio(tmp_path / "cover.m4a", cover=gray_frames(1)[0])
    complete = encode_video(tmp_path / "complete.mp4", gray_frames(30)).read_bytes()
    (tmp_path / "no-index.mp4").write_bytes(complete[: len(complete) // 2])
    for name, reason in {
        "missing.mp4": "no such file",
        "empty.mp4": "Invalid data",
        "text.mp4": "Invalid data",
        "audio.mp4": "it has no video stream",
        "cover.m4a": "it has no video stream",
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


def test_the_error_without_pyav_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "av", None)
    frame = torch.zeros(3, 16, 16, dtype=torch.uint8)
    for call in (
        lambda: probe(tmp_path),
        lambda: next(read_frames(io.BytesIO().getvalue())),
        lambda: write_video(tmp_path / "a.mp4", [frame], 25),
    ):
        with pytest.raises(MissingExtraError, match=r"av.*\[video\]"):
            call()
