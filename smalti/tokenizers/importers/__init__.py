"""Importers of published checkpoints: one file per foreign release, each exporting a `FAMILY` that the registry finds.

>>> from smalti.tokenizers.importers import from_published
"""

from smalti.tokenizers.importers.family import Family
from smalti.tokenizers.importers.published import from_published
from smalti.tokenizers.importers.registry import families, find_family, load_family

__all__ = ["Family", "families", "find_family", "from_published", "load_family"]
