"""Visual vocabularies: codes of a visual tokenizer as ids of a language model, and back.

`VisualVocabulary` is the content of `visual_vocab.json`. Its `encode` and `decode` are exact inverses.
"""

from smalti.export.vocabulary.manifest import VisualVocabulary
from smalti.export.vocabulary.parts import Codes, GridRule, Special, TextVocabulary
from smalti.export.vocabulary.preset import IdPlan, Preset
from smalti.export.vocabulary.presets import PRESETS, find_preset, published

__all__ = [
    "PRESETS", "Codes", "GridRule", "IdPlan", "Preset", "Special", "TextVocabulary", "VisualVocabulary", "find_preset",
    "published",
]  # fmt: skip
