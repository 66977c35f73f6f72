"""Contrast, saturation and color cast of reconstructions."""

import pytest
import torch

from smalti.trainers.health.colors import Colors


def measure(original, reconstruction):
    colors = Colors()
    colors.update(original, reconstruction)
    return colors


def test_a_perfect_reconstruction_has_all_of_contrast_and_saturation_and_no_cast(photo):
    colors = measure(photo, photo)
    assert colors.contrast_ratio == colors.saturation_ratio == pytest.approx(1.0)
    assert colors.mean_error == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("dims", [4, 5])
def test_gray_and_flat_pictures_are_recognized(photo, dims):
    original = photo if dims == 4 else torch.stack([photo, photo.flip(-1)], dim=2)
    gray = original.mean(1, keepdim=True).expand_as(original)
    assert measure(original, gray).saturation_ratio == pytest.approx(0, abs=1e-5)
    assert measure(original, gray).contrast_ratio > 0.8
    flat = original.flatten(2).mean(2).view(1, 3, *[1] * (dims - 2)).expand_as(original)
    assert measure(original, flat).contrast_ratio == pytest.approx(0, abs=1e-5)
    assert measure(gray, gray).saturation_ratio is None  # gray originals say nothing about saturation
    assert measure(flat, flat).contrast_ratio is None


def test_a_cast_is_the_mean_error_of_each_color_in_levels(photo):
    shift = torch.tensor([0.0, 0.1, -0.05]).view(1, 3, 1, 1)
    assert measure(photo, photo + shift).mean_error == pytest.approx([0.0, 12.75, -6.375], abs=1e-3)


def test_processes_are_merged(photo):
    parts = [photo[..., :32], photo[..., 32:64], photo[..., 64:]]
    whole = Colors()
    for part in parts:
        whole.update(part, 0.5 * part)
    one, other = measure(parts[0], 0.5 * parts[0]), Colors()
    for part in parts[1:]:
        other.update(part, 0.5 * part)
    one.merge(other)
    assert one.samples == whole.samples == 3
    assert one.contrast == pytest.approx(whole.contrast)
    assert one.mean_error == pytest.approx(whole.mean_error)
