"""Networks that say of each patch how real it looks. They take images and clips alike.

Shapes: B batch, C channels, T frames, H, W pixels; t, h, w patches.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from smalti.errors import SmaltiError
from smalti.pixels import frames_as_images

Convolution = Callable[[int, int, int, bool], nn.Module]
"""From channels in, channels out, stride and whether there is a bias to a convolution with fresh weights."""


class PatchDiscriminator(nn.Module):
    """PatchGAN: says of each patch how real it looks (pix2pix, arXiv 1611.07004; with 64 and 3, 2,765,633 parameters).

        conv4 stride 2 -> leaky ReLU -> [conv4 stride 2 -> batch norm -> leaky ReLU] -> conv4 -> norm -> leaky -> conv4

    The frames of a clip are images to it.

    Args:
        channels: filters of the first convolution.
        layers: convolutions of stride 2.
        in_channels: C; 3 for an image, 6 for a pair of them.

    Raises:
        SmaltiError: fewer than one channel or layer.
    """

    def __init__(self, channels: int = 64, layers: int = 3, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.layers = layers
        self.body = _patchgan(in_channels, channels, layers, _conv2d, _batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) in [-1, 1] to logits (B, 1, h, w); (B, C, T, H, W) to (B T, 1, h, w).

        Raises:
            SmaltiError: H or W below 3 * 2^layers.
        """
        _refuse_too_small(self, x)
        return self.body(frames_as_images(x))


class TemporalDiscriminator(nn.Module):
    """A PatchGAN over space and time, whose weights have spectral norm one: it sees how things move.

        conv stride 2 -> leaky ReLU -> [conv stride 2 -> leaky ReLU] -> conv -> leaky ReLU -> conv

    `PatchDiscriminator` with kernels of 3 frames x 4 x 4 pixels instead of 4 x 4 (a 3-D PatchGAN as TATS has it, arXiv
    2204.03638) and spectral normalisation (arXiv 1802.05957) instead of batch norm, so that it does not depend on who else
    is in the batch. A stride is over time, too. Three frames, with one of zeros on either side, leave ceil(T / 2): any
    number of frames will do, and an image is a clip of one.

    The largest singular value is estimated by one step of power iteration a call in training mode. Its vectors are buffers:
    they follow from the weights alone, so they are equal on all ranks, and a checkpoint holds them.

    Args:
        channels: filters of the first convolution.
        layers: convolutions of stride 2.
        in_channels: C; 3 for a clip, 6 for a pair of them.

    Raises:
        SmaltiError: fewer than one channel or layer.
    """

    def __init__(self, channels: int = 64, layers: int = 2, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.layers = layers
        self.body = _patchgan(in_channels, channels, layers, _conv3d, _no_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, T, H, W) in [-1, 1] to logits (B, 1, t, h, w); (B, C, H, W) as a clip of one frame.

        Raises:
            SmaltiError: H or W below 3 * 2^layers.
        """
        _refuse_too_small(self, x)
        return self.body(x.unsqueeze(2) if x.ndim == 4 else x)


def _patchgan(
    in_channels: int, channels: int, layers: int, conv: Convolution, norm: Callable[[int], list[nn.Module]]
) -> nn.Sequential:
    """Convolutions of stride 2 that double the channels up to eightfold, one of stride 1, and one to the logits."""
    if min(in_channels, channels, layers) < 1:
        raise SmaltiError(
            f"A discriminator with in_channels {in_channels}, channels {channels} and layers {layers} is none: "
            "give each at least 1."
        )
    body = [conv(in_channels, channels, 2, True), nn.LeakyReLU(0.2)]
    width = channels
    for i in range(1, layers + 1):
        before, width = width, channels * min(2**i, 8)
        normed = norm(width)
        body += [conv(before, width, 2 if i < layers else 1, not normed), *normed, nn.LeakyReLU(0.2)]
    return nn.Sequential(*body, conv(width, 1, 1, True))


def _refuse_too_small(discriminator: PatchDiscriminator | TemporalDiscriminator, x: Tensor) -> None:
    """Each stride halves the size, rounded down; the two convolutions after them need three rows and columns."""
    height, width = x.shape[-2:]
    smallest = 3 * 2**discriminator.layers
    if min(height, width) < smallest:
        raise SmaltiError(
            f"{type(discriminator).__name__} with {discriminator.layers} layers needs {smallest} x {smallest} pixels or "
            f"more, not {height} x {width}: give it larger crops, or fewer layers in the recipe."
        )


def _conv2d(before: int, after: int, stride: int, bias: bool) -> nn.Module:
    return _fresh(nn.Conv2d(before, after, 4, stride=stride, padding=1, bias=bias))


def _conv3d(before: int, after: int, stride: int, bias: bool) -> nn.Module:
    # After the weights are drawn: the first estimate of the singular value is of the weights that are there.
    return spectral_norm(_fresh(nn.Conv3d(before, after, (3, 4, 4), stride=stride, padding=1, bias=bias)))


def _fresh(conv: nn.Conv2d | nn.Conv3d) -> nn.Conv2d | nn.Conv3d:
    """Normal weights of deviation 0.02, as in DCGAN (arXiv 1511.06434)."""
    nn.init.normal_(conv.weight, 0.0, 0.02)
    return conv


def _batch_norm(channels: int) -> list[nn.Module]:
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight, 1.0, 0.02)
    return [norm]


def _no_norm(_channels: int) -> list[nn.Module]:
    return []
