"""The commands of `smalti`, one file per command. Only they may import every package."""
