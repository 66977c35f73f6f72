"""Linear warm-up with cosine decay or a constant learning rate, and checks of any schedule."""

import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from smalti.errors import SmaltiError
from smalti.trainers import WarmupSchedule
from smalti.trainers.schedules import build_schedule


def adam(own=None):
    """Return an optimizer with learning rate 1e-3 and a second group, with its own learning rate unless None."""
    groups = [{"name": name, "params": [torch.nn.Parameter(torch.zeros(1))]} for name in ("tokenizer", "discriminator")]
    if own is not None:
        groups[1]["lr"] = own
    return torch.optim.Adam(groups, lr=1e-3)


def learning_rates(schedule, optimizer, steps):
    """Return the learning rates of all groups in each step, as fractions of 1e-3."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] / 1e-3 for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return torch.tensor(rates, dtype=torch.float64)


def test_all_groups_keep_their_ratio_in_the_warm_up_and_in_the_decay():
    optimizer = adam(own=4e-3)
    schedule = build_schedule(lambda o: WarmupSchedule(o, warmup_steps=4, minimum=0.1), optimizer, max_steps=10)
    rates = learning_rates(schedule, optimizer, 12)
    cosine = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    expected = torch.tensor([0.2, 0.4, 0.6, 0.8, *cosine, 0.1, 0.1], dtype=torch.float64)
    torch.testing.assert_close(rates[:, 0], expected)
    torch.testing.assert_close(rates[:, 1], 4 * expected)


def test_a_constant_learning_rate_needs_no_length():
    optimizer = adam()
    schedule = build_schedule(lambda o: WarmupSchedule(o, 1, "constant"), optimizer, max_steps=-1)
    assert learning_rates(schedule, optimizer, 4)[:, 0].tolist() == [0.5, 1, 1, 1]


def test_without_warm_up_the_first_step_has_the_full_learning_rate():
    optimizer = adam()
    schedule = build_schedule(lambda o: WarmupSchedule(o, 0), optimizer, max_steps=2)
    torch.testing.assert_close(learning_rates(schedule, optimizer, 2)[:, 0].tolist(), [1.0, 0.5])


def test_a_schedule_that_replaces_the_learning_rate_of_the_discriminator_is_refused():
    with pytest.raises(SmaltiError, match=r"OneCycleLR replaces the learning rate of the discriminator, 0\.004"):
        build_schedule(lambda o: OneCycleLR(o, 1e-2, total_steps=5), adam(own=4e-3), 5)
    # With the same learning rates, with the same ratio, and for schedules that scale, nothing is lost.
    build_schedule(lambda o: OneCycleLR(o, 1e-2, total_steps=5), adam(), 5)
    build_schedule(lambda o: OneCycleLR(o, [1e-2, 4e-2], total_steps=5), adam(own=4e-3), 5)
    build_schedule(lambda o: CosineAnnealingLR(o, 5), adam(own=4e-3), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps is -1"),
        ({"decay": "linear"}, "'linear'"),
        ({"minimum": 2.0}, "minimum is 2.0"),
        ({"total_steps": 0}, "total_steps is 0"),
        ({"total_steps": 5}, "is 0 after 5 steps, but the trainer's max_steps is 6: remove total_steps"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, message):
    with pytest.raises(SmaltiError, match=message):
        build_schedule(lambda o: WarmupSchedule(o, **options), adam(), 6)


def test_the_cosine_needs_a_length():
    with pytest.raises(SmaltiError, match=r"set trainer\.max_steps, or decay: constant"):
        build_schedule(WarmupSchedule, adam(), -1)
    schedule = WarmupSchedule(adam(), warmup_steps=0)
    with pytest.raises(SmaltiError, match="needs total_steps"):
        schedule.step()
