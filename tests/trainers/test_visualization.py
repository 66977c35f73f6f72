"""Contact sheets and videos of reconstructions, written at validation."""

from fractions import Fraction

import pytest
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms.functional import pil_to_tensor

from smalti.eval.contact_sheet import contact_sheet
from smalti.eval.functional import mean_over_frames, psnr
from smalti.eval.results import Example
from smalti.pixels import pixels_to_uint8
from smalti.trainers import ReconstructionGrid, TokenizerTraining
from smalti.types import Batch
from smalti.video import probe, read_frames


class RecordExamples(Callback):
    """Records every sample with its reconstruction."""

    def __init__(self):
        self.examples = []

    def on_validation_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        for name, *pair in zip(batch.names, batch.pixels, outputs, strict=True):
            self.examples.append(Example(name, *map(pixels_to_uint8, pair)))


@pytest.fixture
def validate(trainer, small, tmp_path):
    """Return a function that validates on batches of pixels, and returns the folder of the files and all examples."""

    def run(*batches, rate=None, **options):
        names = iter("abcdefgh")
        batches = [Batch(x, [next(names) for _ in x]) for x in batches]
        data = LightningDataModule()
        data.val_dataloader = lambda: DataLoader(batches, batch_size=None)
        if rate:
            data.rate = rate
        logger = TensorBoardLogger(tmp_path, name="", version="run")
        recorder = RecordExamples()
        module = TokenizerTraining(small(), {"l1": 1.0})
        trainer(ReconstructionGrid(**options), recorder, logger=logger).validate(module, data, verbose=False)
        return tmp_path / "run" / "reconstructions", recorder.examples

    return run


def is_sheet(file, examples, frames=8):
    """Return whether a file is the contact sheet of the examples, with the PSNR of each."""
    captions = {
        e.name: f"{float(mean_over_frames(psnr, e.original[None], e.reconstruction[None])):.2f} dB" for e in examples
    }
    expected = pil_to_tensor(contact_sheet(examples, captions, frames))
    return torch.equal(pil_to_tensor(Image.open(file)), expected)


def test_images_are_a_contact_sheet_of_the_first_samples(validate, photo):
    folder, examples = validate(photo[..., :32, :40], photo[..., 8:32, 8:32].repeat(2, 1, 1, 1), samples=2)
    assert [file.name for file in folder.iterdir()] == ["step_00000000.png"]
    assert len(examples) == 3
    assert is_sheet(folder / "step_00000000.png", examples[:2])


@pytest.mark.parametrize("rate", [None, 25])
def test_clips_are_a_contact_sheet_and_a_video(validate, clip, rate):
    short = clip[:, :, :5, :24]
    folder, examples = validate(clip, short, clip, rate=rate, clips=2, frames=4)
    assert {file.name for file in folder.iterdir()} == {"clips_step_00000000.png", "clips_step_00000000.mp4"}
    assert is_sheet(folder / "clips_step_00000000.png", examples[:2], frames=4)
    video = folder / "clips_step_00000000.mp4"
    assert probe(video).rate == Fraction(rate or 24)
    frames = list(read_frames(video))
    assert len(frames) == 8 + 5
    originals = [*pixels_to_uint8(clip[0]).unbind(1), *pixels_to_uint8(short[0]).unbind(1)]
    for frame, original in zip(frames, originals, strict=True):
        assert frame.shape == (3, 32, 2 * 48)
        top = (32 - original.shape[1]) // 2
        error = frame[:, top : 32 - top, :48].float() - original.float()
        assert error.abs().mean() < 8  # compression loss of H.264


def test_contact_sheets_are_logged_to_tensorboard(validate, clip):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder, _ = validate(clip, clip[:, :, 0])
    events = EventAccumulator(str(folder.parent))
    events.Reload()
    assert set(events.Tags()["images"]) == {
        "val/original_reconstruction_difference",
        "val/clips_original_reconstruction_difference",
    }
