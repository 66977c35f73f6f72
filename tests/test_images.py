"""Image files: every mode is decoded to 8-bit RGB; loading and saving pixels."""

import io
import pickle
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor

import smalti
from smalti.data import Folder
from smalti.data.packaged_files import locate
from smalti.data.packaged_photos import _SKIMAGE, _SKLEARN
from smalti.errors import SmaltiError
from smalti.images import UnreadableImageError, decode_image, decode_tensor
from smalti.pixels import pixels_to_uint8


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def values(data: bytes | str | Path) -> torch.Tensor:
    """Decode an image with both functions, which must agree."""
    image = decode_image(data)
    assert image.mode == "RGB"
    pixels = pil_to_tensor(image)
    assert torch.equal(decode_tensor(data, lambda size: 1), pixels)
    return pixels.int()


def png(width: int, height: int, depth: int, color_type: int, rows: bytes, extra: bytes = b"") -> bytes:
    """Encode a PNG of any bit depth and color type. Pillow cannot write all of them."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    stride = len(rows) // height
    raw = b"".join(b"\0" + rows[row * stride : (row + 1) * stride] for row in range(height))
    header = struct.pack(">IIBBBBB", width, height, depth, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    )


def transparency_chunk(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + b"tRNS" + data + struct.pack(">I", zlib.crc32(b"tRNS" + data))


@pytest.fixture(scope="module")
def coffee() -> Image.Image:
    with Image.open(locate("coffee.png", _SKIMAGE)) as image:
        return image.convert("RGB").crop((200, 100, 296, 164))


def test_rgb_is_decoded_exactly_from_bytes_and_from_paths(coffee, tmp_path):
    (tmp_path / "a.png").write_bytes(encode(coffee))
    for data in (encode(coffee), tmp_path / "a.png", str(tmp_path / "a.png"), encode(coffee, "WEBP", lossless=True)):
        torch.testing.assert_close(values(data), pil_to_tensor(coffee).int(), rtol=0, atol=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(coffee, orientation):
    upright = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = coffee if upright is None else coffee.transpose(upright)
    torch.testing.assert_close(values(encode(coffee, exif=exif)), pil_to_tensor(expected).int(), rtol=0, atol=0)


@pytest.mark.parametrize("orientation", [1, 2, 6, 7])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("factor", [2, 8])
def test_jpeg_files_are_reduced_while_decoding(mode, orientation, factor):
    exif = Image.Exif()
    exif[0x0112] = orientation
    with Image.open(locate("coffee.png", _SKIMAGE)) as photo:
        data = encode(photo.convert("RGB").resize((195, 120)).convert(mode), "JPEG", quality=90, exif=exif)
    full = decode_image(data)
    sizes = []
    reduced = decode_tensor(data, lambda size: sizes.append(size) or factor)
    assert sizes == [full.size]
    assert reduced.shape == (3, -(-full.height // factor), -(-full.width // factor))
    expected = full.resize(reduced.shape[:0:-1], Image.Resampling.BICUBIC)
    assert (reduced.float() - pil_to_tensor(expected)).abs().mean() < 10


def test_other_formats_are_not_reduced(coffee):
    assert decode_tensor(encode(coffee), lambda size: pytest.fail("asked")).shape == (3, 64, 96)


def test_grayscale_and_bilevel_images_become_equal_channels():
    gray = Image.linear_gradient("L")
    torch.testing.assert_close(values(encode(gray)), pil_to_tensor(gray).int().expand(3, -1, -1), rtol=0, atol=0)
    bits = gray.convert("1")
    assert values(encode(bits)).unique().tolist() == [0, 255]
    torch.testing.assert_close(values(encode(bits)), pil_to_tensor(bits.convert("RGB")).int(), rtol=0, atol=0)


def test_palette_images_become_rgb_with_white_for_the_transparent_color(coffee):
    palette = coffee.quantize(16)
    expected = pil_to_tensor(palette.convert("RGB")).int()
    torch.testing.assert_close(values(encode(palette)), expected, rtol=0, atol=0)
    transparent = pil_to_tensor(palette) == 3
    assert 0 < transparent.sum() < transparent.numel()
    for kind in ("PNG", "GIF"):
        torch.testing.assert_close(
            values(encode(palette, kind, transparency=3)), expected.masked_fill(transparent, 255)
        )


def test_semitransparent_palette_entries_are_blended():
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 200, 100, 0])
    palette.putpixel((1, 0), 1)
    actual = values(encode(palette, transparency=bytes([255, 128])))
    assert actual[:, 0, 0].tolist() == [0, 0, 0]
    assert actual[:, 0, 1].sub(torch.tensor([227, 177, 127])).abs().max() <= 1


@pytest.mark.parametrize(("mode", "color"), [("RGBA", (200, 100, 0)), ("LA", (100,))])
def test_alpha_is_composited_on_white(mode, color):
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (*color, alpha))
    actual = values(encode(image))[:, 0].T
    exact = torch.tensor(color * 3 if len(color) == 1 else color)
    for x, alpha in enumerate((0, 128, 255)):
        assert (actual[x] - (exact * alpha + 255 * (255 - alpha)) / 255).abs().max() <= 1


def test_the_transparent_color_of_rgb_and_grayscale_becomes_white():
    image = Image.new("RGB", (2, 1), (10, 20, 30))
    image.putpixel((1, 0), (1, 2, 3))
    assert values(encode(image, transparency=(1, 2, 3)))[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255]]
    gray = Image.new("L", (2, 1), 10)
    gray.putpixel((1, 0), 77)
    assert values(encode(gray, transparency=77))[:, 0].T.tolist() == [[10] * 3, [255] * 3]


def test_16_bit_grayscale_is_scaled_and_never_clipped():
    levels = [0, 128, 129, 257, 300, 32768, 65407, 65535]
    expected = [round(level * 255 / 65535) for level in levels]
    rows = struct.pack(">8H", *levels)
    assert values(png(8, 1, 16, 0, rows))[0, 0].tolist() == expected
    image = Image.frombytes("I;16", (8, 1), struct.pack("<8H", *levels))
    for data in (encode(image, "TIFF"), encode(image.convert("I"), "TIFF"), encode(image, "PNG")):
        assert values(data).tolist() == [[expected]] * 3
    # PGM with 16 bits
    assert values(b"P5 8 1 65535\n" + rows)[0, 0].tolist() == expected
    with_key = values(png(8, 1, 16, 0, rows, transparency_chunk(struct.pack(">H", 300))))[0, 0].tolist()
    assert with_key == [255 if level == 300 else value for level, value in zip(levels, expected, strict=True)]


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (6, 4), (4, 2)], ids=["RGB", "RGBA", "LA"])
def test_16_bit_color_differs_by_at_most_one_level(color_type, channels):
    generator = torch.Generator().manual_seed(0)
    levels = torch.randint(0, 65536, (1, 64, channels), generator=generator)
    if channels != 3:
        levels[..., -1] = 65535
    actual = values(png(64, 1, 16, color_type, struct.pack(f">{64 * channels}H", *levels.flatten().tolist())))
    exact = (levels[..., :3] if channels > 2 else levels[..., :1].expand(-1, -1, 3)).permute(2, 0, 1) * 255 / 65535
    assert (actual - exact).abs().max() <= 1
    assert actual.max() > 240


def test_the_transparent_color_of_16_bit_rgb_is_ignored():
    rows = struct.pack(">6H", 65535, 40000, 300, 0, 0, 0)
    actual = values(png(2, 1, 16, 2, rows, transparency_chunk(struct.pack(">3H", 65535, 40000, 300))))
    assert actual[:, 0].T.tolist() == [[255, 156, 1], [0, 0, 0]]


def test_cmyk_keeps_the_colors_of_the_original(coffee):
    # Pillow and libjpeg mark CMYK JPEGs with Adobe's marker, which stands for inverted values; TIFF stores them directly.
    cmyk = coffee.convert("CMYK")
    jpeg = encode(cmyk, "JPEG", quality=98)
    assert b"Adobe" in jpeg
    assert Image.open(io.BytesIO(jpeg)).mode == "CMYK"
    assert (values(jpeg) - pil_to_tensor(coffee).int()).abs().float().mean() < 3
    assert (values(encode(cmyk, "TIFF")) - pil_to_tensor(coffee).int()).abs().max() <= 1


def test_other_modes_and_animations_become_rgb(coffee):
    ycbcr = encode(coffee.convert("YCbCr"), "TIFF", compression="tiff_lzw")  # Pillow 12.3 cannot read it uncompressed
    assert (values(ycbcr) - pil_to_tensor(coffee).int()).abs().max() <= 4
    first = encode(coffee, "GIF", save_all=True, append_images=[Image.new("RGB", coffee.size)])
    assert values(first).float().mean() > 30


@pytest.mark.parametrize(
    "photo", [("rocket.jpg", _SKIMAGE), ("coffee.png", _SKIMAGE), ("china.jpg", _SKLEARN)], ids=lambda p: p[0]
)
@pytest.mark.parametrize("fraction", [0.0, 0.01, 0.5, 0.95])
def test_truncated_photos_raise_an_error(photo, fraction):
    data = locate(*photo).read_bytes()
    with pytest.raises(UnreadableImageError, match="cannot be read as an image"):
        decode_image(data[: int(len(data) * fraction)])


def test_corrupt_and_unknown_files_raise_an_error_of_one_sentence(coffee, tmp_path):
    data = bytearray(encode(coffee))
    data[len(data) // 2] ^= 0xFF  # one wrong byte in the middle of the compressed pixels
    (tmp_path / "notes.png").write_text("not an image")
    floats = encode(Image.new("F", (4, 4), 0.5), "TIFF")
    wide = encode(Image.new("I", (4, 4), 100_000), "TIFF")
    cases = {
        bytes(data): "The image cannot be read",
        str(tmp_path / "notes.png"): "notes.png.*unknown image format",
        str(tmp_path / "missing.png"): "missing.png.*no such file",
        str(tmp_path): "Is a directory",
        floats: "floating-point",
        wide: "100000",
    }
    for case, message in cases.items():
        with pytest.raises(UnreadableImageError, match=message) as caught:
            decode_image(case)
        assert "\n" not in str(caught.value)
        assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


def test_an_image_with_too_many_pixels_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    """A PNG of 60,000 x 60,000 pixels may have a few hundred kilobytes; decoded to RGB it takes 10 GiB."""
    small = png(8, 1, 1, 0, b"\0")
    header = small[12:16] + struct.pack(">II", 60_000, 60_000) + small[24:29]
    (tmp_path / "huge.png").write_bytes(small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:])

    monkeypatch.setattr(Image.core, "new", lambda *size: pytest.fail("memory is taken for the pixels"))
    path = str(tmp_path / "huge.png")
    for read in (decode_image, smalti.load_image, lambda path: Folder(tmp_path)[0]):
        with pytest.raises(UnreadableImageError, match=r"huge\.png .*178,956,970 pixels\): downscale it") as caught:
            read(path)
    assert "downscale" in pickle.loads(pickle.dumps(caught.value)).summary  # it reaches the log of the loader
    with pytest.raises(UnreadableImageError, match="178,956,970"):
        decode_image((tmp_path / "huge.png").read_bytes())


@pytest.fixture
def pixels(photo):
    return photo[..., :21, :30]


def test_saved_pixels_are_loaded_with_8_bits(pixels, tmp_path):
    path = tmp_path / "new" / "folder" / "image.png"
    smalti.save_image(pixels, path)
    loaded = smalti.load_image(path)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, pixels)
    smalti.save_image(pixels[0], str(path))
    assert torch.equal(smalti.load_image(str(path)), pixels)
    assert [file.name for file in path.parent.iterdir()] == ["image.png"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_are_clamped_and_rounded(tmp_path, dtype):
    levels = torch.tensor([-9, -1, -0.5 / 127.5, 0.6 / 127.5, 1, 9], dtype=dtype).expand(1, 3, 2, 6)
    smalti.save_image(levels.clone().requires_grad_(), tmp_path / "x.png")
    assert pixels_to_uint8(smalti.load_image(tmp_path / "x.png"))[0, 0, 0].tolist() == [0, 0, 127, 128, 255, 255]


def test_images_are_loaded_as_a_viewer_shows_them(tmp_path):
    image = Image.new("RGBA", (4, 2), (255, 0, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    image.save(tmp_path / "x.png", exif=exif)
    assert torch.equal(smalti.load_image(tmp_path / "x.png"), torch.ones(1, 3, 4, 2))


def test_a_missing_image_is_named(tmp_path):
    with pytest.raises(UnreadableImageError, match=r"absent.png .*no such file"):
        smalti.load_image(tmp_path / "absent.png")


@pytest.mark.parametrize(
    ("change", "name", "message"),
    [
        (lambda x: x.expand(2, -1, -1, -1), "x.png", "writes one image, but the batch .* has 2"),
        (lambda x: x.unsqueeze(2), "x.png", r"not \(1, 3, 1, 21, 30\): .*write_video"),
        (lambda x: x[:, :1], "x.png", r"not \(1, 1, 21, 30\)"),
        (pixels_to_uint8, "x.png", "not torch.uint8"),
        (lambda x: x / 0, "x.png", "NaN or infinite"),
        (lambda x: x, "x.xyz", "x.xyz cannot be written as an image: give a name that ends in .png"),
        (lambda x: x, "x", "cannot be written as an image"),
        (lambda x: x, "file/x.png", "cannot be written .*choose another path"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_is_written(pixels, tmp_path, change, name, message):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(SmaltiError, match=message):
        smalti.save_image(change(pixels), tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
