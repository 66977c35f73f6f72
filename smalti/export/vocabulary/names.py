"""Strings of visual tokens, for a text tokenizer that holds one string per code."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LETTERS = str.maketrans("0123456789", "ABCDEFGHIJ")
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")


@dataclass(frozen=True, kw_only=True)
class CodeNames:
    """The string of each code.

    Attributes:
        pattern: format with the fields c, the code, and k, the codebook, such as "<|visual token {c:06d}|>".
        letters: whether the digits of c are written as the letters A to J (Chameleon: "IMGIMG{c}Z").
    """

    pattern: str
    letters: bool = False

    def name(self, code: int, book: int = 0) -> str:
        """Return the string of a code."""
        if self.letters:
            return self.pattern.format(c=str(code).translate(_LETTERS), k=book)
        return self.pattern.format(c=code, k=book)

    def parse(self, name: str) -> tuple[int, int] | None:
        """Return (code, codebook) of a string; None if it is none of a code. Inverts `name`, digit by digit."""
        digits = "[A-J]+" if self.letters else "[0-9]+"
        parts = re.split(r"(\{[ck](?::[^}]*)?\})", self.pattern)
        fields = [f"(?P<{part[1]}>{digits if part[1] == 'c' else '[0-9]+'})" for part in parts[1::2]]
        expression = "".join(fields[i // 2] if i % 2 else re.escape(part) for i, part in enumerate(parts))
        match = re.fullmatch(expression, name)
        if match is None:
            return None
        found = match.groupdict()
        code = int(found["c"].translate(_DIGITS) if self.letters else found["c"])
        book = int(found.get("k", 0))
        return (code, book) if self.name(code, book) == name else None
