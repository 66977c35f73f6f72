"""The contact sheet: originals, reconstructions and what differs, for people."""

from __future__ import annotations

from typing import cast

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from smalti.eval.metrics import psnr
from smalti.eval.results import Evaluation, Example

GAIN = 4
"""The difference is shown this many times stronger."""

_TILE = 256
_GAP = 12
_LABEL = 26
_HEAD = 34
_BACKGROUND = (250, 250, 248)
_INK = (32, 32, 36)
_FAINT = (120, 120, 126)


def contact_sheet(evaluation: Evaluation) -> Image.Image:
    """One row an example: original, reconstruction, `GAIN` times the absolute difference; its name and PSNR below.

    Large images are made smaller to fit, and small ones enlarged without smoothing, so that their pixels can be seen.
    """
    rows = len(evaluation.examples)
    width = 3 * _TILE + 4 * _GAP
    sheet = Image.new("RGB", (width, _HEAD + rows * (_TILE + _LABEL) + _GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(("original", "reconstruction", f"difference x {GAIN}")):
        left = _GAP + column * (_TILE + _GAP)
        draw.text((left + _TILE / 2, _HEAD / 2 + 2), title, fill=_FAINT, font=_font(15), anchor="mm")
    for row, example in enumerate(evaluation.examples):
        _draw_row(sheet, draw, example, _HEAD + row * (_TILE + _LABEL))
    return sheet


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, example: Example, top: int) -> None:
    difference = (example.original.int() - example.reconstruction.int()).abs().mul(GAIN).clamp(max=255).to(torch.uint8)
    for column, image in enumerate((example.original, example.reconstruction, difference)):
        tile = _fitted(image)
        left = _GAP + column * (_TILE + _GAP)
        sheet.paste(tile, (left + (_TILE - tile.width) // 2, top + (_TILE - tile.height) // 2))
    value = f"{float(psnr(example.original[None], example.reconstruction[None])):.2f} dB"
    line = top + _TILE + _LABEL / 2
    font = _font(14)
    room = sheet.width - 3 * _GAP - draw.textlength(value, font=font)
    draw.text((_GAP, line), _shortened(example.name, room, draw, font), fill=_INK, font=font, anchor="lm")
    draw.text((sheet.width - _GAP, line), value, fill=_INK, font=font, anchor="rm")


def _fitted(image: Tensor) -> Image.Image:
    """(3, H, W) uint8 as a picture whose longer side is the tile's."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = _TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _shortened(name: str, room: float, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """A name in one line: its end, which tells files apart, as far as there is room."""
    text = " ".join(name.encode(errors="replace").decode().split())
    while draw.textlength(text, font=font) > room and len(text) > 2:
        text = "…" + text[2:]
    return text


def _font(size: int) -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))
