"""Layers and helpers that two or more families of networks share."""
