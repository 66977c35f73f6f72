"""Encoders and decoders: one package per family of architectures."""
