"""Checks of the constructor arguments of LTX-Video's networks."""

from __future__ import annotations

from smalti.errors import SmaltiError


def check_dimensions(latent_dim: int, channels: int, patch: int) -> None:
    """Check the sizes of an encoder or a decoder.

    Raises:
        SmaltiError: a size is below 1.
    """
    if min(latent_dim, channels, patch) < 1:
        raise SmaltiError(
            f"Latent channels {latent_dim}, channels {channels} and patch {patch} must each be at least 1."
        )


def check_noise(timestep: float | None, noise: float, training_noise: list[float] | None) -> None:
    """Check the noise arguments of a decoder.

    Raises:
        SmaltiError: a noise level is given without a timestep, a noise level is not in [0, 1], or `training_noise` is not
            in ascending order.
    """
    if timestep is None and (noise or training_noise is not None):
        raise SmaltiError(
            "noise and training_noise require a decoder that is conditioned on a timestep: set timestep, such as 0.05."
        )
    low, high = (0.0, 0.0) if training_noise is None else training_noise
    if not (0 <= noise <= 1 and 0 <= low <= high <= 1):
        raise SmaltiError(
            f"noise {noise} and training_noise {training_noise} must be in [0, 1], and training_noise in ascending order: "
            "change them in the decoder."
        )
