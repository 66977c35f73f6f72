"""The perceptual loss.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.selection import (
    PerceptualNetworkName,
    check_perceptual_network,
    perceptual_network,
)
from smalti.eval.pretrained_weights import WeightsUnavailableError
from smalti.pixels import frames_as_images
from smalti.trainers.keep_dtype import keep_dtype
from smalti.trainers.losses.base import ReconstructionLoss
from smalti.trainers.losses.provenance import describe_provenance


class PerceptualLoss(ReconstructionLoss):
    """Mean perceptual distance of a batch, computed by a fixed network. Clips are compared frame by frame.

    The network moves to the device of this module but is not registered in it. It is not part of checkpoints, averaged
    weights or DDP. It stays in float32 if the module is converted to another type, such as by the precision bf16-true.

    Args:
        network: "lpips_vgg" or "lpips_alex", whose weights have to be downloaded; or a network whose weights are installed
            as a package: "st_lpips" or "st_lpips_vgg" (shift-tolerant LPIPS, `STLPIPSNetwork`), or "efflite0" (a proxy
            without weights from human judgments, `EffLite0Perceptual`). Nothing replaces a network that is not available.
        weights: for LPIPS, file or folder of the backbone's weights; None: see `smalti.eval.pretrained_weights.resolve`.
        sha256: expected SHA-256 of the file of weights, 64 hexadecimal digits. Training writes it to the config.yaml of a
            run, so that a run with these settings uses the same network. None: any.
        frames_per_clip: number of frames per clip to compare in training, drawn at random in each step. Neighboring frames
            look alike, and all frames of a long clip are expensive. None: all frames. Evaluation mode compares all frames.

    Raises:
        SmaltiError: the weights are not available or not those of `sha256`, the network is unknown, or `frames_per_clip` is
            less than 1.
    """

    def __init__(
        self,
        network: PerceptualNetworkName = "lpips_vgg",
        weights: Path | None = None,
        *,
        sha256: str | None = None,
        frames_per_clip: int | None = None,
    ) -> None:
        super().__init__()
        if frames_per_clip is not None and frames_per_clip < 1:
            raise SmaltiError(
                f"frames_per_clip is {frames_per_clip}: give the perceptual loss at least 1 frame, or null for all frames."
            )
        self.frames_per_clip = frames_per_clip
        with _suggest_packaged_networks():
            built = perceptual_network(network, weights, allow_proxy=False)
        self.provenance = {"metric": built.metric, **built.provenance}
        if sha256 not in (None, self.provenance["sha256"]):
            raise SmaltiError(
                f"The recipe expects a perceptual network whose weights have the SHA-256 {sha256}, but this machine has "
                f"{describe_provenance(self.provenance)}: provide the same weights, or remove sha256 from the perceptual "
                "loss of the recipe to train with others."
            )
        # A list, because nn.Module does not register the modules in lists.
        self._networks = [built]

    @classmethod
    def check_arguments(
        cls, network: PerceptualNetworkName = "lpips_vgg", weights: Path | None = None, **_others: Any
    ) -> None:
        """Check that the weights of the network are available. See `ReconstructionLoss.check_arguments`."""
        with _suggest_packaged_networks():
            check_perceptual_network(network, weights)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._networks[0]._apply(keep_dtype(fn), recurse)
        return super()._apply(fn, recurse)

    def forward(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Return the mean distance, a scalar.

        Args:
            reconstruction: (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
            original: pixels of the same shape.
        """
        count = self.frames_per_clip
        if self.training and count is not None and original.ndim == 5 and count < original.shape[2]:
            chosen = torch.randperm(original.shape[2])[:count].to(original.device)
            reconstruction, original = reconstruction.index_select(2, chosen), original.index_select(2, chosen)
        return self._networks[0](frames_as_images(reconstruction), frames_as_images(original)).mean()


@contextmanager
def _suggest_packaged_networks() -> Iterator[None]:
    """Add to the error for missing weights which networks need no download."""
    try:
        yield
    except WeightsUnavailableError as error:
        raise WeightsUnavailableError(
            f"{str(error).removesuffix('.')}; or train on a network whose weights are installed as a package, by its "
            "name in the recipe: `network: st_lpips` (shift-tolerant LPIPS) or `network: efflite0` (a proxy)."
        ) from error
