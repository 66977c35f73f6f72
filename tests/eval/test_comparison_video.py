"""The video of examples: originals and reconstructions side by side."""

import torch

from smalti.eval.comparison_video import comparison_video
from smalti.eval.results import Example


def test_the_video_shows_clips_side_by_side_on_gray(clips, add_noise):
    first, second = (Example(f"clip {i}", clips[i], add_noise(clips[i], 0.1)) for i in range(2))
    small = Example("small", *(clip[:, :2, :32, :48] for clip in (first.original, first.reconstruction)))
    frames = list(comparison_video([small, second]))
    assert [frame.shape for frame in frames] == [(3, 64, 128)] * 11
    assert torch.equal(frames[0][:, 16:48, 8:56], small.original[:, 0])
    assert torch.equal(frames[0][:, 16:48, 72:120], small.reconstruction[:, 0])
    assert (frames[0][:, :16] == 128).all()
    assert (frames[0][:, :, :8] == 128).all()
    assert torch.equal(frames[2], torch.cat([second.original[:, 0], second.reconstruction[:, 0]], 2))
