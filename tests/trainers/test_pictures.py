"""The pictures of validation: a row an image; a strip and a film of clips."""

from fractions import Fraction

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from smalti.pixels import pixels_to_uint8
from smalti.trainers import ReconstructionGrid, TokenizerTraining
from smalti.types import Batch
from smalti.video import probe, read_frames


@pytest.fixture
def show(trainer, small, tmp_path):
    """A function that validates on batches of pixels and gives the files' folder."""

    def run(*pixels, rate=None, **options):
        data = LightningDataModule()
        data.val_dataloader = lambda: DataLoader([Batch(x, ["x"] * len(x)) for x in pixels], batch_size=None)
        if rate:
            data.rate = rate
        logger = TensorBoardLogger(tmp_path, name="", version="run")
        module = TokenizerTraining(small(), {"l1": 1.0})
        trainer(ReconstructionGrid(**options), logger=logger).validate(module, data, verbose=False)
        return tmp_path / "run" / "reconstructions"

    return run


def test_images_are_rows_of_three(show, photo):
    folder = show(photo[..., :32, :40], photo[..., 8:32, 8:32].repeat(2, 1, 1, 1), samples=2)
    assert [file.name for file in folder.iterdir()] == ["step_00000000.png"]
    picture = pil_to_tensor(Image.open(folder / "step_00000000.png"))
    assert picture.shape == (3, 2 * 34 + 2, 3 * 42 + 2)
    assert torch.equal(picture[:, 2:34, 2:42], pixels_to_uint8(photo[0, :, :32, :40]))
    assert (picture[:, 36 + 24 : 68, 2:42] == 255).all()  # white below the smaller one
    original, restored, difference = (picture[:, 2:34, i : i + 40].int() for i in (2, 44, 86))
    assert torch.equal(difference, (128 + 2 * (restored - original)).clamp(0, 255))


@pytest.mark.parametrize("rate", [None, 25])
def test_clips_are_strips_and_a_film(show, clip, rate):
    short = clip[:, :, :5, :24]
    folder = show(clip, short, clip, rate=rate, clips=2, frames=4)
    assert {file.name for file in folder.iterdir()} == {"clips_step_00000000.png", "clips_step_00000000.mp4"}
    strip = pil_to_tensor(Image.open(folder / "clips_step_00000000.png"))
    assert strip.shape == (3, 2 * 3 * 34 + 2, 4 * 50 + 2)
    assert torch.equal(strip[:, 2:34, 152:200], pixels_to_uint8(clip[0, :, 7]))  # the last frame ends the row
    film = folder / "clips_step_00000000.mp4"
    assert probe(film).rate == Fraction(rate or 24)
    frames = list(read_frames(film))
    assert len(frames) == 8
    for t, frame in enumerate(frames):
        assert frame.shape == (3, 2 * 34 + 2, 2 * 50 + 2)
        error = frame[:, 2:34, 2:50].float() - pixels_to_uint8(clip[0, :, t]).float()
        assert error.abs().mean() < 8  # what H.264 leaves of it
        assert (frame[:, 36:60, 2:50].float() - pixels_to_uint8(short[0, :, min(t, 4)]).float()).abs().mean() < 8


def test_pictures_go_to_tensorboard(show, clip):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(show(clip, clip[:, :, 0]).parent))
    events.Reload()
    assert set(events.Tags()["images"]) == {
        "val/original_reconstruction_difference",
        "val/clips_original_reconstruction_difference",
    }
