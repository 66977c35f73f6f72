"""GAN losses: their formulas, and the parameters that their gradients reach."""

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.trainers import Discriminator, GANLoss, PatchDiscriminator, ReconstructionGANLoss, TemporalDiscriminator
from smalti.trainers.gan import concatenate_pair, discriminator_loss, generator_loss


def test_generator_loss_reaches_the_reconstruction_only():
    gan, y = GANLoss(PatchDiscriminator(8, 1)), torch.rand(2, 3, 32, 32, requires_grad=True)
    gan.generator_loss(y, torch.rand_like(y)).backward()
    assert y.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in gan.parameters())


def test_discriminator_losses_reach_the_discriminator_only():
    gan, y = GANLoss(PatchDiscriminator(8, 1)), torch.rand(2, 3, 32, 32, requires_grad=True)
    sum(gan(y, torch.rand(2, 3, 32, 32)).values()).backward()
    assert y.grad is None
    assert all(p.grad is not None for p in gan.parameters())


def test_losses_equal_the_formulas():
    real, fake = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[0.5, -1.5]]]])
    assert generator_loss(fake, "hinge") == 0.5
    assert generator_loss(fake, "non_saturating") == F.softplus(torch.tensor(0.5))
    assert discriminator_loss(real, fake, "hinge") == (0.5 + 0.75) / 2
    expected = F.softplus(-real).mean() / 2 + F.softplus(fake).mean() / 2
    torch.testing.assert_close(discriminator_loss(real, fake, "non_saturating"), expected)


@pytest.fixture
def pairs():
    """Return a function that draws crops of a real photo, without and with the checkerboard artifacts of a bad decoder.

    Crops are images, or clips of a moving window.
    """
    from skimage import data

    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 127.5 - 1
    checkered = image + 0.3 * (-1.0) ** (torch.arange(512) + torch.arange(512)[:, None])

    def draw(count, frames=None):
        corners = (2 * torch.randint(0, 240, (count, 2))).tolist()
        steps = range(0, 2 * (frames or 1), 2)
        both = (
            torch.stack([
                torch.stack([picture[:, i : i + 24, j + step : j + step + 24] for step in steps], dim=1)
                for i, j in corners
            ])
            for picture in (image, checkered)
        )  # fmt: skip
        return tuple(clips if frames else clips.squeeze(2) for clips in both)

    return draw


@pytest.mark.parametrize(
    ("discriminator", "frames"),
    [(PatchDiscriminator, None), (PatchDiscriminator, 2), (TemporalDiscriminator, 2)],
)
def test_the_sign_of_the_logits_depends_on_the_order(pairs, discriminator, frames):
    """After a few steps, the discriminator knows which of the two is the original. The tokenizer's loss is then high."""
    torch.manual_seed(0)
    gan = ReconstructionGANLoss(discriminator(16, 1, in_channels=6), lecam_decay=0.9)
    optimizer = torch.optim.Adam(gan.parameters(), lr=2e-3, betas=(0.5, 0.9))
    for _ in range(60):
        original, reconstruction = pairs(16, frames)
        loss = gan(reconstruction, original)["discriminator"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # In training mode, batch norm would subtract what all samples have in common, which is the order here.
    gan.eval()
    x, y = pairs(32, frames)
    yes = torch.ones(32, dtype=torch.bool)
    with torch.no_grad():
        ordered, swapped = (
            gan.discriminator(concatenate_pair(y, x, first)).flatten(1).mean(1) for first in (yes, ~yes)
        )
        assert (ordered > 0).float().mean() > 0.9
        assert (swapped < 0).float().mean() > 0.9
        assert gan.generator_loss(y, x) > 2 * gan.generator_loss(x, x)


@pytest.mark.parametrize("frames", [None, 3])
def test_each_sample_has_its_own_sign(frames):
    """Originals are 1 and reconstructions 0. A perfect discriminator detects the order in images and clips."""

    class PerfectDiscriminator(Discriminator):
        in_channels = 6

        def forward(self, both):
            images = both if both.ndim == 4 else both.transpose(1, 2).flatten(0, 1)
            return images[:, :3].mean((1, 2, 3), keepdim=True) - images[:, 3:].mean((1, 2, 3), keepdim=True)

    shape = (8, 3, *([frames] if frames else []), 4, 4)
    x, y = torch.ones(shape), torch.zeros(shape)
    gan = ReconstructionGANLoss(PerfectDiscriminator(), discriminator_loss="hinge", generator_loss="hinge")
    assert gan(y, x)["discriminator"] == 0  # relu(1 - 1): every logit is correct
    assert gan.generator_loss(y, x) == 1


def test_both_orders_are_drawn(pairs):
    torch.manual_seed(0)
    x, y = pairs(64)
    seen = []
    gan = ReconstructionGANLoss(PatchDiscriminator(4, 1, in_channels=6))
    gan.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    gan(y, x)
    original_first = (seen[0][:, :3] == x).flatten(1).all(1)
    assert 16 < original_first.sum() < 48
    assert torch.equal(seen[0], concatenate_pair(y, x, original_first))


def test_a_wrong_number_of_channels_is_refused():
    with pytest.raises(SmaltiError, match="in_channels to 6"):
        ReconstructionGANLoss(PatchDiscriminator(8, 1))
    with pytest.raises(SmaltiError, match="in_channels to 3"):
        GANLoss(TemporalDiscriminator(8, 1, in_channels=6))
    assert ReconstructionGANLoss().discriminator.in_channels == 6


def test_reconstruction_gan_has_disjoint_gradients():
    gan = ReconstructionGANLoss(TemporalDiscriminator(4, 1, in_channels=6))
    x, y = torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 3, 8, 8, requires_grad=True)
    gan.generator_loss(y, x).backward()
    assert y.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in gan.parameters())
    y.grad = None
    sum(gan(y, x).values()).backward()
    assert y.grad is None
    assert all(p.grad is not None for p in gan.parameters())
