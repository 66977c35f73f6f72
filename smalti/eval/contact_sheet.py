"""The contact sheet, and of clips a film: originals, reconstructions and what differs, for people.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torch.nn import functional as F

from smalti.eval.results import Evaluation, Example

GAIN = 4
"""The difference is shown this many times stronger."""

STRIP = 6
"""Frames of a clip that the sheet shows, the first and the last among them."""

_TITLES = ("original", "reconstruction", f"difference x {GAIN}")
_TILE = 256
_STRIP_TILE = 160
_GAP = 12
_LABEL = 26
_HEAD = 34
_MARGIN = 110
_BACKGROUND = (250, 250, 248)
_INK = (32, 32, 36)
_FAINT = (120, 120, 126)
_GREY = 128


@dataclass(frozen=True)
class _Panel:
    """An example on the sheet: rows of tiles with titles, and a line of text below.

    Attributes:
        tiles: rows of (3, H, W) uint8.
        rows: a title of each row; empty: no margin for them.
        columns: a title of each column.
        name: of the example.
        value: what it scored.
        tile: (width, height) that a tile has room for.
    """

    tiles: list[list[Tensor]]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    name: str
    value: str
    tile: tuple[int, int]

    @property
    def margin(self) -> int:
        """Where the first tile begins."""
        return _GAP + (_MARGIN if self.rows else 0)

    @property
    def width(self) -> int:
        return self.margin + len(self.columns) * (self.tile[0] + _GAP)

    @property
    def height(self) -> int:
        """Of the rows and the line below; rows stand close, so that frames can be compared, and panels of several apart."""
        return len(self.tiles) * (self.tile[1] + 2) - 2 + _LABEL + (_GAP if self.rows else 0)


def contact_sheet(evaluation: Evaluation) -> Image.Image:
    """A panel an example, its name and PSNR below it.

    Of an image, a row: original, reconstruction, `GAIN` times the absolute difference. Of a clip, the same three from top
    to bottom, as strips of up to `STRIP` frames, spread over its time. Large frames are made smaller to fit, and small
    ones enlarged without smoothing, so that their pixels can be seen.
    """
    panels = [_panel(example, evaluation.samples[example.name]["psnr"]) for example in evaluation.examples]
    heads = [i == 0 or panel.columns != panels[i - 1].columns for i, panel in enumerate(panels)]
    width = max((panel.width for panel in panels), default=_TILE)
    height = sum(panel.height + _HEAD * head for panel, head in zip(panels, heads, strict=True)) + _GAP
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for panel, head in zip(panels, heads, strict=True):
        if head:
            _draw_titles(draw, panel, top)
            top += _HEAD
        _draw(sheet, draw, panel, top)
        top += panel.height
    return sheet


def comparison_video(examples: tuple[Example, ...]) -> Iterator[Tensor]:
    """Clips one after the other, original beside reconstruction; grey around those that are smaller than the largest.

    Yields:
        (3, H, W) uint8, all of one size.
    """
    height, width = (max(example.original.shape[axis] for example in examples) for axis in (2, 3))
    for example in examples:
        for pair in zip(example.original.unbind(1), example.reconstruction.unbind(1), strict=True):
            yield torch.cat([_padded(frame, height, width) for frame in pair], dim=2)


def _padded(frame: Tensor, height: int, width: int) -> Tensor:
    below, right = height - frame.shape[1], width - frame.shape[2]
    return F.pad(frame, (right // 2, right - right // 2, below // 2, below - below // 2), value=_GREY)


def _panel(example: Example, psnr: float) -> _Panel:
    difference = (example.original.int() - example.reconstruction.int()).abs().mul(GAIN).clamp(max=255).to(torch.uint8)
    three = (example.original, example.reconstruction, difference)
    value = f"{psnr:.2f} dB"
    if example.original.ndim == 3:
        return _Panel([list(three)], (), _TITLES, example.name, value, (_TILE, _TILE))
    frames, height, width = example.original.shape[1:]
    shown = sorted({round(i * (frames - 1) / (STRIP - 1)) for i in range(STRIP)})
    tiles = [[clip[:, frame] for frame in shown] for clip in three]
    columns = tuple(f"frame {frame}" for frame in shown)
    tile = (_STRIP_TILE, min(round(_STRIP_TILE * height / width), 2 * _STRIP_TILE))
    return _Panel(tiles, _TITLES, columns, example.name, value, tile)


def _draw_titles(draw: ImageDraw.ImageDraw, panel: _Panel, top: int) -> None:
    for column, title in enumerate(panel.columns):
        middle = panel.margin + column * (panel.tile[0] + _GAP) + panel.tile[0] / 2
        draw.text((middle, top + _HEAD / 2 + 2), title, fill=_FAINT, font=_font(15), anchor="mm")


def _draw(sheet: Image.Image, draw: ImageDraw.ImageDraw, panel: _Panel, top: int) -> None:
    for row, tiles in enumerate(panel.tiles):
        upper = top + row * (panel.tile[1] + 2)
        if panel.rows:
            draw.text((_GAP, upper + panel.tile[1] / 2), panel.rows[row], fill=_FAINT, font=_font(14), anchor="lm")
        for column, pixels in enumerate(tiles):
            tile = _fitted(pixels, panel.tile)
            left = panel.margin + column * (panel.tile[0] + _GAP)
            sheet.paste(tile, (left + (panel.tile[0] - tile.width) // 2, upper + (panel.tile[1] - tile.height) // 2))
    line = top + len(panel.tiles) * (panel.tile[1] + 2) - 2 + _LABEL / 2
    font = _font(14)
    room = panel.width - panel.margin - 2 * _GAP - draw.textlength(panel.value, font=font)
    draw.text((panel.margin, line), _shortened(panel.name, room, draw, font), fill=_INK, font=font, anchor="lm")
    draw.text((panel.width - _GAP, line), panel.value, fill=_INK, font=font, anchor="rm")


def _fitted(image: Tensor, room: tuple[int, int]) -> Image.Image:
    """(3, H, W) uint8 as a picture that fills the room along one side."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = min(room[0] / picture.width, room[1] / picture.height)
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
