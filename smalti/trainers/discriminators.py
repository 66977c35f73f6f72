"""Patch discriminators for images and clips.

Shapes: B batch, C channels, T frames, H, W pixels; t, h, w patches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from smalti.errors import SmaltiError
from smalti.pixels import frames_as_images

ConvolutionFactory = Callable[[int, int, int, bool], nn.Module]
"""Builds a randomly initialized convolution from: input channels, output channels, stride, whether it has a bias."""


class Discriminator(nn.Module, ABC):
    """Base class of discriminators: images or clips to logits of being an original.

    Attributes:
        in_channels: C, the number of input channels: 3 for `GANLoss`, 6 for the pairs of `ReconstructionGANLoss`.
    """

    in_channels: int = 3

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return the logits.

        Args:
            x: (B, C, H, W) or (B, C, T, H, W) in [-1, 1].

        Returns:
            (B, 1, ...) logits of any number of patches, or (B T, 1, ...) if frames are processed as images.
        """


class PatchDiscriminator(Discriminator):
    """PatchGAN discriminator with one logit per patch (pix2pix, arXiv 1611.07004; 2,765,633 parameters by default).

        conv4 stride 2 -> leaky ReLU -> [conv4 stride 2 -> batch norm -> leaky ReLU] -> conv4 -> norm -> leaky -> conv4

    The frames of a clip are processed as images.

    Args:
        channels: filters of the first convolution.
        layers: number of convolutions with stride 2.
        in_channels: C; 3 for images, 6 for pairs of images.

    Raises:
        SmaltiError: `channels`, `layers` or `in_channels` is less than 1.
    """

    def __init__(self, channels: int = 64, layers: int = 3, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.layers = layers
        self.body = _build_patchgan(in_channels, channels, layers, _conv2d, _batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (B, C, H, W) in [-1, 1] to (B, 1, h, w), or (B, C, T, H, W) to (B T, 1, h, w).

        Raises:
            SmaltiError: H or W is less than 3 * 2^layers.
        """
        _check_size(self, x)
        return self.body(frames_as_images(x))


class TemporalDiscriminator(Discriminator):
    """PatchGAN discriminator over space and time, with spectral norm. Unlike `PatchDiscriminator`, it sees motion.

        conv stride 2 -> leaky ReLU -> [conv stride 2 -> leaky ReLU] -> conv -> leaky ReLU -> conv

    The architecture is that of `PatchDiscriminator` with kernels of 3 frames x 4 x 4 pixels (a 3D PatchGAN as in TATS,
    arXiv 2204.03638), and spectral norm (arXiv 1802.05957) instead of batch norm: the logits of a sample do not depend on
    the other samples of the batch. Strides also apply to time. Time is padded with one frame of zeros at each end, and a
    stride of 2 leaves ceil(T / 2) frames. Clips of any length work. An image is processed as a clip of one frame.

    Each call in training mode runs one step of power iteration to estimate the largest singular value. The vectors of the
    iteration are buffers, which checkpoints contain. They depend on the weights alone and are equal on all ranks.

    Args:
        channels: filters of the first convolution.
        layers: number of convolutions with stride 2.
        in_channels: C; 3 for clips, 6 for pairs of clips.

    Raises:
        SmaltiError: `channels`, `layers` or `in_channels` is less than 1.
    """

    def __init__(self, channels: int = 64, layers: int = 2, in_channels: int = 3) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.layers = layers
        self.body = _build_patchgan(in_channels, channels, layers, _conv3d, _no_norm)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits: (B, C, T, H, W) in [-1, 1] to (B, 1, t, h, w), or (B, C, H, W) to (B, 1, 1, h, w).

        Raises:
            SmaltiError: H or W is less than 3 * 2^layers.
        """
        _check_size(self, x)
        return self.body(x.unsqueeze(2) if x.ndim == 4 else x)


def _build_patchgan(
    in_channels: int, channels: int, layers: int, conv: ConvolutionFactory, norm: Callable[[int], list[nn.Module]]
) -> nn.Sequential:
    """Build convolutions of stride 2 (channels double up to a factor of 8), one of stride 1, and one to the logits.

    Raises:
        SmaltiError: `in_channels`, `channels` or `layers` is less than 1.
    """
    if min(in_channels, channels, layers) < 1:
        raise SmaltiError(
            f"A discriminator cannot have in_channels {in_channels}, channels {channels} and layers {layers}: set each to "
            "at least 1."
        )
    body = [conv(in_channels, channels, 2, True), nn.LeakyReLU(0.2)]
    width = channels
    for i in range(1, layers + 1):
        in_width, width = width, channels * min(2**i, 8)
        norm_layers = norm(width)
        # A norm with an affine transform makes the bias before it redundant.
        body += [conv(in_width, width, 2 if i < layers else 1, not norm_layers), *norm_layers, nn.LeakyReLU(0.2)]
    return nn.Sequential(*body, conv(width, 1, 1, True))


def _check_size(discriminator: PatchDiscriminator | TemporalDiscriminator, x: Tensor) -> None:
    """Check the frame size: each stride halves it (rounded down), and the last convolutions need 3 x 3.

    Raises:
        SmaltiError: H or W is too small.
    """
    height, width = x.shape[-2:]
    minimum = 3 * 2**discriminator.layers
    if min(height, width) < minimum:
        raise SmaltiError(
            f"{type(discriminator).__name__} with {discriminator.layers} layers needs at least {minimum} x {minimum} "
            f"pixels, not {height} x {width}: use larger crops, or fewer layers."
        )


def _conv2d(in_channels: int, out_channels: int, stride: int, bias: bool) -> nn.Module:
    return _init_weight(nn.Conv2d(in_channels, out_channels, 4, stride=stride, padding=1, bias=bias))


def _conv3d(in_channels: int, out_channels: int, stride: int, bias: bool) -> nn.Module:
    # Spectral norm is added after initialization, because it first estimates the singular value from the current weights.
    conv = nn.Conv3d(in_channels, out_channels, (3, 4, 4), stride=stride, padding=1, bias=bias)
    return spectral_norm(_init_weight(conv))


def _init_weight(conv: nn.Conv2d | nn.Conv3d) -> nn.Conv2d | nn.Conv3d:
    """Draw the weight from a normal distribution with standard deviation 0.02, as in DCGAN (arXiv 1511.06434)."""
    nn.init.normal_(conv.weight, 0.0, 0.02)
    return conv


def _batch_norm(channels: int) -> list[nn.Module]:
    norm = nn.BatchNorm2d(channels)
    nn.init.normal_(norm.weight, 1.0, 0.02)
    return [norm]


def _no_norm(_channels: int) -> list[nn.Module]:
    return []
