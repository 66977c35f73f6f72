"""The encoder of Cosmos' tokenizers (arXiv 2501.03575).

Shapes: B batch; T frames, H, W pixels; t, h, w latent positions; C latent channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.tokenizers.base import Encoder, StreamState
from smalti.tokenizers.layers.frames import channels_last_video, images_to_video, video_to_images
from smalti.tokenizers.linear_start.code import StartCode
from smalti.tokenizers.linear_start.fitting import Errors
from smalti.tokenizers.linear_start.pyramid import Pyramid
from smalti.tokenizers.models.cosmos.blocks import Level, MiddleBlocks
from smalti.tokenizers.models.cosmos.haar import clip_patches, image_patches
from smalti.tokenizers.models.cosmos.initialization import init_weights
from smalti.tokenizers.models.cosmos.layers import FrameNorm, make_conv, make_pointwise
from smalti.tokenizers.models.cosmos.levels import network_shape
from smalti.tokenizers.models.cosmos.resampling import ClipDownsample, ImageDownsample


class CosmosEncoder(Encoder):
    """Encodes images, or clips causally, to one grid.

        Haar wavelets of patches -> conv -> per level [residual blocks -> downsampling] -> residual block -> attention
          -> residual block -> norm -> SiLU -> conv -> conv of size 1

    With a temporal stride of 1, the layers are 2-D and each frame of a clip is an image. Otherwise the convolutions are
    causal and factorized into space and time, and there is attention over each frame and over all earlier frames.

    Args:
        out_dim: output channels C, those of the bottleneck.
        stride: [T, H, W] pixels per latent position, powers of 2 with H = W; None for [1, 8, 8].
        z_channels: channels before the last convolution: 16; 256 in the published discrete tokenizers of images.
        channels: base number of channels; a multiple of 32 in networks for images.
        multipliers: channel multiplier of each level; None for [2, 4, 4].
        blocks: residual blocks per level.
        patch: frames, height and width of the patches, a power of 2.

    Raises:
        SmaltiError: the arguments do not describe a valid network.
    """

    bands_inside = True

    def __init__(
        self,
        out_dim: int,
        stride: tuple[int, int, int] | None = None,
        z_channels: int = 16,
        channels: int = 128,
        multipliers: list[int] | None = None,
        blocks: int = 2,
        patch: int = 4,
    ) -> None:
        super().__init__()
        time, height, width = stride or (1, 8, 8)
        self.stride = (time, height, width)
        shape = network_shape(channels, multipliers or [2, 4, 4], blocks, patch, self.stride)
        video = self.video = shape.video
        self.out_dim = out_dim
        self.patch = patch
        self.conv_in = make_conv(3 * patch ** (3 if video else 2), channels, video)
        self.levels = nn.ModuleList()
        previous = channels
        for level_width, (space, frames) in zip(shape.widths, shape.down, strict=True):
            resample = None
            if space or frames:
                resample = ClipDownsample(level_width, space, frames) if video else ImageDownsample(level_width)
            self.levels.append(Level(previous, level_width, blocks, video, resample))
            previous = level_width
        self.middle = MiddleBlocks(previous, video)
        self.norm_out = FrameNorm(previous, video)
        self.conv_out = make_conv(previous, z_channels, video)
        self.head = make_pointwise(z_channels, out_dim, video)
        init_weights(self)

    @property
    def outer_layers(self) -> tuple[nn.Module, ...]:
        """The first convolution and the two last."""
        return self.conv_in, self.conv_out, self.head

    @property
    def hidden_units(self) -> int:
        """0, because a norm comes before the last activation function."""
        return 0

    def linear_start(self, pyramid: Pyramid, code: StartCode) -> Errors:
        """Set the weights so that the encoder computes a code of principal components, see `linear_start`."""
        from smalti.tokenizers.models.cosmos.linear_start import fit_encoder  # imports this module

        return fit_encoder(self, pyramid, code)

    def forward(self, x: Tensor, state: StreamState | None = None) -> tuple[Tensor, ...]:
        """Encode (B, 3, T, H, W) in [-1, 1] to one grid (B, C, t, h, w), see `padded_size`."""
        state = StreamState(last=True) if state is None else state
        if not self.video:
            return (images_to_video(self._encode(image_patches(video_to_images(x), self.patch), state), len(x)),)
        return (self._encode(channels_last_video(clip_patches(self, x, self.patch, state)), state),)

    def _encode(self, h: Tensor, state: StreamState) -> Tensor:
        h = self.conv_in(h, state)
        for level in self.levels:
            h = level(h, state)
        h = self.middle(h, state)
        return self.head(self.conv_out(F.silu(self.norm_out(h)), state))
