"""The equivariance of latents: whether scaled and rotated pixels have scaled and rotated latents."""

from __future__ import annotations

from math import inf
from typing import Any, Self

import torch

from smalti.eval.metrics.latent_base import LatentMetric
from smalti.tokenizers.spatial_transforms import SpatialTransform
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Latents

TRANSFORMS = {
    "scale_0.5": SpatialTransform(0.5),
    "rotate_90": SpatialTransform(1.0, 1),
    "rotate_180": SpatialTransform(1.0, 2),
    "rotate_270": SpatialTransform(1.0, 3),
}
"""The transforms that are measured."""


class EquivarianceError(LatentMetric):
    """The squared difference of transformed latents and of the latents of transformed pixels, relative to their variance.

        |t(E(x)) - E(t(x))|^2 / |E(t(x)) - mean|^2,  averaged over transforms t

    EQ-VAE (arXiv 2502.09509) reduces it, and diffusion models then learn faster.
    """

    name = "equivariance_error"
    higher_is_better = False
    range = (0.0, inf)
    comparable = False
    definition = (
        "squared difference of the transformed latents and the latents of the transformed pixels, relative to the variance "
        "of the latter, averaged over scaling by 0.5 and rotations by 90, 180 and 270 degrees; 0 if equivariant, about 2 "
        "if unrelated. Predicts how complex latents are for a generator: equivariant ones are learned faster (arXiv "
        "2502.09509)"
    )

    def reset(self) -> None:
        """Discard all samples."""
        zeros = dict.fromkeys(TRANSFORMS, 0.0)
        self._errors, self._squares, self._sums = (
            dict(zeros),
            dict(zeros),
            dict.fromkeys(TRANSFORMS, torch.zeros(1).double()),
        )
        self._counts = dict.fromkeys(TRANSFORMS, 0)

    def update_latents(self, tokenizer: Tokenizer, batch: Batch, latents: Latents) -> None:
        """Encode the transformed pixels, and add the differences. See `LatentMetric.update_latents`."""
        stride = tokenizer.encoder.stride
        weight = next(tokenizer.parameters(), batch.pixels)
        for name, transform in TRANSFORMS.items():
            pixels = transform.transform_pixels(batch.pixels, latents, stride)
            actual = tokenizer.encode(pixels.to(weight.dtype)).z.double().cpu()
            expected = transform.transform_latents(latents, stride).z.double().cpu()
            self._errors[name] += float((actual - expected).square().sum())
            self._squares[name] += float(actual.square().sum())
            self._sums[name] = self._sums[name] + actual.sum((0, 1))
            self._counts[name] += actual.shape[0] * actual.shape[1]

    def compute(self, candidate: str) -> float:
        """Return the mean over the transforms."""
        return sum(map(self._error, TRANSFORMS)) / len(TRANSFORMS)

    @property
    def details(self) -> dict[str, Any]:
        """The error of each transform."""
        return {name: self._error(name) for name in TRANSFORMS}

    def merge(self, other: Self) -> None:
        """Add the sums of another process."""
        for name in TRANSFORMS:
            self._errors[name] += other._errors[name]
            self._squares[name] += other._squares[name]
            self._sums[name] = self._sums[name] + other._sums[name]
            self._counts[name] += other._counts[name]

    def _error(self, name: str) -> float:
        variance = self._squares[name] - float(self._sums[name].square().sum()) / self._counts[name]
        return self._errors[name] / max(variance, 1e-12)
