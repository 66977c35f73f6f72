"""Published checkpoints, brought in strictly: one file a foreign release.

>>> from smalti.tokenizers.importers import from_published
"""

from smalti.tokenizers.importers.published import families, from_published

__all__ = ["families", "from_published"]
