"""Base class of the losses that a recipe adds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Latents


class Loss(nn.Module, ABC):
    """Base class of the losses for `model.losses` of a recipe: each is a `ReconstructionLoss` or a `LatentLoss`.

    Attributes:
        provenance: what else the loss depends on, besides its arguments and its registered weights, such as the file of a
            pretrained network with its SHA-256. It must be the same on all ranks and in a resumed run.
    """

    provenance: Mapping[str, str] = MappingProxyType({})

    @classmethod
    def check_arguments(cls, **arguments: Any) -> None:
        """Check constructor arguments that may fail for a reason outside of the recipe, such as missing weights.

        The command line calls it first, before it builds data and networks, which takes long. Does nothing by default.

        Args:
            arguments: the constructor arguments that the recipe gives.

        Raises:
            SmaltiError: the loss cannot be built.
        """


class ReconstructionLoss(Loss):
    """Base class of losses between a reconstruction and its original.

    A loss may have parameters. `TokenizerTraining` freezes them. A loss that compares only some of the frames or pixels in
    training should compare all of them in evaluation mode, because validation logs it too.

    Attributes:
        all_channels: whether the loss takes pixels with any channels. Otherwise, a tokenizer for more channels than red,
            green and blue passes its group rgb only.
    """

    all_channels: bool = False

    @abstractmethod
    def forward(self, reconstruction: Tensor, original: Tensor) -> Tensor:
        """Return the unweighted loss, a scalar.

        Args:
            reconstruction: float32 pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
            original: pixels of the same shape.
        """


class LatentLoss(Loss):
    """Base class of losses of the latents. They are computed in training only, before any `LatentAugmentation`.

    A loss may have parameters, which are trained like those of the tokenizer, as a parameter group `losses`. They are part
    of checkpoints, but not of exports and of averaged weights.

    Attributes:
        adaptive: whether the loss is scaled in each step so that its gradient at the latents is as large as that of the
            weighted reconstruction losses (`adaptive_factor`), before its weight applies.
        reconstructs: whether the loss can train the tokenizer without a reconstruction loss of pixels.
    """

    adaptive: bool = False
    reconstructs: bool = False

    def connect(self, tokenizer: Tokenizer) -> None:
        """Create the layers that depend on the tokenizer. `TokenizerTraining` calls it once.

        Args:
            tokenizer: the tokenizer that is trained. Its latents have `tokenizer.bottleneck.out_dim` channels.

        Raises:
            SmaltiError: the loss does not fit the tokenizer.
        """

    @abstractmethod
    def forward(self, latents: Latents, original: Tensor) -> Tensor:
        """Return the unweighted loss, a scalar.

        Args:
            latents: latents of the tokenizer in training mode. Gradients pass through z to the encoder.
            original: float32 pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].
        """
