"""Layers that several families of encoders and decoders share."""
