"""Which samples are kept to look at, whatever their order and however many processes share them."""

import random

import pytest
import torch

from smalti.eval import examples as module
from smalti.eval.examples import Candidate, ExampleSelection, copy_part, measure_detail
from smalti.eval.results import Example

EMPTY = torch.zeros(3, 1, 1, dtype=torch.uint8)


def candidates(qualities=True):
    draw = random.Random(0)
    return [Candidate(f"{i}.png", draw.uniform(10, 40) if qualities else None, draw.random()) for i in range(200)]


def select(candidates, size=18):
    selection = ExampleSelection(size)
    for candidate in candidates:
        selection.add(candidate, lambda name=candidate.name: Example(name, EMPTY, EMPTY))
    return selection


def names(selection):
    return [example.name for example in selection.ranked()]


def test_the_worst_and_the_best_are_kept_in_order():
    offered = candidates()
    kept = names(select(offered))
    ranked = [candidate.name for candidate in sorted(offered, key=lambda candidate: candidate.quality)]
    assert (kept[:3], kept[-3:]) == (ranked[:3], ranked[-3:])
    assert kept == [name for name in ranked if name in kept]
    assert len(kept) <= 18


def test_any_order_and_any_number_of_processes_keep_the_same():
    offered = candidates()
    expected = names(select(offered))
    random.Random(1).shuffle(offered)
    assert names(select(offered)) == expected
    parts = [select(offered[start::3]) for start in range(3)]
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    assert names(parts[0]) == expected


def test_reports_of_two_tokenizers_share_samples():
    """The qualities differ, the details and names do not."""
    first = candidates()
    second = [Candidate(c.name, 50 - c.quality, c.detail) for c in first]
    shared = set(names(select(first))) & set(names(select(second)))
    assert len(shared) >= 12  # 3 detailed, 3 smooth, 6 drawn; the worst of one are the best of the other


def test_without_values_per_sample_names_are_sorted():
    kept = names(select(candidates(qualities=False)))
    assert kept == sorted(kept)
    assert 6 <= len(kept) <= 12
    assert names(select(candidates(), size=0)) == []


def test_examples_that_are_not_kept_are_not_built():
    built = []
    selection = ExampleSelection(6)
    for candidate in candidates():
        selection.add(candidate, lambda name=candidate.name: built.append(name) or Example(name, EMPTY, EMPTY))
    assert len(built) < 60
    assert len(selection.kept) <= 6


def test_detail_is_the_variance_within_blocks(photos):
    assert measure_detail(torch.full((3, 16, 17), 7, dtype=torch.uint8)) == 0
    checkerboard = (torch.arange(16)[:, None] + torch.arange(16)) % 2 * 255
    assert measure_detail(checkerboard.expand(3, 16, 16).to(torch.uint8)) == pytest.approx(127.5**2)
    blurred = torch.nn.functional.avg_pool2d(photos[:1].float(), 3, stride=1)[0].to(torch.uint8)
    assert 0 < measure_detail(blurred) < measure_detail(photos[0])
    assert measure_detail(photos[0][:, None]) == measure_detail(photos[0])


def test_large_samples_keep_their_center_and_first_frames(monkeypatch, clips):
    monkeypatch.setattr(module, "MAX_SIDE", 40)
    monkeypatch.setattr(module, "MAX_CLIP_BYTES", 3 * 40 * 40 * 2 + 1)
    part = copy_part(clips[0])
    assert torch.equal(part, clips[0][:, :2, 12:52, 12:52])
    monkeypatch.setattr(module, "MAX_CLIP_BYTES", 1)
    assert copy_part(clips[0]).shape == (3, 1, 40, 40)
