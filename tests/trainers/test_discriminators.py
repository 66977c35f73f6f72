"""Discriminators: shapes, motion, spectral norm, and invalid sizes."""

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.trainers import GANLoss, PatchDiscriminator, TemporalDiscriminator


def test_default_discriminator_has_the_published_number_of_parameters():
    assert sum(p.numel() for p in PatchDiscriminator(64, 3).parameters()) == 2_765_633


@pytest.mark.parametrize("frames", [1, 2, 5, 17])
def test_clips_of_any_length_have_logits(frames):
    x = torch.rand(2, 3, frames, 16, 20)
    assert TemporalDiscriminator(4, 2)(x).shape == (2, 1, -(-frames // 4), 2, 3)
    assert PatchDiscriminator(4, 2)(x).shape == (2 * frames, 1, 2, 3)


def test_an_image_is_a_clip_of_one_frame():
    discriminator, x = TemporalDiscriminator(4, 1).eval(), torch.rand(2, 3, 16, 16)
    assert torch.equal(discriminator(x), discriminator(x.unsqueeze(2)))


def test_frames_are_images_to_the_patch_discriminator():
    discriminator, x = PatchDiscriminator(4, 1).eval().double(), torch.rand(2, 3, 4, 16, 16, dtype=torch.float64)
    by_frame = torch.stack([discriminator(frame) for frame in x.unbind(2)], dim=1)
    torch.testing.assert_close(discriminator(x).unflatten(0, (2, 4)), by_frame)


def test_only_the_temporal_discriminator_sees_motion():
    """The mean logit of the patch discriminator does not depend on the order of the frames."""
    torch.manual_seed(0)
    x = torch.rand(1, 3, 8, 16, 16, dtype=torch.float64)
    shuffled = x[:, :, torch.randperm(8, generator=torch.Generator().manual_seed(0))]
    patch, temporal = (kind(4, 1).eval().double() for kind in (PatchDiscriminator, TemporalDiscriminator))
    torch.testing.assert_close(patch(x).mean(), patch(shuffled).mean())
    assert (temporal(x).mean() - temporal(shuffled).mean()).abs() > 1e-4


def test_spectral_norms_are_one():
    torch.manual_seed(0)
    discriminator = TemporalDiscriminator(8, 2)
    with torch.no_grad():
        for conv in discriminator.body[::2]:
            conv.parametrizations.weight.original.mul_(7)
        for _ in range(100):  # one step of power iteration each
            discriminator(torch.rand(1, 3, 1, 12, 12))
        for conv in discriminator.eval().body[::2]:
            assert torch.linalg.matrix_norm(conv.weight.flatten(1), 2) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("kind", [PatchDiscriminator, TemporalDiscriminator])
def test_small_crops_are_refused(kind):
    discriminator = kind(4, 2).eval()
    assert discriminator(torch.rand(1, 3, 12, 12)).numel() == 1
    with pytest.raises(SmaltiError, match="at least 12 x 12 pixels, not 11 x 40"):
        discriminator(torch.rand(1, 3, 11, 40))
    with pytest.raises(SmaltiError, match="at least 1"):
        kind(4, 0)


@pytest.mark.parametrize("kind", [PatchDiscriminator, TemporalDiscriminator])
def test_autocast_gives_float32_losses_and_gradients(kind):
    gan = GANLoss(kind(4, 1))
    x = torch.rand(2, 3, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        losses = gan(F.avg_pool3d(x, 3, 1, 1), x)
    assert all(loss.dtype == torch.float32 for loss in losses.values())
    losses["discriminator"].backward()
    assert all(p.grad.isfinite().all() and p.grad.dtype == torch.float32 for p in gan.parameters())
