"""LeCAM's penalty and its moving averages."""

import torch

from smalti.trainers.lecam import LeCAM


def test_logits_are_pulled_to_the_average_of_the_other_class():
    lecam = LeCAM(decay=0.5)
    real, fake = torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), -1.0)
    assert lecam(real, fake) == 4 + 1  # the averages are zero: relu(2 - 0)^2 + relu(0 + 1)^2
    assert (lecam.average_real, lecam.average_fake) == (1.0, -0.5)
    assert lecam(real, fake) == 2.5**2 + 2.0**2
    assert set(lecam.state_dict()) == {"average_real", "average_fake"}


def test_averages_do_not_change_in_evaluation_mode():
    lecam = LeCAM(0.5).eval()
    lecam(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1))
    assert lecam.average_real == 0
