"""Code that several commands share: options, output files, streams of images and videos, and recipe files."""
