"""What several commands share: options, planning of output files, streams of images and videos, and recipe files."""
