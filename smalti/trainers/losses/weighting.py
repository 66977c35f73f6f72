"""The weights of a recipe: checks before training, and the weighted sum of the losses."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.kl import KL
from smalti.tokenizers.bottlenecks.sign_quantizer import SignQuantizer
from smalti.trainers.gan import GANLoss

OPTIONAL_BOTTLENECK_LOSSES = (*KL.loss_names, *SignQuantizer.loss_names)
"""Losses of the bottlenecks of Smalti. Some bottlenecks do not compute them. VQ and its variants have no other losses."""

_CONSEQUENCES = {
    "kl": ("the latents are not regularized and can grow without limit", "1e-6"),
    "token_entropy": ("the soft assignment of tokens is not trained to be confident", "0.1"),
    "codebook_entropy": ("large parts of the codebook can remain unused", "-0.1"),
    "commitment": ("the encoder's outputs can move away from the codewords", "0.25"),
}
"""What happens without a weight for a loss of a bottleneck, and a typical weight."""


@dataclass(frozen=True)
class LossNames:
    """Names of the losses that a model computes in training.

    Attributes:
        reconstruction: losses between reconstruction and original.
        bottleneck: losses of the bottleneck; empty if it is frozen.
        gan: losses of the GAN loss; empty without one.
        latent: losses of latents that the recipe adds.
        restoration: those of them that can train without a reconstruction loss (`LatentLoss.reconstructs`).
    """

    reconstruction: Sequence[str]
    bottleneck: Sequence[str] = ()
    gan: Sequence[str] = ()
    latent: Sequence[str] = ()
    restoration: Sequence[str] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All names."""
        return (*self.reconstruction, *self.latent, *self.bottleneck, *self.gan)


def select_weights(weights: Mapping[str, float], names: LossNames) -> dict[str, float]:
    """Check the weights of a recipe, and return those of the losses that the model computes.

    A recipe may keep weights for losses of another bottleneck of Smalti, or for GAN losses: replacing the bottleneck or
    removing the GAN loss is then one edit. If the model has a GAN loss, the default weight of `discriminator` is 1.

    Args:
        weights: weights of a recipe by name.
        names: losses of the model.

    Raises:
        SmaltiError: a weight has an unknown name, or no reconstruction loss has a positive weight. Without one, the
            tokenizer never sees the originals and learns to produce gray.
    """
    for name in weights:
        if name not in (*names.all, *OPTIONAL_BOTTLENECK_LOSSES, *GANLoss.loss_names):
            match = get_close_matches(name, names.all, n=1, cutoff=0.5)
            suggestion = f"did you mean '{match[0]}'? Its" if match else "its"
            raise SmaltiError(
                f"model.weights contains '{name}', which is not a loss of this model: {suggestion} losses are "
                f"{_join(names.all)} (a bottleneck declares its own in loss_names)."
            )
    if not any(weights.get(name, 0) > 0 for name in (*names.reconstruction, *names.restoration)):
        weighted = ", ".join(f"'{name}'" for name in weights) or "none"
        raise SmaltiError(
            f"No reconstruction loss has a positive weight (losses with a weight: {weighted}), and the tokenizer would "
            f"learn nothing from its data: give one of {', '.join(names.reconstruction)} a weight in model.weights."
        )
    defaults = {"discriminator": 1.0} if names.gan else {}
    return {name: weight for name, weight in (defaults | dict(weights)).items() if name in names.all}


def describe_weights(weights: Mapping[str, float], names: LossNames, bottleneck: str) -> Iterator[tuple[int, str]]:
    """Describe which weights are not used, and which losses have no weight.

    Args:
        weights: weights of a recipe by name, see `select_weights`.
        names: losses of the model.
        bottleneck: what the messages call the bottleneck, such as "FSQ".

    Yields:
        Messages, each with its level of `logging`: a warning if the training probably needs the weight.
    """
    unused = [name for name in weights if name not in names.all]
    unused_gan = [name for name in unused if name in GANLoss.loss_names]
    unused_bottleneck = [name for name in unused if name not in GANLoss.loss_names]
    if unused_bottleneck:
        losses = "losses" if len(unused_bottleneck) > 1 else "loss"
        yield logging.INFO, f"{_subject(unused_bottleneck)} not used: {bottleneck} computes no such {losses}."
    if unused_gan:
        yield logging.INFO, f"{_subject(unused_gan)} not used: the model has no GAN loss (model.gan)."
    for name in names.bottleneck:
        if name not in weights:
            consequence, weight = _CONSEQUENCES.get(name, ("it does not train the tokenizer", "1"))
            yield logging.WARNING, _missing_weight(f"{name} of {bottleneck}", name, consequence, weight)
    if names.gan and "adversarial" not in weights:
        consequence = "the discriminator does not train the tokenizer"
        yield logging.WARNING, _missing_weight("adversarial of the GAN loss", "adversarial", consequence, "0.1")
    logged = [
        name for name in (*names.reconstruction, *names.latent, "lecam") if name in names.all and name not in weights
    ]
    if logged:
        yield logging.INFO, f"Losses without a weight, which are only logged: {_join(logged)}."


def _subject(names: Sequence[str]) -> str:
    return f"The weights of {_join(names)} are" if len(names) > 1 else f"The weight of {names[0]} is"


def _missing_weight(loss: str, name: str, consequence: str, weight: str) -> str:
    return (
        f"The loss {loss} has no weight: {consequence}. Set model.weights.{name}, for example with "
        f"`--model.weights.{name} {weight}`, or set it to 0 if this is intended."
    )


def _join(names: Sequence[str]) -> str:
    """Join names: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def weighted_sum(losses: dict[str, Tensor], weights: dict[str, float]) -> Tensor:
    """Sum the weighted losses. This is the only place where losses are weighted.

    Args:
        losses: scalars by name.
        weights: weights by the same names, at least one. A loss without a weight does not contribute.

    Raises:
        SmaltiError: there is a weight for a loss that was not computed. It must not silently change the training.
    """
    for name in weights:
        if name not in losses:
            raise SmaltiError(
                f"The loss '{name}' has a weight but was not computed: return it from the bottleneck in training mode, or "
                "remove it from the bottleneck's loss_names."
            )
    return torch.stack([weight * losses[name] for name, weight in weights.items()]).sum()
