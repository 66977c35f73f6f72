"""The contact sheet: an image that shows originals, reconstructions and their differences, with labels.

Shapes: T frames, H, W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from smalti.eval.examples import evenly_spaced
from smalti.eval.results import Example

DIFFERENCE_GAIN = 4
"""Factor by which the differences shown are amplified."""

_TITLES = ("original", "reconstruction", f"difference x {DIFFERENCE_GAIN}")
_IMAGE_TILE = 256
_FRAME_TILE = 160
_COLUMN_GAP = 12
_ROW_GAP = 2
_CAPTION_HEIGHT = 26
_HEADER_HEIGHT = 34
_ROW_TITLE_WIDTH = 110
_BACKGROUND = (250, 250, 248)
_TEXT_COLOR = (32, 32, 36)
_TITLE_COLOR = (120, 120, 126)


@dataclass(frozen=True)
class _Panel:
    """One example on the sheet: rows of tiles with titles, and a caption below.

    Attributes:
        tiles: rows of images, (3, H, W) uint8.
        row_titles: title of each row; empty for a panel without row titles and without space for them.
        column_titles: title of each column.
        name: name of the example, at the left of the caption.
        caption: text at the right of the caption.
        tile_size: (width, height) available to each tile, in pixels.
    """

    tiles: list[list[Tensor]]
    row_titles: tuple[str, ...]
    column_titles: tuple[str, ...]
    name: str
    caption: str
    tile_size: tuple[int, int]

    @property
    def left(self) -> int:
        """X coordinate of the first column of tiles."""
        return _COLUMN_GAP + (_ROW_TITLE_WIDTH if self.row_titles else 0)

    @property
    def width(self) -> int:
        """Width including the gap at the right."""
        return self.left + len(self.column_titles) * (self.tile_size[0] + _COLUMN_GAP)

    @property
    def tiles_height(self) -> int:
        """Height of the rows of tiles. The rows are close together, so that frames are easy to compare."""
        return len(self.tiles) * (self.tile_size[1] + _ROW_GAP) - _ROW_GAP

    @property
    def height(self) -> int:
        """Height of tiles and caption. Panels of several rows are followed by a gap."""
        return self.tiles_height + _CAPTION_HEIGHT + (_COLUMN_GAP if self.row_titles else 0)


def contact_sheet(examples: Sequence[Example], captions: Mapping[str, str], strip_frames: int = 6) -> Image.Image:
    """Draw originals, reconstructions and their amplified absolute differences, with the name of each example.

    An image takes one row: original, reconstruction, difference. A clip takes three rows, one for each of these, with
    evenly spaced frames as columns; so does an image with several groups of channels, with the groups as columns. Large
    frames are scaled down to fit. Small ones are enlarged without smoothing, so that their pixels stay visible.

    Args:
        examples: images, clips, or both.
        captions: text at the right of an example's name, such as "31.25 dB", by name. Examples without one get none.
        strip_frames: maximum number of frames to show per clip, including the first and the last.
    """
    panels = [_make_panel(example, captions.get(example.name, ""), strip_frames) for example in examples]
    # Column titles are not repeated between panels that share them.
    headers = [i == 0 or panel.column_titles != panels[i - 1].column_titles for i, panel in enumerate(panels)]
    width = max((panel.width for panel in panels), default=_IMAGE_TILE)
    height = sum(panel.height + _HEADER_HEIGHT * header for panel, header in zip(panels, headers, strict=True))
    sheet = Image.new("RGB", (width, height + _COLUMN_GAP), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    top = 0
    for panel, header in zip(panels, headers, strict=True):
        if header:
            _draw_column_titles(draw, panel, top)
            top += _HEADER_HEIGHT
        _draw_tiles(sheet, draw, panel, top)
        _draw_caption(draw, panel, top + panel.tiles_height + _CAPTION_HEIGHT / 2)
        top += panel.height
    return sheet


def _make_panel(example: Example, caption: str, strip_frames: int) -> _Panel:
    error = (example.original.int() - example.reconstruction.int()).abs()
    difference = error.mul(DIFFERENCE_GAIN).clamp(max=255).to(torch.uint8)
    versions = (example.original, example.reconstruction, difference)
    if example.original.ndim == 3:
        return _Panel([list(versions)], (), _TITLES, example.name, caption, (_IMAGE_TILE, _IMAGE_TILE))
    frames, height, width = example.original.shape[1:]
    indices = evenly_spaced(max(strip_frames, len(example.panels)), frames)
    tiles = [[clip[:, index] for index in indices] for clip in versions]
    columns = tuple(example.panels[index] if example.panels else f"frame {index}" for index in indices)
    tile_size = (_FRAME_TILE, min(round(_FRAME_TILE * height / width), 2 * _FRAME_TILE))
    return _Panel(tiles, _TITLES, columns, example.name, caption, tile_size)


def _draw_column_titles(draw: ImageDraw.ImageDraw, panel: _Panel, top: int) -> None:
    for column, title in enumerate(panel.column_titles):
        center = panel.left + column * (panel.tile_size[0] + _COLUMN_GAP) + panel.tile_size[0] / 2
        draw.text((center, top + _HEADER_HEIGHT / 2 + 2), title, fill=_TITLE_COLOR, font=_font(15), anchor="mm")


def _draw_tiles(sheet: Image.Image, draw: ImageDraw.ImageDraw, panel: _Panel, top: int) -> None:
    width, height = panel.tile_size
    for row, images in enumerate(panel.tiles):
        y = top + row * (height + _ROW_GAP)
        if panel.row_titles:
            title = panel.row_titles[row]
            draw.text((_COLUMN_GAP, y + height / 2), title, fill=_TITLE_COLOR, font=_font(14), anchor="lm")
        for column, image in enumerate(images):
            x = panel.left + column * (width + _COLUMN_GAP)
            tile = _fit(image, panel.tile_size)
            sheet.paste(tile, (x + (width - tile.width) // 2, y + (height - tile.height) // 2))


def _draw_caption(draw: ImageDraw.ImageDraw, panel: _Panel, center: float) -> None:
    font = _font(14)
    available = panel.width - panel.left - 2 * _COLUMN_GAP - draw.textlength(panel.caption, font=font)
    name = _shorten(panel.name, available, draw, font)
    draw.text((panel.left, center), name, fill=_TEXT_COLOR, font=font, anchor="lm")
    draw.text((panel.width - _COLUMN_GAP, center), panel.caption, fill=_TEXT_COLOR, font=font, anchor="rm")


def _fit(image: Tensor, size: tuple[int, int]) -> Image.Image:
    """Scale (3, H, W) uint8 to the largest size that fits into (width, height)."""
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())
    scale = min(size[0] / picture.width, size[1] / picture.height)
    fitted = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(fitted, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _shorten(name: str, width: float, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """Put a name on one line, and cut its start if it is too wide: file names differ at the end."""
    text = " ".join(name.encode(errors="replace").decode().split())
    while draw.textlength(text, font=font) > width and len(text) > 2:
        text = "…" + text[2:]
    return text


def _font(size: int) -> ImageFont.FreeTypeFont:
    return cast("ImageFont.FreeTypeFont", ImageFont.load_default(size))
