"""VA-VAE: latents that resemble the features of a network that understands images.

Shapes: B batch; C latent channels; T frames, H, W pixels; t, h, w latent positions; D features; N = h w.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.errors import SmaltiError
from smalti.eval.feature_networks.representation import find_transformers_folder, representation_network
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers.keep_dtype import keep_dtype
from smalti.trainers.losses.base import LatentLoss
from smalti.trainers.losses.provenance import describe_provenance
from smalti.types import Latents


class LatentAlignment(LatentLoss):
    """Aligns latents with the features of a frozen network (VA-VAE, arXiv 2501.01423, the VF loss).

        mean over positions of relu(1 - cosine_margin - cos(W z_i, f_i))                              (eq. 4)
        + mean over pairs of positions of relu(|cos(z_i, z_j) - cos(f_i, f_j)| - distance_margin)     (eq. 5)

    W is a linear map that is trained with the tokenizer, z_i are the latents, f_i the features at the same positions. The
    pairs are those of one frame. The paper gives the loss the weight 0.1 and scales it adaptively, see
    `LatentLoss.adaptive`. The latents of a clip are aligned with its frames: the latents of step i with the last frame that
    a causal encoder has seen.

    The network moves to the device of this module but is not registered in it, like that of `PerceptualLoss`.

    Args:
        network: folder of a vision transformer of Hugging Face, or its name on the Hub; or "efflite0", a proxy that is
            installed as a package. The paper uses DINOv2. Nothing replaces a network that is not available.
        cosine_margin: cosine distance that is not penalized.
        distance_margin: difference of similarities that is not penalized.
        adaptive: whether to scale the loss by `adaptive_factor`, as in the paper.
        sha256: expected SHA-256 of the network's weights, see `PerceptualLoss`.

    Raises:
        SmaltiError: the network is not available or not that of `sha256`.
    """

    def __init__(
        self,
        network: str = "facebook/dinov2-large",
        cosine_margin: float = 0.5,
        distance_margin: float = 0.25,
        *,
        adaptive: bool = True,
        sha256: str | None = None,
    ) -> None:
        super().__init__()
        built = representation_network(network)
        self.provenance = built.provenance
        if sha256 not in (None, self.provenance["sha256"]):
            raise SmaltiError(
                f"The recipe expects a representation network whose weights have the SHA-256 {sha256}, but this machine "
                f"has {describe_provenance(self.provenance)}: provide the same weights, or remove sha256 from the loss."
            )
        self.cosine_margin = cosine_margin
        self.distance_margin = distance_margin
        self.adaptive = adaptive
        self.projection = nn.Identity()
        # A list, because nn.Module does not register the modules in lists.
        self._networks = [built]

    @classmethod
    def check_arguments(cls, network: str = "facebook/dinov2-large", **_others: Any) -> None:
        """Check that the weights of the network are available. See `Loss.check_arguments`."""
        if network != "efflite0":
            find_transformers_folder(network)

    def connect(self, tokenizer: Tokenizer) -> None:
        """Create W, the linear map from latents to features. See `LatentLoss.connect`."""
        self.projection = nn.Linear(tokenizer.bottleneck.out_dim, self._networks[0].dim, bias=False)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        self._networks[0]._apply(keep_dtype(fn), recurse)
        return super()._apply(fn, recurse)

    def forward(self, latents: Latents, original: Tensor) -> Tensor:
        """Return the loss, a scalar. See `LatentLoss.forward`."""
        video = original.unsqueeze(2) if original.ndim == 4 else original
        steps = [(grid[:, :, i]) for grid in latents.to_grids() for i in range(grid.shape[2])]
        frames = torch.linspace(0, video.shape[2] - 1, len(steps)).round().long().tolist()
        losses = [self._frame_loss(z, video[:, :, frame]) for z, frame in zip(steps, frames, strict=True)]
        return torch.stack(losses).mean()

    def _frame_loss(self, z: Tensor, images: Tensor) -> Tensor:
        """Return the loss of latents (B, C, h, w) and images (B, 3, H, W)."""
        with torch.no_grad():
            features = self._networks[0](images, (z.shape[2], z.shape[3])).flatten(2).transpose(1, 2)
        with torch.autocast(z.device.type, enabled=False):
            z = z.flatten(2).transpose(1, 2).float()  # (B, N, C)
            f = F.normalize(features.float(), dim=-1)
            similarity = (F.normalize(self.projection(z), dim=-1) * f).sum(-1)
            unit = F.normalize(z, dim=-1)
            difference = (unit @ unit.mT - f @ f.mT).abs()
            return F.relu(1 - self.cosine_margin - similarity).mean() + F.relu(difference - self.distance_margin).mean()
