"""The game: whose gradients go where, what the losses are, and averages that live in the checkpoint."""

import pytest
import torch
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.trainers import GANLoss, PatchDiscriminator, ReconstructionGANLoss, TemporalDiscriminator
from smalti.trainers.gan import LeCAM, concatenate_pair, discriminator_loss, generator_loss


def test_judging_moves_the_reconstruction_and_not_the_discriminator():
    game, y = GANLoss(PatchDiscriminator(8, 1)), torch.rand(2, 3, 32, 32, requires_grad=True)
    game.judge(torch.rand_like(y), y).backward()
    assert y.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in game.parameters())


def test_learning_moves_the_discriminator_and_not_the_reconstruction():
    game, y = GANLoss(PatchDiscriminator(8, 1)), torch.rand(2, 3, 32, 32, requires_grad=True)
    sum(game(torch.rand(2, 3, 32, 32), y).values()).backward()
    assert y.grad is None
    assert all(p.grad is not None for p in game.parameters())


def test_losses_by_hand():
    real, fake = torch.tensor([[[[2.0, 0.0]]]]), torch.tensor([[[[0.5, -1.5]]]])
    assert generator_loss(fake, "hinge") == 0.5
    assert generator_loss(fake, "non_saturating") == F.softplus(torch.tensor(0.5))
    assert discriminator_loss(real, fake, "hinge") == (0.5 + 0.75) / 2
    expected = F.softplus(-real).mean() / 2 + F.softplus(fake).mean() / 2
    torch.testing.assert_close(discriminator_loss(real, fake, "non_saturating"), expected)


def test_lecam_pulls_logits_to_the_other_sides_average():
    lecam = LeCAM(decay=0.5)
    real, fake = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)
    assert lecam(real, fake) == 4 + 1  # averages are zero: relu(2 - 0)^2 + relu(0 + 1)^2
    assert (lecam.average_real, lecam.average_fake) == (1.0, -0.5)
    assert lecam(real, fake) == 2.5**2 + 2.0**2
    assert set(lecam.state_dict()) == {"average_real", "average_fake"}


def test_lecam_does_not_move_in_evaluation():
    lecam = LeCAM(0.5).eval()
    lecam(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    assert lecam.average_real == 0


@pytest.fixture
def pairs():
    """A function: crops of a real photo, without and with the checkerboard of a bad decoder; images, or clips that pan."""
    from skimage import data

    image = torch.from_numpy(data.astronaut()).permute(2, 0, 1).float() / 127.5 - 1
    checkered = image + 0.3 * (-1.0) ** (torch.arange(512) + torch.arange(512)[:, None])

    def draw(count, frames=None):
        places = (2 * torch.randint(0, 240, (count, 2))).tolist()
        steps = range(0, 2 * (frames or 1), 2)
        both = (
            torch.stack([
                torch.stack([picture[:, i : i + 24, j + step : j + step + 24] for step in steps], dim=1)
                for i, j in places
            ])
            for picture in (image, checkered)
        )  # fmt: skip
        return tuple(clips if frames else clips.squeeze(2) for clips in both)

    return draw


@pytest.mark.parametrize(
    ("discriminator", "frames"),
    [(PatchDiscriminator, None), (PatchDiscriminator, 2), (TemporalDiscriminator, 2)],
)
def test_the_answer_turns_with_the_order(pairs, discriminator, frames):
    """After a few steps the discriminator tells by its place which of two is the original; the tokenizer pays for it."""
    torch.manual_seed(0)
    game = ReconstructionGANLoss(discriminator(16, 1, in_channels=6), lecam_decay=0.9)
    optimizer = torch.optim.Adam(game.parameters(), lr=2e-3, betas=(0.5, 0.9))
    for _ in range(60):
        loss = game(*pairs(16, frames))["discriminator"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    game.eval()  # batch norm with the batch's own mean takes away what all samples have in common, here the order
    x, y = pairs(32, frames)
    yes = torch.ones(32, dtype=torch.bool)
    with torch.no_grad():
        right, turned = (game.discriminator(concatenate_pair(x, y, first)).flatten(1).mean(1) for first in (yes, ~yes))
        assert (right > 0).float().mean() > 0.9
        assert (turned < 0).float().mean() > 0.9
        assert game.judge(x, y) > 2 * game.judge(x, x)


@pytest.mark.parametrize("frames", [None, 3])
def test_each_logit_is_turned_by_its_own_sample(frames):
    """A discriminator that knows the answer: the original is 1, the reconstruction 0, whatever the order and its shape."""

    class Knowing(torch.nn.Module):
        in_channels = 6

        def forward(self, both):
            images = both if both.ndim == 4 else both.transpose(1, 2).flatten(0, 1)
            return images[:, :3].mean((1, 2, 3), keepdim=True) - images[:, 3:].mean((1, 2, 3), keepdim=True)

    shape = (8, 3, *([frames] if frames else []), 4, 4)
    x, y = torch.ones(shape), torch.zeros(shape)
    game = ReconstructionGANLoss(Knowing(), discriminator_loss="hinge", generator_loss="hinge")
    assert game(x, y)["discriminator"] == 0  # relu(1 - 1): certain, and right about every frame
    assert game.judge(x, y) == 1


def test_both_orders_are_drawn(pairs):
    torch.manual_seed(0)
    x, y = pairs(64)
    seen = []
    game = ReconstructionGANLoss(PatchDiscriminator(4, 1, in_channels=6))
    game.discriminator.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    game(x, y)
    first = (seen[0][:, :3] == x).flatten(1).all(1)
    assert 16 < first.sum() < 48
    assert torch.equal(seen[0], concatenate_pair(x, y, first))


def test_a_pair_needs_six_channels():
    with pytest.raises(SmaltiError, match="in_channels to 6"):
        ReconstructionGANLoss(PatchDiscriminator(8, 1))
    with pytest.raises(SmaltiError, match="in_channels to 3"):
        GANLoss(TemporalDiscriminator(8, 1, in_channels=6))
    assert ReconstructionGANLoss().discriminator.in_channels == 6


def test_reconstruction_game_keeps_gradients_apart():
    game = ReconstructionGANLoss(TemporalDiscriminator(4, 1, in_channels=6))
    x, y = torch.rand(2, 3, 3, 8, 8), torch.rand(2, 3, 3, 8, 8, requires_grad=True)
    game.judge(x, y).backward()
    assert y.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in game.parameters())
    y.grad = None
    sum(game(x, y).values()).backward()
    assert y.grad is None
    assert all(p.grad is not None for p in game.parameters())
