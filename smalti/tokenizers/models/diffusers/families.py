"""What the classes of diffusers do not say in one way: strides, latent channels, distributions, frames and caches."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from smalti.errors import MissingExtraError, SmaltiError

PublishedConfig = dict[str, Any]
"""The content of a config.json of diffusers: the arguments of the class, and its name as `_class_name`."""

FACTORS = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
"""Arguments of the classes that say how a generative model normalizes latents. They are kept and do not affect pixels."""


@dataclass(frozen=True)
class AutoencoderFamily:
    """How to run the networks of one class.

    Attributes:
        channels: name of the argument with the number of latent channels.
        stride: returns the stride (T, H, W) of a model of the class.
        frames: "images": each frame is encoded separately. "clip": 1 + k * stride frames at once. "cached": frame by frame,
            with caches of the class (Wan). "repeated": a clip whose first frame is repeated in front (VidTok).
        distribution: "gaussian": means, then log-variances. "point": the latents themselves. "regularizer": the argument of
            this name says whether the class quantizes.
        input_channels: name of the argument with the number of input channels.
        batched: whether the networks accept several clips at once. The attention mask of HunyuanVideo 1.5 does not.
    """

    channels: str
    stride: Callable[[Any], tuple[int, int, int]]
    frames: Literal["images", "clip", "cached", "repeated"]
    distribution: Literal["gaussian", "point", "regularizer"] = "gaussian"
    input_channels: str = "in_channels"
    batched: bool = True


def _image_stride(widths: str) -> Callable[[Any], tuple[int, int, int]]:
    """Return the stride of a class that halves the image between two widths, given the name of the argument of widths."""

    def stride(model: Any) -> tuple[int, int, int]:
        factor = 2 ** (len(model.config[widths]) - 1)
        return 1, factor, factor

    return stride


def _ratio_stride(model: Any) -> tuple[int, int, int]:
    """Return the stride of a class that knows its compression ratios."""
    ratios = {**model.config, **vars(model)}  # LTX-Video computes them
    time, space = ratios["temporal_compression_ratio"], ratios["spatial_compression_ratio"]
    return time, space, space


def _wan_stride(model: Any) -> tuple[int, int, int]:
    config = model.config
    space = 2 ** (len(config["dim_mult"]) - 1) * (config.get("patch_size") or 1)
    return 2 ** sum(config["temperal_downsample"]), space, space


def _vidtok_stride(model: Any) -> tuple[int, int, int]:
    space = 2 ** len(model.encoder.spatial_ds)
    return model.temporal_compression_ratio, space, space


FAMILIES: dict[str, AutoencoderFamily] = {
    "AutoencoderKL": AutoencoderFamily("latent_channels", _image_stride("block_out_channels"), "images"),
    "AutoencoderKLFlux2": AutoencoderFamily("latent_channels", _image_stride("block_out_channels"), "images"),
    "AutoencoderDC": AutoencoderFamily(
        "latent_channels", _image_stride("encoder_block_out_channels"), "images", "point"
    ),
    "AutoencoderKLWan": AutoencoderFamily("z_dim", _wan_stride, "cached"),
    "AutoencoderKLQwenImage": AutoencoderFamily("z_dim", _wan_stride, "cached", input_channels="input_channels"),
    "AutoencoderKLHunyuanVideo": AutoencoderFamily("latent_channels", _ratio_stride, "clip"),
    "AutoencoderKLHunyuanVideo15": AutoencoderFamily("latent_channels", _ratio_stride, "clip", batched=False),
    "AutoencoderKLCosmos": AutoencoderFamily("latent_channels", _ratio_stride, "clip", "point"),
    "AutoencoderKLLTXVideo": AutoencoderFamily("latent_channels", _ratio_stride, "clip"),
    "AutoencoderVidTok": AutoencoderFamily("z_channels", _vidtok_stride, "repeated", "regularizer"),
}
"""The supported classes by name."""

PARTS = ("encoder", "quant_conv", "post_quant_conv", "decoder")
"""The modules of a class that compute. Everything else, such as statistics of the latents, is only stored."""

_FRAMES_PER_LATENT = 4
"""Frames per latent that the classes with caches process at a time, whatever their configuration says."""


def find_family(config: PublishedConfig) -> AutoencoderFamily:
    """Return the family of a configuration.

    Raises:
        SmaltiError: the class is not supported, or no class is named.
    """
    name = config.get("_class_name")
    if name not in FAMILIES:
        raise SmaltiError(
            f"The configuration names diffusers' class {name!r}, which is not supported: use one of {', '.join(FAMILIES)}."
        )
    return FAMILIES[name]


def find_class(config: PublishedConfig) -> Any:
    """Return the class of diffusers that a configuration names. Only supported classes are imported.

    Raises:
        SmaltiError: the class is not supported, or the installed diffusers does not have it.
        MissingExtraError: diffusers is not installed.
    """
    find_family(config)
    try:
        import diffusers

        with torch.device("cpu"):  # modules have constants, which must not be on the caller's device, such as meta
            found = getattr(diffusers, config["_class_name"], None)
    except ModuleNotFoundError as error:
        raise MissingExtraError("diffusers", "diffusers", "The autoencoders of diffusers") from error
    name = config["_class_name"]
    if found is None:
        raise SmaltiError(f"diffusers {diffusers.__version__} has no {name}: run `pip install -U diffusers`.")
    return found


def build_model(config: PublishedConfig) -> Any:
    """Build a model of diffusers with random weights from its configuration.

    Raises:
        SmaltiError: the class is not supported or refuses the arguments, or runs in a way that cannot be represented.
    """
    cls = find_class(config)
    with _quiet():
        try:
            model = cls.from_config(config)
        except (TypeError, ValueError, IndexError, AssertionError, RuntimeError) as error:
            raise SmaltiError(
                f"diffusers cannot build a {config['_class_name']} from this configuration ({error}): pass the publisher's "
                "config.json."
            ) from error
    family = find_family(config)
    name = config["_class_name"]
    if family.frames == "cached" and family.stride(model)[0] != _FRAMES_PER_LATENT:
        raise SmaltiError(
            f"This {name} has a temporal stride of {family.stride(model)[0]}, but diffusers encodes {_FRAMES_PER_LATENT} "
            "frames per latent: use a configuration whose temperal_downsample contains true twice."
        )
    if family.frames == "repeated" and not model.config["is_causal"]:
        raise SmaltiError(f"This {name} is not causal, which is not supported: use one with is_causal true.")
    if not cls._supports_gradient_checkpointing:
        for module in model.modules():  # some layers have the switch and ignore it
            vars(module).pop("gradient_checkpointing", None)
    return model


def full_config(model: Any) -> PublishedConfig:
    """Return the configuration of a model with all arguments of its class, as JSON represents them."""
    arguments = {name: value for name, value in dict(model.config).items() if not name.startswith("_")}
    return json.loads(json.dumps({"_class_name": type(model).__name__, **arguments}))


def clear_causal_caches(network: nn.Module) -> None:
    """Remove the frames that VidTok's layers keep for tiles. They would prevent that the network is copied."""
    for module in network.modules():
        if hasattr(module, "causal_cache"):
            layer: Any = module
            layer.causal_cache = None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings about arguments that a class ignores."""
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
