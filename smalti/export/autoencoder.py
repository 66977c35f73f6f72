"""A continuous tokenizer with the interface of diffusers' autoencoders, without diffusers.

    vae = Autoencoder(tokenizer)
    z = vae.encode(x).latent_dist.sample()
    x = vae.decode(z).sample

Shapes: B batch; T frames, H, W pixels; C channels; t, h, w latent positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.tokenizers.bottlenecks.kl import KL, LOG_VARIANCE_RANGE
from smalti.tokenizers.layers.noise import randn_per_frame
from smalti.tokenizers.models.diffusers import DiffusersDecoder
from smalti.tokenizers.tokenizer import Tokenizer


@dataclass(frozen=True)
class LatentDistribution:
    """Diagonal Gaussian over latents.

    Attributes:
        mean: (B, C, t, h, w), or (B, C, h, w) of an image.
        logvar: log-variance, of the same shape.
    """

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        """Standard deviation."""
        return torch.exp(self.logvar / 2)

    @property
    def var(self) -> Tensor:
        """Variance."""
        return torch.exp(self.logvar)

    def mode(self) -> Tensor:
        """Return the mean, which is the latent that `Tokenizer.encode` returns."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw latents."""
        video = self.mean if self.mean.ndim == 5 else self.mean.unsqueeze(2)
        return self.mean + self.std * randn_per_frame(video, generator).view_as(self.mean)


@dataclass(frozen=True)
class EncoderOutput:
    """Result of `Autoencoder.encode`.

    Attributes:
        latent_dist: distribution of the latents.
    """

    latent_dist: LatentDistribution


@dataclass(frozen=True)
class DecoderOutput:
    """Result of `Autoencoder.decode`.

    Attributes:
        sample: pixels, approximately in [-1, 1].
    """

    sample: Tensor


@dataclass(frozen=True)
class AutoencoderConfig:
    """How a generative model scales latents: (z - latents_mean - shift_factor) / latents_std * scaling_factor.

    The statistics are those that training measured, see `Tokenizer.latent_statistics`. Without them, an autoencoder that
    was loaded from diffusers has the values of its class.

    Attributes:
        latent_channels: channels C.
        latents_mean: mean of each channel; 0 if it was not measured.
        latents_std: standard deviation of each channel; 1 if it was not measured.
        scaling_factor: what normalized latents are multiplied by.
        shift_factor: what is subtracted from all channels.
    """

    latent_channels: int
    latents_mean: list[float]
    latents_std: list[float]
    scaling_factor: float = 1.0
    shift_factor: float = 0.0


class Autoencoder(nn.Module):
    """A continuous tokenizer with a KL bottleneck and one grid, or the continuous branch of a joint one.

    Args:
        tokenizer: a tokenizer in evaluation mode.

    Attributes:
        config: channels, statistics of the latents and scaling factor.

    Raises:
        SmaltiError: the tokenizer is discrete, has another bottleneck than `KL`, or has several grids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        tokenizer = tokenizer.as_continuous()
        bottleneck = tokenizer.bottleneck
        if not isinstance(bottleneck, KL):
            raise SmaltiError(
                f"An autoencoder has the distribution of a KL bottleneck, not of {type(bottleneck).__name__}: use "
                "Tokenizer.encode and Tokenizer.decode."
            )
        s, a, b = tokenizer.encoder.stride
        if len(tokenizer.encoder.latent_grids((1 + s, a, b))) != 1:
            raise SmaltiError(
                "The first frame of this tokenizer has a grid of its own, which one tensor of latents cannot hold: use "
                "Tokenizer.encode and Tokenizer.decode."
            )
        self.tokenizer = tokenizer
        self.bottleneck = bottleneck
        self.config = _config(tokenizer, bottleneck.dim)

    @property
    def scaling_factor(self) -> float:
        """`config.scaling_factor`."""
        return self.config.scaling_factor

    def encode(self, x: Tensor) -> EncoderOutput:
        """Encode pixels to a distribution of latents.

        Args:
            x: (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1], with H and W multiples of the stride and 1 + k * stride frames.

        Raises:
            SmaltiError: the size is not such a multiple: latents without a layout could not be decoded to it.
        """
        video = x.unsqueeze(2) if x.ndim == 4 else x
        size = (video.shape[2], video.shape[3], video.shape[4])
        padded = self.tokenizer.encoder.padded_size(size)
        if padded != size:
            raise SmaltiError(
                f"The autoencoder takes sizes that its stride {self.tokenizer.encoder.stride} divides, such as {padded}, "
                f"not {size} (frames, height, width): pad the pixels, or use Tokenizer.encode."
            )
        (h,) = self.tokenizer.encoder(video)
        channels = self.bottleneck.dim
        mean, logvar = h.float().split([channels, h.shape[1] - channels], dim=1)
        log_variance = logvar + 2 * math.log(self.bottleneck.initial_std)
        logvar = log_variance.clamp(*LOG_VARIANCE_RANGE).expand_as(mean)
        if x.ndim == 4:
            mean, logvar = mean.squeeze(2), logvar.squeeze(2)
        return EncoderOutput(LatentDistribution(mean, logvar))

    def decode(self, z: Tensor, generator: torch.Generator | None = None) -> DecoderOutput:
        """Decode latents (B, C, h, w) to an image, or (B, C, t, h, w) to a clip."""
        video = z.unsqueeze(2) if z.ndim == 4 else z
        pixels = self.tokenizer.decoder((video,), generator)
        return DecoderOutput(pixels.squeeze(2) if z.ndim == 4 else pixels)

    def normalize(self, z: Tensor) -> Tensor:
        """Scale latents (B, C, ...) for a generative model, see `AutoencoderConfig`: mean 0 and standard deviation 1."""
        mean, scale = self._mean_and_scale(z)
        return (z - mean) / scale

    def denormalize(self, z: Tensor) -> Tensor:
        """Invert `normalize`."""
        mean, scale = self._mean_and_scale(z)
        return z * scale + mean

    def _mean_and_scale(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the scale of each channel, to broadcast with z."""
        config, shape = self.config, (-1, *[1] * (z.ndim - 2))
        mean, std = (z.new_tensor(values).view(shape) for values in (config.latents_mean, config.latents_std))
        return mean + config.shift_factor, std / config.scaling_factor


def _config(tokenizer: Tokenizer, channels: int) -> AutoencoderConfig:
    measured = tokenizer.latent_statistics
    factors: dict[str, Any] = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
    if measured is not None:
        factors = {"latents_mean": measured.mean.tolist(), "latents_std": measured.std.tolist()}
    elif isinstance(tokenizer.decoder, DiffusersDecoder):
        factors |= tokenizer.decoder.latent_factors
    return AutoencoderConfig(channels, **factors)
