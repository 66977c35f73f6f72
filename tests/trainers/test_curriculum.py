"""Settings that change during training: values by step, and modules that are frozen at first."""

import copy

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.trainers import Curriculum
from smalti.trainers.curriculum import interpolate


def test_values_are_linear_between_points_and_constant_outside():
    points = [(10, 1.0), (20, 0.0), (30, 0.5)]
    assert [interpolate(points, step) for step in (0, 10, 15, 20, 25, 30, 99)] == [1.0, 1.0, 0.5, 0.0, 0.25, 0.5, 0.5]


def test_weights_and_numbers_of_the_tokenizer_follow_the_step(training, trainer, data):
    curriculum = Curriculum(
        schedules={
            "weights.token_entropy": [(0, 0.0), (2, 0.2)],
            "bottleneck.temperature": [(0, 1.0), (2, 0.01)],
            "bottleneck.hardness": [(0, 0.0), (4, 1.0)],
        }
    )
    module = training()
    trainer(curriculum, max_steps=3).fit(module, data())
    assert module.weights["token_entropy"] == pytest.approx(0.2)
    assert module.tokenizer.bottleneck.temperature == pytest.approx(0.01)
    assert module.tokenizer.bottleneck.hardness == pytest.approx(0.5)


def test_a_module_is_not_changed_before_its_step_and_trains_after_it(training, trainer, data):
    module = training()
    before = copy.deepcopy(module.tokenizer.state_dict())
    trainer(Curriculum(frozen_until={"encoder": 2}), max_steps=2).fit(module, data())
    changed = {name for name, tensor in module.tokenizer.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("decoder.") for name in changed)
    assert not any(name.startswith("encoder.") for name in changed)
    trainer(Curriculum(frozen_until={"encoder": 2}), max_steps=3).fit(module, data())
    assert any(
        not torch.equal(tensor, before[name])
        for name, tensor in module.tokenizer.state_dict().items()
        if name.startswith("encoder.")
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frozen_until": {"encodr": 5}}, "'encodr'.*no such module"),
        ({"schedules": {"weights.entropy": [(0, 1.0)]}}, "'weights.entropy'.*the losses are"),
        ({"schedules": {"bottleneck.warmth": [(0, 1.0)]}}, "'bottleneck.warmth', which is no number"),
        ({"schedules": {"temperature": [(0, 1.0)]}}, "'temperature', which is no number"),
    ],
)
def test_unknown_names_are_refused_before_training(training, trainer, data, settings, message):
    with pytest.raises(SmaltiError, match=message):
        trainer(Curriculum(**settings), max_steps=1).fit(training(), data())


@pytest.mark.parametrize("points", [[], [(5, 1.0), (5, 2.0)], [(-1, 0.0)]])
def test_steps_must_ascend(points):
    with pytest.raises(SmaltiError, match="steps"):
        Curriculum(schedules={"bottleneck.hardness": points})
