"""Files with any number of channels keep all bits, and are scaled by channels.yaml; wrong files are one sentence."""

import numpy as np
import pytest
import torch
from lightning.pytorch import seed_everything

from smalti.cli.held_out import split_folder
from smalti.data import (
    BandClips,
    BandFolder,
    EvaluationTransform,
    ImageData,
    ImageFiles,
    MultiSizeImageData,
    TrainingTransform,
    VideoData,
    VideoEvaluationTransform,
    VideoTrainingTransform,
    evaluation_loader,
    open_source,
)
from smalti.errors import SmaltiError
from smalti.eval.protocols import get_protocol
from smalti.images import UnreadableImageError
from smalti.tokenization.preprocessing import check_protocol
from smalti.video import UnreadableVideoError


def write(folder, channels="{rgb: 3, nir: 1}", ranges=None):
    folder.mkdir(exist_ok=True)
    text = f"channels: {channels}\n" + (f"range: {ranges}\n" if ranges else "")
    (folder / "channels.yaml").write_text(text)
    return folder


def random_values(shape, dtype=np.uint16, high=65536):
    return np.random.default_rng(0).integers(0, high, shape).astype(dtype)


def expected(values, low=0, high=65535):
    return torch.from_numpy((values.astype(np.float64) - low) / (high - low) * 2 - 1).float()


@pytest.mark.parametrize("layout", ["first", "last"])
def test_npy_and_tiff_keep_16_bits(tmp_path, layout):
    tifffile = pytest.importorskip("tifffile")
    folder = write(tmp_path / "bands")
    values = random_values((20, 30, 4))
    stored = values if layout == "last" else values.transpose(2, 0, 1)
    np.save(folder / "a.npy", stored)
    tifffile.imwrite(folder / "b.tif", stored, photometric="minisblack")
    source = open_source(str(folder), any_channels=True)
    assert isinstance(source, BandFolder)
    with pytest.raises(SmaltiError, match="reads photos and videos only"):
        open_source(str(folder))
    assert [source.name(i) for i in range(len(source))] == ["a.npy", "b.tif"]
    for image in (source[0], source[1]):
        torch.testing.assert_close(image, expected(values).permute(2, 0, 1), rtol=0, atol=1e-6)


def test_png_with_16_bits_per_color(tmp_path):
    folder = write(tmp_path / "png", "{rgb: 3}")
    values = random_values((7, 5, 3))
    (folder / "a.png").write_bytes(encode_png(values))
    torch.testing.assert_close(
        open_source(str(folder), any_channels=True)[0], expected(values).permute(2, 0, 1), rtol=0, atol=1e-6
    )


def encode_png(values):
    """Return (H, W, 3) uint16 as a PNG file without filters. Pillow cannot write 16-bit colors."""
    import struct
    import zlib

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_each_group_has_its_range_and_values_outside_are_clamped(tmp_path):
    folder = write(tmp_path / "a", "{rgb: 3, depth: 1}", "{rgb: [0, 255], depth: [2, 10]}")
    values = np.full((4, 4, 4), 255.0)
    values[..., 3] = np.arange(16).reshape(4, 4)
    np.save(folder / "a.npy", values)
    image = open_source(str(folder), any_channels=True)[0]
    assert (image[:3] == 1).all()
    torch.testing.assert_close(image[3], expected(np.arange(16).reshape(4, 4), 2, 10).clamp(-1, 1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((5, 6, 3), np.uint8), r"shape \(5, 6, 3\), not 4 channels \(rgb 3, nir 1\)"),
        (np.zeros((4, 4, 4), np.float32), "range of its floating-point values is unknown for the group rgb"),
        (np.zeros((4, 4, 4), np.complex64), "not real numbers"),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path, values, message):
    folder = write(tmp_path / "a")
    np.save(folder / "a.npy", values)
    with pytest.raises(UnreadableImageError, match=message):
        open_source(str(folder), any_channels=True)[0]


def test_nan_and_damaged_files_are_unreadable(tmp_path):
    folder = write(tmp_path / "a", "{depth: 1}", "[0, 1]")
    np.save(folder / "a.npy", np.full((4, 4), np.nan))
    (folder / "b.npy").write_bytes(b"x" * 100)
    (folder / "c.png").write_bytes(b"x" * 100)
    source = open_source(str(folder), any_channels=True)
    with pytest.raises(UnreadableImageError, match="contains NaN"):
        source[0]
    for index in (1, 2):
        with pytest.raises(UnreadableImageError):
            source[index]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("channels: {rgb: 4}", "red, green and blue are 3"),
        ("channels: 4", "give the number of channels of each group"),
        ("bands: {rgb: 3}", "must contain channels"),
        ("channels: {nir: 1}\nrange: [5, 5]", r"range in .* is \[5, 5\]"),
        ("channels: {nir: 1}\nrange: {swir: [0, 1]}", "range in"),
        ("channels: [", "is not valid YAML"),
    ],
)
def test_a_wrong_description_is_one_sentence(tmp_path, text, message):
    (tmp_path / "channels.yaml").write_text(text)
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    with pytest.raises(SmaltiError, match=message) as error:
        open_source(str(tmp_path), any_channels=True)
    assert "\n" not in str(error.value)


def test_folders_without_a_description_contain_photos_as_before(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    source = open_source(str(tmp_path), any_channels=True)
    assert isinstance(source, ImageFiles)
    assert len(source) == 1
    with pytest.raises(SmaltiError, match=r"no file channels\.yaml"):
        BandFolder(tmp_path)
    with pytest.raises(SmaltiError, match="contains no images"):
        open_source(str(write(tmp_path / "empty")))


def test_a_part_is_held_out_with_the_description(tmp_path):
    folder = write(tmp_path / "a")
    for index in range(5):
        np.save(folder / f"{index}.npy", random_values((8, 8, 4)))
    parts = [
        open_source(str(part), any_channels=True) for part in split_folder(folder, tmp_path / "split", videos=False)
    ]
    assert [len(part) for part in parts] == [4, 1]
    assert all(part.channels == {"rgb": 3, "nir": 1} for part in parts)


def test_crops_and_flips_are_those_of_photos(tmp_path):
    """The same random numbers give the same crop: an image in [-1, 1] and its 8 bits."""
    from PIL import Image
    from skimage import data

    photo = Image.fromarray(data.cat()[:120, :160])
    values = torch.from_numpy(np.array(photo)).permute(2, 0, 1) / 127.5 - 1
    transforms = [TrainingTransform(32), EvaluationTransform(64, 48), EvaluationTransform(32, 48)]
    for transform in transforms:
        seed_everything(3, verbose=False)
        of_photo = transform(photo)
        seed_everything(3, verbose=False)
        of_values = transform(values)
        assert of_values.dtype == torch.float32
        assert of_values.abs().max() <= 1
        assert (of_values - of_photo).abs().max() <= 3 / 127.5  # rounding, and that of Pillow's filter
    with pytest.raises(SmaltiError, match="permute_colors is set, but the images have 4 channels"):
        TrainingTransform(8, permute_colors=True)(torch.zeros(4, 16, 16))


def test_the_data_module_yields_all_channels_in_the_same_order_for_any_number_of_workers(tmp_path):
    folder = write(tmp_path / "a")
    for index in range(4):
        np.save(folder / f"{index}.npy", random_values((24, 24, 4)))
    batches = []
    for workers in (0, 2):
        module = ImageData(str(folder), str(folder), size=16, batch_size=2, workers=workers)
        loader = module.train_dataloader()
        batches.append(list(loader))
        validation = list(module.val_dataloader())
        module.teardown("fit")
    assert [batch.names for batch in batches[0]] == [batch.names for batch in batches[1]]
    assert all(torch.equal(a.pixels, b.pixels) for a, b in zip(*batches, strict=True))
    assert batches[0][0].pixels.shape == (2, 4, 16, 16)
    assert batches[0][0].pixels.dtype == torch.float32
    assert sum(len(batch.names) for batch in validation) == 4


@pytest.mark.parametrize("layout", ["first", "last"])
def test_clips_keep_16_bits_and_every_frame_gets_the_same_crop(tmp_path, layout):
    folder = write(tmp_path / "clips")
    (folder / "channels.yaml").write_text("channels: {rgb: 3, nir: 1}\nclips: true")
    values = np.stack([random_values((40, 50, 4))] * 7)
    np.save(folder / "a.npy", values if layout == "last" else values.transpose(0, 3, 1, 2))
    source = open_source(str(folder), any_channels=True)
    assert isinstance(source, BandClips)
    assert source.videos
    loader = evaluation_loader(source, VideoEvaluationTransform(5, None, 1, None, 32), 1, 0)
    (batch,) = loader
    assert batch.names == ["a.npy@0.000"]
    assert batch.pixels.shape == (1, 4, 5, 32, 32)
    whole = expected(values[0]).permute(2, 0, 1)
    torch.testing.assert_close(batch.pixels[0, :, 3], EvaluationTransform(None, 32)(whole), rtol=0, atol=1e-6)

    seed_everything(0)
    clip = VideoTrainingTransform(5, None, 1, 16)(source[0])
    assert clip.pixels.shape == (4, 5, 16, 16)
    assert torch.equal(clip.pixels[:, 0], clip.pixels[:, 4])
    data = VideoData(str(folder), str(folder), frames=3, size=16, batch_size=1, workers=0)
    assert data.channels == {"rgb": 3, "nir": 1}
    assert next(iter(data.train_dataloader())).pixels.shape == (1, 4, 3, 16, 16)


def test_clips_start_anywhere_and_skip_frames(tmp_path):
    folder = write(tmp_path / "clips", "{depth: 1}", "[0, 8]")
    with (folder / "channels.yaml").open("a") as file:
        file.write("clips: true\n")
    np.save(folder / "a.npy", np.arange(9.0)[:, None, None] * np.ones((1, 16, 16)))
    source = open_source(str(folder), any_channels=True)
    seen = set()
    for seed in range(20):
        seed_everything(seed, verbose=False)
        clip = VideoTrainingTransform(3, None, 2, 8)(source[0])
        frames = ((clip.pixels[0, :, 0, 0] + 1) * 4).round().int().tolist()
        assert frames == [frames[0], frames[0] + 2, frames[0] + 4]
        assert clip.name == f"a.npy@{frames[0]:.3f}"
        seen.add(frames[0])
    assert seen == {0, 1, 2, 3, 4}
    with pytest.raises(UnreadableVideoError, match="has 9 frames, but 10 are needed"):
        VideoTrainingTransform(10, None, 1, 8)(source[0])


def test_wrong_clips_are_one_sentence(tmp_path):
    folder = write(tmp_path / "clips")
    with (folder / "channels.yaml").open("a") as file:
        file.write("clips: true\n")
    np.save(folder / "a.npy", random_values((40, 50, 4)))
    source = open_source(str(folder), any_channels=True)
    with pytest.raises(UnreadableImageError, match="not that of a clip of 4 channels"):
        VideoTrainingTransform(1, None, 1, 8)(source[0])
    with pytest.raises(SmaltiError, match="the clips have no frame rate"):
        VideoData(str(folder), frames=3, rate=24.0)
    with pytest.raises(SmaltiError, match="leave out @"):
        check_protocol(source, get_protocol("clip5x32@24"))
    with pytest.raises(SmaltiError, match="contains no images, but 1 videos"):
        ImageData(str(folder))
    (folder / "channels.yaml").write_text("channels: {rgb: 3}\nclips: 4")
    with pytest.raises(SmaltiError, match="write true if the files are clips"):
        open_source(str(folder), any_channels=True)


def test_all_sizes_of_a_run_have_the_channels_of_the_data(tmp_path):
    folder = write(tmp_path / "bands")
    np.save(folder / "a.npy", random_values((40, 50, 4)))
    data = MultiSizeImageData(str(folder), str(folder), sizes=(8, 16), batch_sizes=(1, 1), workers=0)
    assert data.channels == {"rgb": 3, "nir": 1}
