"""The grammar of an image or a video in a token sequence: what stands around the codes.

    begin size body ( codes of a row  row_end ){rows of a frame} frame_end ... end

Every part may be missing. Parts are named by roles ("boi", "eol", ...), whose ids the vocabulary states.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from smalti.errors import SmaltiError

CODE = -1
"""Marks the place of a code in a template."""

Grid = tuple[int, ...]
"""(h, w) or (t, h, w) of latent positions."""


@dataclass(frozen=True, kw_only=True)
class SizeText:
    """The size of the grid as text, one token per character, such as "64*48".

    Attributes:
        text: format of the text with a field per axis, such as "{h}*{w}".
        ids: id of each character.
        digits: number of digits of an axis if a model chooses the size itself (Emu3.5 allows 10 to 99).

    Raises:
        SmaltiError: a character of the text or a digit has no id.
    """

    text: str
    ids: Mapping[str, int]
    digits: int = 2

    def __post_init__(self) -> None:
        missing = sorted(set("0123456789" + re.sub(r"\{\w+\}", "", self.text)) - set(self.ids))
        if missing:
            raise SmaltiError(
                f"The size text '{self.text}' needs an id for each of its characters, also for {missing}."
            )

    def encode(self, sizes: Mapping[str, int]) -> list[int]:
        """Return the ids of the size: one per character."""
        return [self.ids[character] for character in self.text.format(**sizes)]

    def decode(self, ids: list[int], axes: str) -> Grid | None:
        """Return the grid that ids state; None if they state none."""
        characters = {number: character for character, number in self.ids.items()}
        pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>[1-9][0-9]*)", re.escape(self.text))
        match = re.fullmatch(pattern, "".join(characters.get(number, "?") for number in ids))
        return None if match is None else tuple(int(match[axis]) for axis in axes)

    def choices(self, ids: list[int]) -> list[int] | None:
        """Return the ids that may follow the beginning of a size; None if it is complete."""
        shape = re.sub(r"\{\w+\}", "1" + "0" * (self.digits - 1), self.text)
        if len(ids) >= len(shape):
            return None
        allowed = {"1": "123456789", "0": "0123456789"}.get(shape[len(ids)], shape[len(ids)])
        return sorted(self.ids[character] for character in allowed)

    def strings(self) -> dict[int, str]:
        """Return the string of each id."""
        return {number: character for character, number in self.ids.items()}


@dataclass(frozen=True, kw_only=True)
class SizeTokens:
    """The size of the grid as one token per axis.

    Attributes:
        axes: the axes that have a token, in order, such as "hw".
        base: id of the token of size 0, which does not occur.
        unit: latent positions that a size counts in.
        count: number of sizes: 1 to `count`.
        name: format of the string of a token with the field n, such as "<reserved{n:05d}>"; None: no strings.
        name_base: value of n of size 0.
    """

    axes: str
    base: int
    unit: int = 1
    count: int
    name: str | None = None
    name_base: int = 0

    def encode(self, sizes: Mapping[str, int]) -> list[int]:
        """Return the ids of the size.

        Raises:
            SmaltiError: an axis is no multiple of the unit, or too large.
        """
        for axis in self.axes:
            if sizes[axis] % self.unit or not 1 <= sizes[axis] // self.unit <= self.count:
                raise SmaltiError(
                    f"The grid has {axis}={sizes[axis]}, but its size tokens need a multiple of {self.unit} up to "
                    f"{self.count * self.unit}: crop or resize the image."
                )
        return [self.base + sizes[axis] // self.unit for axis in self.axes]

    def decode(self, ids: list[int], axes: str) -> Grid | None:
        """Return the grid that ids state; None if they state none."""
        sizes = {axis: (number - self.base) * self.unit for axis, number in zip(self.axes, ids, strict=False)}
        complete = len(ids) == len(self.axes) and all(0 < number - self.base <= self.count for number in ids)
        return tuple(sizes[axis] for axis in axes) if complete and set(axes) <= set(sizes) else None

    def choices(self, ids: list[int]) -> list[int] | None:
        """Return the ids that may follow the beginning of a size; None if it is complete."""
        return None if len(ids) >= len(self.axes) else list(range(self.base + 1, self.base + self.count + 1))

    def strings(self) -> dict[int, str]:
        """Return the string of each id."""
        if self.name is None:
            return {}
        return {self.base + n: self.name.format(n=self.name_base + n) for n in range(1, self.count + 1)}


@dataclass(frozen=True, kw_only=True)
class Grammar:
    """What stands around the codes of an image or a video. All attributes but the size are roles, or None for nothing.

    Attributes:
        begin: before everything.
        size: the size of the grid; None: the reader knows it.
        body: between the size and the codes.
        row_end: after the codes of a row.
        row_end_last: whether the last row of a frame has it too.
        frame_end: after each frame.
        end: after everything.
    """

    begin: str | None = None
    size: SizeText | SizeTokens | None = None
    body: str | None = None
    row_end: str | None = None
    row_end_last: bool = True
    frame_end: str | None = None
    end: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, SizeText) and self.body is None:
            raise SmaltiError("A size text of variable length needs a token after it: name it in `body`.")
        if self.size is not None and self.begin is None:
            raise SmaltiError("A size needs a token before it: name it in `begin`.")

    def roles(self) -> list[str]:
        """Return the roles that occur."""
        parts = (self.begin, self.body, self.row_end, self.frame_end, self.end)
        return [role for role in parts if role is not None]

    def before_codes(self, axes: str, grid: Grid, ids: Mapping[str, int]) -> list[int]:
        """Return the ids before the first code.

        Args:
            axes: "hw" or "thw".
            grid: size of each axis.
            ids: id of each role.
        """
        size = [] if self.size is None else self.size.encode(dict(zip(axes, grid, strict=True)))
        return [*_role(self.begin, ids), *size, *_role(self.body, ids)]

    def rows(self, axes: str, grid: Grid, ids: Mapping[str, int], steps: int) -> list[int]:
        """Return the codes of a grid with the ends of rows and, in videos, of frames; `CODE` stands for a step of a code.

        Args:
            axes: "hw" or "thw".
            grid: size of each axis.
            ids: id of each role.
            steps: steps per position.
        """
        frames = grid[0] if axes == "thw" else 1
        height, width = grid[-2:]
        end = _role(self.row_end, ids)
        row = [CODE] * (width * steps)
        frame = [*(row + end) * (height - 1), *row, *(end if self.row_end_last else [])]
        return [*frame, *(_role(self.frame_end, ids) if axes == "thw" else [])] * frames

    def after_codes(self, axes: str, ids: Mapping[str, int]) -> list[int]:
        """Return the ids after the last row of an image, or after the last frame of a video."""
        return [*(_role(self.frame_end, ids) if axes == "hw" else []), *_role(self.end, ids)]

    def read_grid(self, sequence: list[int], axes: str, ids: Mapping[str, int]) -> Grid | None:
        """Return the grid that the size at the start of a sequence states; None if there is none (yet).

        Args:
            sequence: ids from `begin` on; later ones may be missing.
            axes: "hw" or "thw".
            ids: id of each role.
        """
        if self.size is None:
            return None
        if isinstance(self.size, SizeTokens):
            return self.size.decode(sequence[1 : 1 + len(self.size.axes)], axes)
        assert self.body is not None
        stop = next((i for i, number in enumerate(sequence) if number == ids[self.body]), None)
        return None if stop is None else self.size.decode(sequence[1:stop], axes)


def _role(role: str | None, ids: Mapping[str, int]) -> list[int]:
    return [] if role is None else [ids[role]]
