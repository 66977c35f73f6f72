"""Interpolated Fréchet distances: iFID, its proxy, and the same for clips.

Shapes: B batch; N positions; C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.channel_groups import colors
from smalti.distributed import gather
from smalti.errors import SmaltiError
from smalti.eval.channel_views import explain_missing_colors
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.eval.feature_networks.selection import FRECHET_NETWORKS, frechet_network
from smalti.eval.frechet import FeatureStatistics, frechet_distance
from smalti.eval.latent_neighbors import NeighborSearch
from smalti.eval.metrics.base import Metric
from smalti.eval.metrics.latent_base import LatentMetric
from smalti.eval.reconstruct import decode_latents
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch, Code, Latents, Layout

_NAMES = {"rfid": "ifid", "rfvd": "ifvd", "fd_efflite0": "ifd_efflite0", "fvd_efflite0": "ifvd_efflite0"}
_BATCH_SIZE = 8
NEIGHBORS = 10
"""Neighbors in the reference data of which one is drawn, as in the paper's code."""


class InterpolatedFrechetDistance(LatentMetric):
    """The Fréchet distance between originals and decoded interpolations of latents (iFID, arXiv 2603.05630).

    Each latent is interpolated spherically, at 0.5, with a near neighbor by cosine similarity. A generator produces latents
    between those of the training data: what they decode to limits its samples. The paper reports a correlation of about
    0.85 with the FID of diffusion models, where rFID has none.

    With `reference`, neighbors are searched as in the paper's code: for each sample of ImageNet's validation set, one of
    the ten nearest in the training set is drawn, with the probabilities softmax(-mean squared difference). Every process
    encodes the whole reference, and keeps ten neighbors of each of its samples. Without `reference`, the nearest of the
    other samples of the evaluation is taken, and the latents of all samples are kept on every process; such values are not
    those of the paper's tables.

    Args:
        network: network of the features, see `smalti.eval.feature_networks.selection.frechet_network`.
        reference: batches of the training set, in the size of the samples; None to search among the samples.
    """

    higher_is_better = False
    range = (0.0, inf)
    min_samples = 2
    comparable = False

    def __init__(self, network: FrechetNetwork, reference: Iterable[Batch] | None = None) -> None:
        self.network = network
        self.dim = network.dim
        super().__init__()
        self.name = _NAMES.get(network.metric, f"interpolated_{network.metric}")
        self.media = ("clips",) if network.min_frames else ("images",)
        self.min_frames = max(network.min_frames, 1)
        self.provenance = network.provenance
        self.search_in(reference)

    def search_in(self, reference: Iterable[Batch] | None) -> None:
        """Choose where neighbors are searched.

        Args:
            reference: see the class.
        """
        self.reference = reference
        neighbor = "its nearest neighbor (cosine similarity, among the samples"
        if reference is not None:
            neighbor = f"one of its {NEIGHBORS} nearest neighbors (cosine similarity, in the reference data"
        self.definition = (
            f"Fréchet distance between the originals and the decoded interpolations of each latent with {neighbor}; "
            f"spherical interpolation at 0.5; codewords are not quantized again): {self.network.definition}. Predicts the "
            "Fréchet distance of the samples of a generator (arXiv 2603.05630)"
        )

    @classmethod
    def variants(cls) -> dict[str, Callable[[Path | None], Metric]]:
        """Return a constructor for every feature network. It raises an error if the weights are not available."""
        return {_NAMES[network.metric]: partial(cls._build, name) for name, network in FRECHET_NETWORKS.items()}

    @classmethod
    def _build(cls, network: str, weights: Path | None) -> InterpolatedFrechetDistance:
        return cls(frechet_network(network, weights, allow_proxy=False))

    @property
    def note(self) -> str:
        """The number of samples, on which the value depends."""
        if self._searched:
            return (
                f"computed from {self._original.count} samples, with neighbors from {self._searched} samples of the "
                "reference data; the value depends on both numbers"
            )
        return (
            f"computed from {self._original.count} samples; the value depends on their number and content, because "
            "neighbors are searched among them"
        )

    def reset(self) -> None:
        """Discard all samples."""
        self._original, self._interpolated = FeatureStatistics(self.dim), FeatureStatistics(self.dim)
        self._latents: list[tuple[str, Latents]] = []
        self._searched = 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the reference, whose loader cannot be sent to another process."""
        return {**vars(self), "reference": None}

    def find_obstacle(self, tokenizer: Tokenizer) -> str | None:
        """Return that the network needs colors, if the tokenizer has none."""
        return None if "rgb" in tokenizer.channels else explain_missing_colors("it", tokenizer.channels)

    def update_latents(self, tokenizer: Tokenizer, batch: Batch, latents: Latents) -> None:
        """Add the features of the originals, and keep the latents. See `LatentMetric.update_latents`."""
        self._original.add(self.network(pixels_to_uint8(colors(batch.pixels, tokenizer.channels))))
        for index, name in enumerate(batch.names):
            sample = replace(latents, code=Code(latents.z[index : index + 1].clone())).to("cpu")
            self._latents.append((name, sample))

    def finish(self, tokenizer: Tokenizer) -> None:
        """Interpolate and decode the latents of this process. See `LatentMetric.finish`.

        Raises:
            SmaltiError: the samples differ in size, or from those of the reference data, or it has no samples.
        """
        samples = sorted((sample for part in gather(self._latents) for sample in part), key=lambda sample: sample[0])
        own, self._latents = {name for name, _ in self._latents}, []
        if len(samples) < self.min_samples:
            return
        layout = samples[0][1].layout()
        for _, sample in samples:
            self._check_size(sample, layout)
        if self.reference is None:
            z = torch.cat([sample.z for _, sample in samples])
            mine = [index for index, (name, _) in enumerate(samples) if name in own]
            neighbors = z[nearest_neighbors(z, mine)]
        else:
            mine = list(range(len(own)))
            samples = [sample for sample in samples if sample[0] in own]
            z = torch.cat([sample.z for _, sample in samples]) if own else torch.empty(0)
            neighbors = self._search_reference(tokenizer, z, [name for name, _ in samples], layout) if own else z
        for start in range(0, len(mine), _BATCH_SIZE):
            indices = mine[start : start + _BATCH_SIZE]
            between = slerp(z[indices], neighbors[start : start + _BATCH_SIZE])
            weight = next(tokenizer.parameters(), between)
            latents = replace(samples[0][1], code=Code(between.to(weight.device)))
            decoded = decode_latents(tokenizer, latents, [samples[index][0] for index in indices])
            self._interpolated.add(self.network(pixels_to_uint8(colors(decoded, tokenizer.channels))))

    def _search_reference(self, tokenizer: Tokenizer, z: Tensor, names: list[str], layout: Layout) -> Tensor:
        """Return a neighbor in the reference data of each of this process's samples, (M, N, C)."""
        search = NeighborSearch(z, NEIGHBORS)
        weight = next(tokenizer.parameters(), z)
        for batch in self.reference or ():
            latents = tokenizer.encode(batch.pixels.to(weight.device, weight.dtype))
            self._check_size(latents, layout)
            search.add(latents.z.cpu())
        if not search.seen:
            raise SmaltiError(f"The data in which {self.name} searches neighbors has no samples: give another source.")
        self._searched = search.seen
        return search.draw(names)

    def _check_size(self, latents: Latents, layout: Layout) -> None:
        if latents.layout() != layout:
            raise SmaltiError(
                f"{self.name} interpolates latents of different samples, but they differ in size: use a protocol with a "
                "crop, such as imagenet256."
            )

    def compute(self, candidate: str) -> float:
        """Return the distance."""
        return frechet_distance(self._original, self._interpolated)

    def merge(self, other: Self) -> None:
        """Add the features of another process."""
        self._original.merge(other._original)
        self._interpolated.merge(other._interpolated)
        self._searched = max(self._searched, other._searched)


def nearest_neighbors(z: Tensor, indices: list[int]) -> Tensor:
    """Return for some samples the index of the most similar other sample, by the cosine of all values of a sample.

    Args:
        z: (M, N, C) latents of all samples, M >= 2.
        indices: K indices of samples.

    Returns:
        (K,) int64.
    """
    unit = F.normalize(z.flatten(1).float(), dim=1)
    similarity = unit[indices] @ unit.T
    similarity[torch.arange(len(indices)), indices] = -inf
    return similarity.argmax(1)


def slerp(a: Tensor, b: Tensor, share: float = 0.5) -> Tensor:
    """Interpolate spherically between the values of samples; linearly where their directions are equal or opposite.

    Args:
        a: (B, N, C).
        b: (B, N, C).
        share: 0 for a, 1 for b.
    """
    x, y = a.flatten(1).double(), b.flatten(1).double()
    angle = (F.normalize(x, dim=1) * F.normalize(y, dim=1)).sum(1, keepdim=True).clamp(-1, 1).acos()
    sine = angle.sin()
    safe = torch.where(sine < 1e-6, 1.0, sine)
    wx = torch.where(sine < 1e-6, 1 - share, ((1 - share) * angle).sin() / safe)
    wy = torch.where(sine < 1e-6, share, (share * angle).sin() / safe)
    return (wx * x + wy * y).view_as(a).to(a.dtype)
