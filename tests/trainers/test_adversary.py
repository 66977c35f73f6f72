"""The game: whose gradients go where, what the losses are, and averages that live in the checkpoint."""

import torch
from torch.nn import functional as F

from smalti.trainers.adversary import Adversary, LeCAM, PatchDiscriminator, discriminator_loss, generator_loss


def test_published_discriminator_has_its_parameters():
    assert sum(p.numel() for p in PatchDiscriminator(64, 3).parameters()) == 2_765_633


def test_judging_moves_the_reconstruction_and_not_the_discriminator():
    game, y = Adversary(PatchDiscriminator(8, 1)), torch.rand(2, 3, 32, 32, requires_grad=True)
    game.judge(y).backward()
    assert y.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in game.parameters())


def test_learning_moves_the_discriminator_and_not_the_reconstruction():
    game, y = Adversary(PatchDiscriminator(8, 1)), torch.rand(2, 3, 32, 32, requires_grad=True)
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
