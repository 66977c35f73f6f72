"""Checks of what users pass to a tokenizer: pixels, latents, tokens and sizes. Each error is one sentence with the fix.

Shapes: B batch; T frames, H, W pixels; N positions of all grids; C channels; G tokens per position.
"""

from __future__ import annotations

import math
import os

import torch
from torch import Tensor, nn

from smalti.errors import SmaltiError
from smalti.types import Latents, Layout, TokenGrid

MAX_PIXEL_VALUE = 10.0
"""Maximum magnitude of a pixel. The overshoot of bicubic resampling, decoded pixels that were not clamped, and added noise
with a standard deviation of 1 stay below it. An image in [0, 255] stays below it only if it is almost black."""


def first_weight(module: nn.Module) -> Tensor | None:
    """Return the first floating-point parameter, whose dtype and device inputs should have; None if there is none."""
    return next((weight for weight in module.parameters() if weight.is_floating_point()), None)


def prepare_pixels(
    x: object, weight: Tensor | None, channels: int = 3, *, check_values: bool, stream: bool = False
) -> Tensor:
    """Check pixels, and convert them to the dtype of the weights.

    Args:
        x: what the user passed: should be (B, 3, H, W) or (B, 3, T, H, W), floating point, in [-1, 1].
        weight: a weight of the encoder; None: keep the dtype, and do not check the device.
        channels: number of channels that the tokenizer reads.
        check_values: whether to check the range of the values. This reads the pixels once (25 microseconds for 256 x 256
            pixels on one CPU core). On a GPU it also waits until the pixels are computed, as the check of ids does.
        stream: whether x is a chunk of a clip, which always has a time axis.

    Raises:
        SmaltiError: x is not such a tensor, or is on another device than the weights.
    """
    if not isinstance(x, Tensor):
        raise SmaltiError(f"A tokenizer takes a tensor of pixels, not {_describe_object(x)}")
    if x.ndim not in ((5,) if stream else (4, 5)) or x.shape[1] != channels or 0 in x.shape:
        c = channels
        accepted = f"chunks (B, {c}, T, H, W)" if stream else f"pixels (B, {c}, H, W) or (B, {c}, T, H, W)"
        advice = _shape_advice(tuple(x.shape)) if c == 3 else f"this one was trained with {c} channels"
        raise SmaltiError(f"A tokenizer takes {accepted} with no empty axis, not {tuple(x.shape)}: {advice}.")
    if not x.is_floating_point():
        raise SmaltiError(
            f"A tokenizer takes floating-point pixels in [-1, 1], not {x.dtype}: convert 8-bit images with x / 127.5 - 1."
        )
    _check_device("pixels", "x", x, weight)
    if check_values and not torch.compiler.is_compiling() and not x.is_meta:
        low, high = torch.stack(x.detach().aminmax()).tolist()
        if not (math.isfinite(low) and math.isfinite(high)):
            raise SmaltiError("The pixels contain NaN or infinite values: check how they were computed.")
        if max(-low, high) > MAX_PIXEL_VALUE:
            raise SmaltiError(
                f"The pixels range from {low:g} to {high:g}, but a tokenizer takes values in [-1, 1]: convert values in "
                "[0, 255] with x / 127.5 - 1."
            )
    return x if weight is None else x.to(weight.dtype)


def check_latents(latents: object, channels: int, weight: Tensor | None) -> Latents:
    """Return latents that can be decoded.

    Args:
        latents: what the user passed: should be `Latents`.
        channels: channels C that the decoder takes.
        weight: a weight of the decoder; None: do not check the device.

    Raises:
        SmaltiError: they are not `Latents`, or z does not have C channels or as many positions as the grids, is not
            floating point, or is on another device than the weights.
    """
    if not isinstance(latents, Latents):
        advice = (
            "decode tokens with detokenize"
            if isinstance(latents, TokenGrid)
            else "build them with smalti.types.Latents.from_grids(grids, size=(height, width))"
        )
        raise SmaltiError(f"decode takes Latents, as encode returns them, not {_type_name(latents)}: {advice}.")
    z = latents.z
    if z.ndim != 3 or z.shape[2] != channels or not z.is_floating_point():
        raise SmaltiError(
            f"This tokenizer decodes floating-point latents (B, N, {channels}), not {tuple(z.shape)} of {z.dtype}: pass "
            "the latents of this tokenizer."
        )
    _check_positions("positions", "z", z, latents)
    _check_device("latents", "latents", z, weight)
    return latents


def check_tokens(tokens: object, weight: Tensor | None) -> None:
    """Check tokens before their latents are looked up, which checks the tokens per position and the range of the ids.

    Args:
        tokens: what the user passed: should be a `TokenGrid`.
        weight: a weight of the decoder; None: do not check the device.

    Raises:
        SmaltiError: they are not a `TokenGrid`, or the ids are not integers, do not have as many positions as the grids, or
            are on another device than the weights.
    """
    if not isinstance(tokens, TokenGrid):
        advice = (
            "decode latents with decode"
            if isinstance(tokens, Latents)
            else "make one of generated ids with tokenizer.grid(ids, size=(height, width))"
        )
        raise SmaltiError(f"detokenize takes a TokenGrid, as tokenize returns it, not {_type_name(tokens)}: {advice}.")
    ids = tokens.ids
    check_ids(ids)
    if ids.ndim == 3:
        _check_positions("ids", "ids", ids, tokens)
    _check_device("ids", "tokens", ids, weight)


def check_ids(ids: object) -> Tensor:
    """Return ids, or raise a SmaltiError if they are not a tensor of integers."""
    if not isinstance(ids, Tensor):
        raise SmaltiError(f"ids must be a tensor of integers, not {_type_name(ids)}: pass torch.tensor(ids).")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise SmaltiError(f"ids must be integers, not {ids.dtype}: pass the ids themselves, such as logits.argmax(-1).")
    return ids


def check_size(size: object, frames: object) -> None:
    """Raise a SmaltiError if `size` is not (height, width), or `frames` is neither None nor a positive integer."""
    if not (isinstance(size, (tuple, list)) and len(size) == 2 and all(map(_is_positive_integer, size))):
        raise SmaltiError(f"size is {size}: give (height, width) in pixels, such as (256, 256).")
    if frames is not None and not _is_positive_integer(frames):
        raise SmaltiError(f"frames is {frames}: give the number of frames of a clip, or None for an image.")


def _is_positive_integer(value: object) -> bool:
    return isinstance(value, (int, torch.SymInt)) and bool(
        value > 0
    )  # SymInt: while a graph with dynamic shapes is traced


def _check_positions(name: str, variable: str, x: Tensor, layout: Layout) -> None:
    """Raise a SmaltiError if x (B, N, ...) does not have as many positions as the grids."""
    if x.shape[1] != layout.positions:
        raise SmaltiError(
            f"The grids {layout.grids} have {layout.positions} positions, but {variable} has {x.shape[1]}: pass all {name} "
            "of a sample with its own grids."
        )


def _check_device(name: str, variable: str, x: Tensor, weight: Tensor | None) -> None:
    """Raise a SmaltiError if x and the weights are on different devices.

    Weights on the meta device are skipped: libraries that offload weights move them there between calls.
    """
    if weight is not None and x.device != weight.device and not weight.is_meta:
        raise SmaltiError(
            f"The {name} are on {x.device}, but the tokenizer is on {weight.device}: pass "
            f"{variable}.to('{weight.device}')."
        )


def _type_name(value: object) -> str:
    return "a tensor" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _describe_object(x: object) -> str:
    """Return what x is and how to convert it to pixels, the end of an error message."""
    package = type(x).__module__.partition(".")[0]
    if isinstance(x, (str, os.PathLike)):
        return f"the path {os.fspath(x)}: load it with smalti.load_image."
    if package == "PIL":
        return "a PIL image: convert it with smalti.pixels.image_to_pixels(image.convert('RGB'))[None]."
    if package == "numpy":
        return (
            "a numpy array: convert an 8-bit image (H, W, 3) with "
            "torch.from_numpy(array).permute(2, 0, 1)[None] / 127.5 - 1."
        )
    return f"{_type_name(x)}: pass (B, 3, H, W) in [-1, 1], as smalti.load_image returns it, or a list of such tensors."


def _shape_advice(shape: tuple[int, ...]) -> str:
    """Return how to convert pixels x of another layout."""
    if 0 in shape:
        return "check how they were computed"
    if len(shape) == 4 and shape[1] == 3:
        return "add the time axis with x.unsqueeze(2)"
    if len(shape) in (3, 4, 5) and shape[-1] == 3:
        order = {3: "(2, 0, 1)[None]", 4: "(0, 3, 1, 2)", 5: "(0, 4, 1, 2, 3)"}[len(shape)]
        return f"move the channels from the last axis with x.permute{order}"
    if len(shape) == 5 and shape[2] == 3:
        return "move the channels before the frames with x.transpose(1, 2)"
    if len(shape) in (4, 5) and shape[1] == 1:
        return f"repeat the channel of a grayscale image with x.expand(-1, 3, {', '.join(['-1'] * (len(shape) - 2))})"
    if len(shape) in (4, 5) and shape[1] == 4:
        return "drop the alpha channel with x[:, :3]"
    if len(shape) in (3, 4) and shape[0] == 3:
        return "add the batch axis with x[None]"
    return "arrange the axes in this order, with three channels"
