"""What the programs of a tokenizer take and return: names, data types and shapes.

Shapes are products and sums of the sizes `batch`, `k`, `h` and `w`: a clip has 1 + k s frames and h x w latent positions
per frame, where s is the temporal stride. An image is a clip with k = 0.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from smalti.errors import SmaltiError
from smalti.tokenizers.tokenizer import Tokenizer

_PROBE = {"k": 5, "h": 7, "w": 11}
"""Sizes that identify how the grids of an encoder depend on k, h and w."""

Size = int | str
"""A fixed size, or an expression such as "1 + 4 * k"."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a program.

    Attributes:
        name: name of the input or output.
        dtype: "float32" or "int64".
        shape: fixed sizes and expressions.
    """

    name: str
    dtype: str
    shape: tuple[Size, ...]

    def resolve(self, sizes: dict[str, int]) -> tuple[int, ...]:
        """Return the shape for values of `batch`, `k`, `h` and `w`."""
        return tuple(evaluate(size, sizes) for size in self.shape)


@dataclass(frozen=True)
class Contract:
    """The inputs and outputs of both programs.

    Attributes:
        stride: pixels per latent position along (T, H, W).
        codebook_size: number of values of a token; None if the tokenizer is continuous.
        pixels: input of the encoder, and output of the decoder.
        grids: outputs of the encoder, and first inputs of the decoder: ids (batch, t, h, w, tokens per position) or
            latents (batch, channels, t, h, w).
        noise: further inputs of a generative decoder: standard normal noise. A tensor of five axes is drawn frame by frame.
    """

    stride: tuple[int, int, int]
    codebook_size: int | None
    pixels: TensorSpec
    grids: tuple[TensorSpec, ...]
    noise: tuple[TensorSpec, ...]

    @property
    def discrete(self) -> bool:
        """Whether the encoder returns ids."""
        return self.codebook_size is not None

    @property
    def channels(self) -> int:
        """Number of channels of the pixels; 3 for red, green and blue."""
        return int(self.pixels.shape[1])

    def to_json(self) -> dict[str, Any]:
        """Return the contract as JSON can represent it."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Contract:
        """Invert `to_json`. Raises KeyError or TypeError for other content."""

        def spec(item: dict[str, Any]) -> TensorSpec:
            return TensorSpec(item["name"], item["dtype"], tuple(item["shape"]))

        t, h, w = content["stride"]
        return cls(
            (t, h, w),
            content["codebook_size"],
            spec(content["pixels"]),
            tuple(map(spec, content["grids"])),
            tuple(map(spec, content["noise"])),
        )

    def sizes(self, batch: int, frames: int, height: int, width: int) -> dict[str, int]:
        """Return `batch`, `k`, `h` and `w` of pixels of this shape.

        Raises:
            SmaltiError: the programs do not accept the shape.
        """
        s, a, b = self.stride
        if min(batch, frames, height, width) < 1 or (frames - 1) % s or height % a or width % b:
            raise SmaltiError(
                f"The programs take 1 + k * {s} frames, a height that is a multiple of {a} and a width that is a multiple "
                f"of {b}, not {frames} x {height} x {width}: pad the pixels, or use Programs.encode, which pads them."
            )
        return {"batch": batch, "k": (frames - 1) // s, "h": height // a, "w": width // b}


def describe(tokenizer: Tokenizer, noise_shapes: list[tuple[int, ...]], probe: dict[str, int]) -> Contract:
    """Return the contract of a tokenizer.

    Args:
        tokenizer: the tokenizer.
        noise_shapes: shapes of the noise that the decoder draws for the sizes `probe`.
        probe: values of `batch`, `k`, `h` and `w`, all different.

    Raises:
        SmaltiError: a grid of the encoder, or the noise of the decoder, does not depend linearly on the sizes.
    """
    s, a, b = tokenizer.encoder.stride
    channels = sum(tokenizer.channels.values())
    pixels = TensorSpec("pixels", "float32", ("batch", channels, _sum("k", s), _times("h", a), _times("w", b)))
    tokens = tokenizer.quantizer.tokens_per_position if tokenizer.discrete else None
    name, dtype = ("latents", "float32") if tokens is None else ("ids", "int64")
    grids = tokenizer.encoder.latent_grids((1 + s * _PROBE["k"], a * _PROBE["h"], b * _PROBE["w"]))
    specs = []
    for index, (t, h, w) in enumerate(grids):
        sizes = (
            {1: 1, _PROBE["k"]: "k", 1 + _PROBE["k"]: "1 + k"}.get(t),
            _times("h", h // _PROBE["h"]) if h % _PROBE["h"] == 0 else None,
            _times("w", w // _PROBE["w"]) if w % _PROBE["w"] == 0 else None,
        )
        if None in sizes:
            raise SmaltiError(
                f"{type(tokenizer.encoder).__name__} has a grid {(t, h, w)} that is not a multiple of its latent "
                "positions: programs cannot describe its shape; export the tokenizer in the format smalti."
            )
        space = tuple(size for size in sizes if size is not None)
        shape = ("batch", tokenizer.bottleneck.out_dim, *space) if tokens is None else ("batch", *space, tokens)
        specs.append(TensorSpec(name if len(grids) == 1 else f"{name}_{index}", dtype, shape))
    noise = tuple(
        TensorSpec(f"noise_{index}", "float32", _noise_shape(shape, probe)) for index, shape in enumerate(noise_shapes)
    )
    codebook_size = None if tokens is None else tokenizer.quantizer.codebook_size
    return Contract((s, a, b), codebook_size, pixels, tuple(specs), noise)


def evaluate(size: Size, sizes: dict[str, int]) -> int:
    """Return the value of a size. An expression is a sum of products of numbers and names."""
    if isinstance(size, int):
        return size
    total = 0
    for term in size.split("+"):
        product = 1
        for factor in term.split("*"):
            factor = factor.strip()
            product *= int(factor) if factor.isdigit() else sizes[factor]
        total += product
    return total


def linear_form(size: str) -> tuple[str, int, int]:
    """Return the name, the factor and the offset of an expression, such as ("k", 4, 1) for "1 + 4 * k"."""
    match = re.fullmatch(r"(?:(\d+) \+ )?(?:(\d+) \* )?([a-z]+)", size)
    assert match is not None, size
    return match[3], int(match[2] or 1), int(match[1] or 0)


def _times(name: str, factor: int) -> str:
    return name if factor == 1 else f"{factor} * {name}"


def _sum(name: str, factor: int) -> str:
    return f"1 + {_times(name, factor)}"


def _noise_shape(shape: tuple[int, ...], probe: dict[str, int]) -> tuple[Size, ...]:
    """Return the expressions of the shape of noise: (batch, C, t, h, w) or a map (height, width)."""
    h, w = shape[-2:]
    space = (_times("h", h // probe["h"]), _times("w", w // probe["w"]))
    if len(shape) == 2 and h % probe["h"] == 0 and w % probe["w"] == 0:
        return space
    if len(shape) == 5 and (shape[0], shape[2]) == (probe["batch"], 1 + probe["k"]):
        return ("batch", shape[1], "1 + k", *space)
    raise SmaltiError(
        f"The decoder draws noise of shape {shape}, which programs cannot describe: export the tokenizer in the format "
        "smalti."
    )
