"""Reconstruction losses: L1, mean squared error, and the losses that a recipe adds.

Shapes: B batch, T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from smalti.channel_groups import RGB, ChannelGroups, colors, describe_groups, group_slices
from smalti.errors import SmaltiError
from smalti.trainers.gan import GANLoss
from smalti.trainers.losses.base import LatentLoss
from smalti.types import Latents

_BUILTIN = ("l1", "mse")
"""Names of the losses that are always computed."""
_RESERVED = (*_BUILTIN, *GANLoss.loss_names, "loss", "psnr")
"""Names of other values that training and validation log."""


def build_loss_dict(losses: Mapping[str, nn.Module], bottleneck_losses: Collection[str] = ()) -> nn.ModuleDict:
    """Collect the losses of a recipe in one module, and freeze their parameters, except those of a `LatentLoss`.

    Args:
        losses: modules that are called like a `ReconstructionLoss`, or of class `LatentLoss`, by name.
        bottleneck_losses: names of the losses of the bottleneck.

    Raises:
        SmaltiError: a name belongs to a loss of the bottleneck, or to a built-in loss or metric; or PyTorch does not allow
            it.
    """
    for name in bottleneck_losses:
        if name in _RESERVED:
            raise SmaltiError(
                f"The bottleneck has a loss '{name}', which is a built-in name: rename it in the bottleneck."
            )
    modules = nn.ModuleDict()
    for name, loss in losses.items():
        if name in _RESERVED:
            raise SmaltiError(
                f"A loss of the recipe is named '{name}', which is a built-in name: choose another name in model.losses."
            )
        if name in bottleneck_losses:
            raise SmaltiError(
                f"A loss of the recipe is named '{name}', but the bottleneck has a loss of the same name: choose another "
                "name in model.losses."
            )
        if not name or "." in name or hasattr(modules, name):
            raise SmaltiError(
                f"A loss of the recipe is named '{name}', which PyTorch does not allow: choose another name in "
                "model.losses."
            )
        modules[name] = loss if isinstance(loss, LatentLoss) else loss.requires_grad_(requires_grad=False)
    return modules


def check_colors(losses: nn.ModuleDict, gan: GANLoss | None, groups: ChannelGroups) -> None:
    """Check that losses of colors get red, green and blue.

    Args:
        losses: modules by name, see `build_loss_dict`.
        gan: the GAN loss; None: none.
        groups: groups of channels of the tokenizer.

    Raises:
        SmaltiError: the channels have no group rgb, and a loss needs it.
    """
    if "rgb" in groups:
        return
    problem = " needs red, green and blue, but the channels of the tokenizer are " + describe_groups(groups)
    for name, loss in losses.items():
        if not getattr(loss, "all_channels", False):
            raise SmaltiError(f"The loss '{name}'{problem}: remove it from model.losses.")
    if gan is not None:
        raise SmaltiError(f"The discriminator{problem}: remove model.gan.")


def _group_names(groups: ChannelGroups) -> list[str]:
    """Return the names of the losses of each group of channels, if there are several."""
    return [f"{name}_{group}" for name in _BUILTIN for group in groups] if len(groups) > 1 else []


def reconstruction_loss_names(losses: nn.ModuleDict, groups: ChannelGroups = RGB) -> tuple[str, ...]:
    """Return the names of the values of `reconstruction_losses`.

    Args:
        losses: modules by name, see `build_loss_dict`.
        groups: groups of channels of the pixels.
    """
    return (
        *_BUILTIN,
        *_group_names(groups),
        *(name for name, loss in losses.items() if not isinstance(loss, LatentLoss)),
    )


def latent_losses(losses: nn.ModuleDict) -> dict[str, LatentLoss]:
    """Return the losses of latents among the losses of a recipe.

    Args:
        losses: modules by name, see `build_loss_dict`.
    """
    return {name: loss for name, loss in losses.items() if isinstance(loss, LatentLoss)}


def compute_losses(
    losses: nn.ModuleDict, reconstruction: Tensor, original: Tensor, groups: ChannelGroups = RGB
) -> dict[str, Tensor]:
    """Compute the losses that a recipe adds between reconstruction and original.

    Args:
        losses: modules by name, see `build_loss_dict`.
        reconstruction: float32 pixels (B, C, H, W) or (B, C, T, H, W) in [-1, 1].
        original: pixels of the same shape.
        groups: groups of channels of the pixels. A loss gets the group rgb, unless it takes all channels.

    Returns:
        Unweighted scalars by name.

    Raises:
        SmaltiError: a loss does not return a scalar.
    """
    computed: dict[str, Tensor] = {}
    for name, loss in losses.items():
        if isinstance(loss, LatentLoss):
            continue
        pair = (reconstruction, original)
        if not getattr(loss, "all_channels", False):
            pair = (colors(reconstruction, groups), colors(original, groups))
        computed[name] = _check_scalar(name, loss, loss(*pair))
    return computed


def compute_latent_losses(losses: nn.ModuleDict, latents: Latents, original: Tensor) -> dict[str, Tensor]:
    """Compute the losses of latents that a recipe adds.

    Args:
        losses: modules by name, see `build_loss_dict`.
        latents: latents of the tokenizer in training mode.
        original: pixels (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1].

    Returns:
        Unweighted scalars by name.

    Raises:
        SmaltiError: a loss does not return a scalar.
    """
    found = latent_losses(losses)
    return {name: _check_scalar(name, loss, loss(latents, original.float())) for name, loss in found.items()}


def _check_scalar(name: str, loss: nn.Module, value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim:
        found = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise SmaltiError(f"The loss '{name}' returned {found}: {type(loss).__name__} must return a scalar tensor.")
    return value


def reconstruction_losses(
    reconstruction: Tensor, original: Tensor, losses: nn.ModuleDict | None = None, groups: ChannelGroups = RGB
) -> dict[str, Tensor]:
    """Compute `l1`, `mse`, both for each of several groups of channels, and the losses that the recipe adds, in float32.

    Args:
        reconstruction: pixels (B, C, H, W) or (B, C, T, H, W) in [-1, 1], of any floating-point type.
        original: pixels of the same shape.
        losses: modules by name, see `build_loss_dict`; None: no additional losses.
        groups: groups of channels of the pixels.

    Returns:
        Unweighted scalars by name.
    """
    reconstruction, original = reconstruction.float(), original.float()
    builtin = {"l1": F.l1_loss(reconstruction, original), "mse": F.mse_loss(reconstruction, original)}
    if len(groups) > 1:
        slices = group_slices(groups).items()
        builtin |= {f"l1_{g}": F.l1_loss(reconstruction[:, part], original[:, part]) for g, part in slices}
        builtin |= {f"mse_{g}": F.mse_loss(reconstruction[:, part], original[:, part]) for g, part in slices}
    return builtin | compute_losses(losses or nn.ModuleDict(), reconstruction, original, groups)
