"""The commands of `smalti`, a file each; only they know every room of the house."""
