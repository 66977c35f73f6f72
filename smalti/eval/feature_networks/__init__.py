"""Pretrained networks that metrics and the perceptual loss use, one file per network."""
