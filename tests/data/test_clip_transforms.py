"""Transforms of videos to clips: which frames are used, and that all of them get the same crop."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

from smalti.data import (
    Clips,
    EvaluationTransform,
    TrainingTransform,
    VideoEvaluationTransform,
    VideoSegment,
    VideoTrainingTransform,
)
from smalti.errors import SmaltiError
from smalti.video import read_frames, reading


def frame_indices(pixels: torch.Tensor) -> list[int]:
    """Return the frame index of each frame of a clip (3, T, H, W) of `make_video`, from its gray level."""
    return (((pixels.mean(dim=(0, 2, 3)) + 1) * 127.5).round().int() // 5).tolist()


@pytest.mark.parametrize("frames", [1, 5, 24])
def test_a_training_clip_has_consecutive_frames_from_a_random_start(make_video, frames):
    segment = VideoSegment("a.mkv", make_video())
    starts = set()
    torch.manual_seed(0)
    for _ in range(30):
        clip = VideoTrainingTransform(frames=frames, size=8)(segment)
        assert clip.pixels.shape == (3, frames, 8, 8)
        first = frame_indices(clip.pixels)[0]
        assert frame_indices(clip.pixels) == list(range(first, first + frames))
        name, _, start = clip.name.partition("@")
        assert name == "a.mkv"
        assert first - 1 < float(start) * 12 <= first + 1e-2
        starts.add(first)
    assert len(starts) == 1 if frames == 24 else len(starts) > 8
    assert frames == 24 or {min(starts) <= 2, max(starts) >= 22 - frames} == {True}


def test_rate_and_stride_select_the_frames(make_video):
    segment = VideoSegment("a.mkv", make_video())

    def steps(indices: list[int]) -> set[int]:
        return {b - a for a, b in pairwise(indices)}

    for options, expected in [
        ({"rate": 6}, [0, 2, 4, 6, 8]),
        ({"rate": 24}, [0, 0, 1, 1, 2]),
        ({"stride": 3}, [0, 3, 6, 9, 12]),
        ({"rate": 6, "stride": 2}, [0, 4, 8, 12, 16]),
    ]:
        clip = VideoEvaluationTransform(5, **options, resize=8, crop=8)(segment)
        assert frame_indices(clip.pixels) == expected
        random_indices = frame_indices(VideoTrainingTransform(5, **options, size=8)(segment).pixels)
        assert steps(random_indices) <= steps(expected)


def test_all_frames_of_a_clip_get_the_same_crop_and_flip():
    photo = torch.stack([torch.arange(64).expand(48, 64)] * 3).to(torch.uint8) * 3
    frames = [to_pil_image(photo)] * 4
    torch.manual_seed(1)
    crops = set()
    for _ in range(8):
        transform = TrainingTransform(16).draw(frames[0].size)
        first, *others = map(transform, frames)
        assert all(torch.equal(first, other) for other in others)
        crops.add(first.numpy().tobytes())
    assert len(crops) == 8


def test_an_evaluation_clip_equals_its_frames_transformed_as_images():
    clips = Clips("validation")
    transform = VideoEvaluationTransform(3, rate=5, resize=48, crop=40)
    image_transform = EvaluationTransform(48, 40)
    for index in (1, 4):
        segment = clips[index]
        clip = transform(segment)
        frames = list(read_frames(segment.video, rate=5, start=segment.start))[:3]
        assert torch.equal(clip.pixels, torch.stack([image_transform(to_pil_image(frame)) for frame in frames], dim=1))
        assert clip.name == f"{segment.name}@{float(segment.start):.3f}"


def test_a_segment_ends_at_its_stop_time(make_video):
    segment = VideoSegment("a.mkv", make_video(), Fraction(1, 2), Fraction(1))
    assert frame_indices(VideoEvaluationTransform(6, resize=8, crop=8)(segment).pixels) == [6, 7, 8, 9, 10, 11]
    for _ in range(5):
        assert set(frame_indices(VideoTrainingTransform(3, size=8)(segment).pixels)) <= set(range(6, 12))
    with pytest.raises(SmaltiError, match=r"has 6 frames from 0\.50 s on, but 7 are needed"):
        VideoTrainingTransform(7, size=8)(segment)


def test_a_clip_beyond_the_actual_end_of_a_file_is_cut_from_its_start(make_video, monkeypatch):
    from smalti.data import clip_transforms as module

    real = module.probe
    monkeypatch.setattr(module, "probe", lambda video, threads: replace(real(video, threads), duration=Fraction(6)))
    torch.manual_seed(0)
    segment = VideoSegment("a", make_video())
    starts = {frame_indices(VideoTrainingTransform(5, size=8)(segment).pixels)[0] for _ in range(20)}
    assert 0 in starts
    assert max(starts) <= 19


def test_the_error_for_a_short_video_states_rate_and_stride(make_video):
    segment = VideoSegment("a.mkv", make_video())
    for options, message in [
        ({"rate": 2.5}, r"has 5 frames at 2.5 frames per second, but 17 are needed"),
        ({"stride": 2}, r"has 12 frames with a stride of 2, but 17 are needed"),
    ]:
        for transform in (VideoEvaluationTransform(17, **options), VideoTrainingTransform(17, **options)):
            with pytest.raises(SmaltiError, match=message):
                transform(segment)


def test_arguments_out_of_range_raise_an_error():
    for options, message in [
        ({"frames": 0}, "frames is 0"),
        ({"stride": 0}, "stride is 0"),
        ({"rate": 0}, "rate is 0"),
    ]:
        for transform in (VideoTrainingTransform, VideoEvaluationTransform):
            with pytest.raises(SmaltiError, match=message):
                transform(**options)


def test_videos_are_opened_with_one_thread(make_video, monkeypatch):
    """The workers of a loader share the cores: neither the properties nor the frames are read with a thread per core."""
    threads = []
    open_video = reading.open_video

    def record(video, number=0):
        threads.append(number)
        return open_video(video, number)

    monkeypatch.setattr(reading, "open_video", record)
    segment = VideoSegment("a.mkv", make_video())
    VideoTrainingTransform(frames=3, size=8)(segment)
    VideoEvaluationTransform(3, None, 1, 8, 8)(segment)
    assert len(threads) >= 3
    assert set(threads) == {1}
