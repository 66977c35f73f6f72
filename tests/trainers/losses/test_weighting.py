"""Weights of a recipe: unknown names, weights that are not used, losses without a weight, and the weighted sum."""

import logging

import pytest
import torch

from smalti.errors import SmaltiError
from smalti.tokenizers import bottlenecks
from smalti.trainers.losses.weighting import (
    OPTIONAL_BOTTLENECK_LOSSES,
    LossNames,
    describe_weights,
    select_weights,
    weighted_sum,
)

RECONSTRUCTION = ("l1", "mse")
GAN = ("adversarial", "discriminator", "lecam")
GQ = ("token_entropy", "codebook_entropy", "commitment")


def describe(weights, names, bottleneck="FSQ"):
    messages = list(describe_weights(weights, names, bottleneck))
    return [message for level, message in messages if level == logging.INFO], [
        message for level, message in messages if level == logging.WARNING
    ]


@pytest.mark.parametrize(
    ("name", "match"), [("l3", "'l1'"), ("percepual", "'perceptual'"), ("comitment", "'commitment'")]
)
def test_an_unknown_weight_is_refused_with_the_nearest_name(name, match):
    names = LossNames((*RECONSTRUCTION, "perceptual"), GQ)
    with pytest.raises(SmaltiError, match=f"'{name}'.*did you mean {match}.*l1, mse, perceptual, token_entropy"):
        select_weights({"l1": 1.0, name: 1.0}, names)


def test_an_unknown_weight_without_a_similar_name_is_refused():
    with pytest.raises(SmaltiError, match="'zzz', which is not a loss of this model: its losses are l1 and mse"):
        select_weights({"l1": 1.0, "zzz": 0.0}, LossNames(RECONSTRUCTION))


def test_weights_of_losses_that_another_model_computes_are_not_used():
    """A recipe keeps its weights when its bottleneck is replaced or its GAN loss removed."""
    weights = {"l1": 1.0, "adversarial": 0.1, "lecam": 0.05, "discriminator": 2.0, **dict.fromkeys(GQ, 0.1), "kl": 1e-6}
    assert select_weights(weights, LossNames(RECONSTRUCTION)) == {"l1": 1.0}
    assert select_weights(weights, LossNames(RECONSTRUCTION, ("kl",))) == {"l1": 1.0, "kl": 1e-6}
    assert select_weights(weights, LossNames(RECONSTRUCTION, GQ, GAN)) == {
        k: w for k, w in weights.items() if k != "kl"
    }


def test_the_losses_of_all_bottlenecks_are_known():
    names = {name for cls in bottlenecks.__all__ for name in getattr(bottlenecks, cls).loss_names}
    assert names == set(OPTIONAL_BOTTLENECK_LOSSES)


def test_the_discriminator_has_weight_1_by_default():
    names = LossNames(RECONSTRUCTION, gan=GAN)
    assert select_weights({"l1": 1.0}, names) == {"l1": 1.0, "discriminator": 1.0}
    assert select_weights({"l1": 1.0, "discriminator": 0.5}, names) == {"l1": 1.0, "discriminator": 0.5}


def test_weights_that_are_not_used_are_named():
    weights = {"l1": 1.0, "mse": 1.0, **dict.fromkeys(GQ, 0.1)}
    assert describe(weights, LossNames(RECONSTRUCTION)) == (
        ["The weights of token_entropy, codebook_entropy and commitment are not used: FSQ computes no such losses."],
        [],
    )
    assert describe({"l1": 1.0, "mse": 1.0, "kl": 1e-6}, LossNames(RECONSTRUCTION), "the frozen bottleneck") == (
        ["The weight of kl is not used: the frozen bottleneck computes no such loss."],
        [],
    )
    weights = {"l1": 1.0, "mse": 1.0, "adversarial": 0.1, "lecam": 0.05}
    assert describe(weights, LossNames(RECONSTRUCTION)) == (
        ["The weights of adversarial and lecam are not used: the model has no GAN loss (model.gan)."],
        [],
    )


def test_losses_without_a_weight_are_listed():
    names = LossNames((*RECONSTRUCTION, "wavelet"), gan=GAN)
    assert describe({"l1": 1.0, "adversarial": 0.1}, names) == (
        ["Losses without a weight, which are only logged: mse, wavelet and lecam."],
        [],
    )


def test_losses_that_training_needs_warn_without_a_weight():
    """The warning names the option that sets the weight. A weight of 0 is a decision."""
    weights = {"l1": 1.0, "mse": 1.0}
    _, (warning,) = describe(weights, LossNames(RECONSTRUCTION, ("kl",)), "KL")
    assert "The loss kl of KL has no weight" in warning
    assert "--model.weights.kl 1e-6" in warning
    assert describe(weights | {"kl": 0.0}, LossNames(RECONSTRUCTION, ("kl",)), "KL") == ([], [])
    _, warnings = describe(weights, LossNames(RECONSTRUCTION, GQ), "GQ")
    assert len(warnings) == 3
    assert "--model.weights.codebook_entropy -0.1" in warnings[1]
    _, (warning,) = describe(weights, LossNames(RECONSTRUCTION, ("tightness",)), "Rounding")
    assert "--model.weights.tightness" in warning
    _, (warning,) = describe(weights | {"lecam": 0.05}, LossNames(RECONSTRUCTION, gan=GAN))
    assert "--model.weights.adversarial" in warning


def test_losses_are_weighted_and_summed():
    losses = {"l1": torch.tensor(2.0), "mse": torch.tensor(3.0)}
    assert weighted_sum(losses, {"l1": 0.5}) == 1
    assert weighted_sum(losses, {"l1": 0.5, "mse": -1.0}) == -2
    with pytest.raises(SmaltiError, match="'kl' has a weight but was not computed"):
        weighted_sum(losses, {"l1": 0.5, "kl": 1.0})
