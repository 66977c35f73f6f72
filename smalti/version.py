"""The version of this release, alone, so that reading it imports nothing."""

__version__ = "0.1.0"
