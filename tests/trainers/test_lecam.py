"""LeCAM's penalty and its moving averages."""

import pytest
import torch

from smalti.trainers import GANLoss, PatchDiscriminator
from smalti.trainers.lecam import LeCAM


def test_logits_are_pulled_to_the_average_of_the_other_class():
    lecam = LeCAM(decay=0.5)
    real, fake = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)
    assert lecam(real, fake) == 4 + 1  # the averages are zero: relu(2 - 0)^2 + relu(0 + 1)^2
    lecam.update()
    assert (lecam.average_real, lecam.average_fake) == (1.0, -0.5)
    assert lecam(real, fake) == 2.5**2 + 2.0**2
    assert set(lecam.state_dict()) == {"average_real", "average_fake"}


def test_averages_do_not_change_in_evaluation_mode():
    lecam = LeCAM(0.5).eval()
    lecam(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    lecam.update()
    assert lecam.average_real == 0


def test_the_averages_decay_once_per_optimizer_step(training, trainer, data):
    seen = []
    gan = GANLoss(PatchDiscriminator(8, 1), lecam_decay=0.5)
    gan.lecam.register_forward_pre_hook(lambda lecam, logits: seen.append(float(logits[0].detach().mean())))
    trainer(max_steps=2, accumulate_grad_batches=3).fit(training(gan=gan), data())
    first, second = sum(seen[:3]) / 3, sum(seen[3:]) / 3
    assert len(seen) == 6
    assert float(gan.lecam.average_real) == pytest.approx(0.25 * first + 0.5 * second, rel=1e-5)


def test_the_averages_stay_in_float32():
    lecam = LeCAM(0.999).to(torch.bfloat16)
    lecam.average_real.fill_(1.0)
    lecam(torch.full((1,), 1.5, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16))
    lecam.update()
    assert float(lecam.average_real) == pytest.approx(1.0005, abs=1e-6)  # bfloat16 would round it to 1
