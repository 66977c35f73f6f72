import io
import pickle
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

from smalti.data import UnreadableImageError, decode_image
from smalti.data.packaged_files import locate
from smalti.data.packaged_photos import _SKIMAGE, _SKLEARN


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def values(data: bytes | str | Path) -> torch.Tensor:
    image = decode_image(data)
    assert image.mode == "RGB"
    return pil_to_tensor(image).int()


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG of any bit depth and colour type, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    stride = len(rows) // height
    raw = b"".join(b"\0" + rows[row * stride : (row + 1) * stride] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )


def transparent(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))


@pytest.fixture(scope="module")
def coffee() -> Image.Image:
    with Image.open(locate("coffee.png", _SKIMAGE)) as image:
        return image.convert("RGB").crop((200, 100, 296, 164))


def test_plain_rgb_is_exact_from_bytes_and_from_paths(coffee, tmp_path):
    (tmp_path / "a.png").write_bytes(encode(coffee))
    for data in (encode(coffee), tmp_path / "a.png", str(tmp_path / "a.png"), encode(coffee, "WEBP", lossless=True)):
        torch.testing.assert_close(values(data), pil_to_tensor(coffee).int(), rtol=0, atol=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_in_the_exif_is_applied(coffee, orientation):
    upright = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    wanted = coffee if upright is None else coffee.transpose(upright)
    torch.testing.assert_close(values(encode(coffee, exif=exif)), pil_to_tensor(wanted).int(), rtol=0, atol=0)


def test_grey_and_one_bit_become_equal_channels():
    grey = Image.linear_gradient("L")
    torch.testing.assert_close(values(encode(grey)), pil_to_tensor(grey).int().expand(3, -1, -1), rtol=0, atol=0)
    bits = grey.convert("1")
    assert values(encode(bits)).unique().tolist() == [0, 255]
    torch.testing.assert_close(values(encode(bits)), pil_to_tensor(bits.convert("RGB")).int(), rtol=0, atol=0)


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white(coffee):
    palette = coffee.quantize(16)
    wanted = pil_to_tensor(palette.convert("RGB")).int()
    torch.testing.assert_close(values(encode(palette)), wanted, rtol=0, atol=0)
    holes = pil_to_tensor(palette) == 3
    assert 0 < holes.sum() < holes.numel()
    for kind in ("PNG", "GIF"):
        torch.testing.assert_close(values(encode(palette, kind, transparency=3)), wanted.masked_fill(holes, 255))


def test_half_transparent_palettes_are_blended():
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 200, 100, 0])
    palette.putpixel((1, 0), 1)
    got = values(encode(palette, transparency=bytes([255, 128])))
    assert got[:, 0, 0].tolist() == [0, 0, 0]
    assert got[:, 0, 1].sub(torch.tensor([227, 177, 127])).abs().max() <= 1


@pytest.mark.parametrize(("mode", "colour"), [("RGBA", (200, 100, 0)), ("LA", (100,))])
def test_alpha_is_composited_on_white(mode, colour):
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (*colour, alpha))
    got = values(encode(image))[:, 0].T
    true = torch.tensor(colour * 3 if len(colour) == 1 else colour)
    for x, alpha in enumerate((0, 128, 255)):
        assert (got[x] - (true * alpha + 255 * (255 - alpha)) / 255).abs().max() <= 1


def test_a_transparent_colour_of_rgb_and_of_grey_is_white():
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    assert values(encode(image, transparency=(1, 2, 3)))[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]
    grey = Image.new("L", (2, 1), 10)
    grey.putpixel((1, 0), 77)
    assert values(encode(grey, transparency=77))[:, 0].T.tolist() == [[10] * 3, [255] * 3]


def test_16_bit_grey_is_scaled_and_never_clipped():
    levels = [0, 128, 129, 257, 300, 32768, 65407, 65535]
    wanted = [round(level * 255 / 65535) for level in levels]
    rows = struct.pack(">8H", *levels)
    assert values(png(8, 1, 16, 0, rows))[0, 0].tolist() == wanted
    image = Image.frombytes("I;16", (8, 1), struct.pack("<8H", *levels))
    for data in (encode(image, "TIFF"), encode(image.convert("I"), "TIFF"), encode(image, "PNG")):
        assert values(data).tolist() == [[wanted]] * 3
    # PGM with 16 bits
    assert values(b"P5 8 1 65535\n" + rows)[0, 0].tolist() == wanted
    key = values(png(8, 1, 16, 0, rows, transparent(struct.pack(">H", 300))))[0, 0].tolist()
    assert key == [255 if level == 300 else value for level, value in zip(levels, wanted, strict=True)]


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)], ids=["RGB", "RGBA", "LA"])
def test_16_bit_colour_is_at_most_one_level_away(colour, channels):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 65536, (1, 64, channels), generator=generator)
    if channels != 3:
        levels[..., -1] = 65535
    got = values(png(64, 1, 16, colour, struct.pack(f">{64 * channels}H", *levels.flatten().tolist())))
    true = (levels[..., :3] if channels > 2 else levels[..., :1].expand(-1, -1, 3)).permute(2, 0, 1) * 255 / 65535
    assert (got - true).abs().max() <= 1
    assert got.max() > 240


def test_a_transparent_colour_of_16_bit_rgb_keeps_the_picture():
    rows = struct.pack(">6H", 65535, 40000, 300, 0, 0, 0)
    got = values(png(2, 1, 16, 2, rows, transparent(struct.pack(">3H", 65535, 40000, 300))))
    assert got[:, 0].T.tolist() == [[255, 156, 1], [0, 0, 0]]


def test_cmyk_has_the_colours_that_it_was_made_from(coffee):
    # Pillow and libjpeg mark CMYK JPEGs as Adobe's, which are stored inverted; TIFF is stored straight.
    cmyk = coffee.convert("CMYK")
    jpeg = encode(cmyk, "JPEG", quality=98)
    assert b"Adobe" in jpeg
    assert Image.open(io.BytesIO(jpeg)).mode == "CMYK"
    assert (values(jpeg) - pil_to_tensor(coffee).int()).abs().float().mean() < 3
    assert (values(encode(cmyk, "TIFF")) - pil_to_tensor(coffee).int()).abs().max() <= 1


def test_other_modes_become_rgb(coffee):
    ycbcr = encode(coffee.convert("YCbCr"), "TIFF")
    assert (values(ycbcr) - pil_to_tensor(coffee).int()).abs().max() <= 4
    first = encode(coffee, "GIF", save_all=True, append_images=[Image.new("RGB", coffee.size)])
    assert values(first).float().mean() > 30


@pytest.mark.parametrize(
    "photo", [("rocket.jpg", _SKIMAGE), ("coffee.png", _SKIMAGE), ("china.jpg", _SKLEARN)], ids=lambda p: p[0]
)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.95])
def test_truncated_photos_are_refused(photo, share):
    data = locate(*photo).read_bytes()
    with pytest.raises(UnreadableImageError, match="cannot be read as an image"):
        decode_image(data[: int(len(data) * share)])


def test_damaged_and_foreign_files_are_refused_in_one_sentence(coffee, tmp_path):
    data = bytearray(encode(coffee))
    data[len(data) // 2] ^= 0xFF  # one byte wrong in the middle of the compressed pixels
    (tmp_path / "notes.png").write_text("not an image")
    floats = encode(Image.new("F", (4, 4), 0.5), "TIFF")
    wide = encode(Image.new("I", (4, 4), 100_000), "TIFF")
    cases = {
        bytes(data): "The image cannot be read",
        str(tmp_path / "notes.png"): "notes.png.*no known image format",
        str(tmp_path / "missing.png"): "missing.png.*no such file",
        str(tmp_path): "Is a directory",
        floats: "floating-point",
        wide: "100000",
    }
    for case, words in cases.items():
        with pytest.raises(UnreadableImageError, match=words) as caught:
            decode_image(case)
        assert "\n" not in str(caught.value)
        assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason
