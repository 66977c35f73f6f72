"""Networks whose features describe the content of each region of an image, for the alignment of latents.

Shapes: B batch; H, W pixels; D features; h, w positions.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from smalti.errors import MissingExtraError, SmaltiError
from smalti.eval.feature_networks.base import FrozenNetwork, file_provenance
from smalti.eval.feature_networks.efflite0 import EffLite0
from smalti.eval.pretrained_weights import WeightsUnavailableError

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_FILES = ["config.json", "model.safetensors"]


class RepresentationNetwork(FrozenNetwork):
    """A frozen network that maps an image to a grid of features.

    Attributes:
        dim: number of features D.
    """

    metric = "representation"
    comparable = False
    dim: int

    @abstractmethod
    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the features of each position.

        Args:
            images: (B, 3, H, W) in [-1, 1].
            grid: (h, w) of the result.

        Returns:
            (B, D, h, w) float32.
        """


class EffLite0Representation(RepresentationNetwork):
    """Features of EfficientNet-Lite0 before pooling, 1280 per position: a proxy that needs no download.

    It was trained to classify ImageNet, and images are resized to its 224 x 224. Its 7 x 7 positions are interpolated.

    Raises:
        MissingExtraError: the extra "offline" is not installed.
    """

    definition = "EfficientNet-Lite0 features"
    dim = 1280

    def __init__(self) -> None:
        super().__init__()
        self.network = EffLite0()
        self.provenance = {"network": "efficientnet-lite0, 224 x 224", **file_provenance(self.network.file)}
        self.freeze()

    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `RepresentationNetwork.forward`."""
        features = self.network.resized_features(images.float())
        return F.interpolate(features, size=grid, mode="bilinear", align_corners=False)


class TransformersRepresentation(RepresentationNetwork):
    """The patch features of a vision transformer of Hugging Face, such as DINOv2.

    Images are resized so that the network has one patch per position: 16 x 16 positions and patches of 14 pixels give
    224 x 224 pixels, as in VA-VAE (arXiv 2501.01423).

    Args:
        network: folder with config.json and model.safetensors, or a name on the Hugging Face Hub.

    Raises:
        MissingExtraError: the extra "transformers" is not installed.
        WeightsUnavailableError: the files are not available.
        SmaltiError: the network has no patches.
    """

    definition = "patch features of a vision transformer"

    def __init__(self, network: str) -> None:
        super().__init__()
        try:
            from transformers import AutoModel
        except ImportError as error:
            raise MissingExtraError("transformers", "transformers", "The alignment of latents") from error
        folder = find_transformers_folder(network)
        try:
            model: Any = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise SmaltiError(f"{folder} cannot be read as a network of transformers ({error}).") from error
        if not hasattr(model.config, "patch_size") or not hasattr(model.config, "hidden_size"):
            raise SmaltiError(
                f"{network} is a {type(model).__name__} without patches: use a vision transformer, such as DINOv2."
            )
        self.network = model
        self.patch = int(model.config.patch_size)
        self.dim = int(model.config.hidden_size)
        self.provenance = {"network": network, **file_provenance(folder / "model.safetensors")}
        self.freeze()

    def forward(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        """See `RepresentationNetwork.forward`."""
        size = (grid[0] * self.patch, grid[1] * self.patch)
        pixels = F.interpolate(images.float(), size=size, mode="bicubic", antialias=True).clamp(-1, 1)
        mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (_IMAGENET_MEAN, _IMAGENET_STD))
        tokens = self.network(pixel_values=((pixels + 1) / 2 - mean) / std).last_hidden_state
        patches = tokens[:, -grid[0] * grid[1] :]  # class and register tokens come first
        return patches.transpose(1, 2).unflatten(2, grid).float()


def representation_network(network: str) -> RepresentationNetwork:
    """Return a representation network.

    Args:
        network: "efflite0", a folder, or a name on the Hugging Face Hub, see `TransformersRepresentation`.

    Raises:
        SmaltiError: its weights are not available. Nothing replaces them.
    """
    return EffLite0Representation() if network == "efflite0" else TransformersRepresentation(network)


def find_transformers_folder(network: str) -> Path:
    """Return the folder with config.json and model.safetensors, downloaded if necessary.

    Raises:
        WeightsUnavailableError: a file is missing, or cannot be downloaded.
    """
    if Path(network).is_dir():
        missing = [name for name in _FILES if not (Path(network) / name).is_file()]
        if missing:
            raise WeightsUnavailableError(
                f"{network} contains no {missing[0]}: give the folder of a vision transformer."
            )
        return Path(network)
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    except ImportError as error:
        raise MissingExtraError("huggingface_hub", "transformers", "The alignment of latents") from error
    try:
        return Path(snapshot_download(network, allow_patterns=_FILES))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise WeightsUnavailableError(
            f"The representation network '{network}' is no folder and could not be downloaded from the Hugging Face Hub: "
            "download it on a machine with access and give its folder, or use efflite0, a proxy that is installed as a "
            "package."
        ) from error
