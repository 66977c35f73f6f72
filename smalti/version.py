"""The version of Smalti. The build reads this file without importing the package."""

__version__ = "0.2.0.dev0"
