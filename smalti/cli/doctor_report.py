"""The examination of `smalti doctor`: measure a tokenizer on data, run the checks, and print the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smalti.cli.build_data import build_data
from smalti.cli.progress import ProgressDisplay
from smalti.cli.run_folder import CONFIG, find_run
from smalti.errors import SmaltiError
from smalti.eval.functional import mean_over_frames, psnr
from smalti.eval.linear_codec import LinearCodec
from smalti.pixels import pixels_to_uint8, to_pixels, uint8_to_pixels
from smalti.tokenizers.checkpoints import load, provenance
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.tokenizers.weight_files import read_checkpoint
from smalti.trainers import Health
from smalti.trainers.health import CODEC_FILE, CheckResult, fit_linear_codec, run_checks
from smalti.trainers.health.baselines import Baselines, mean_color
from smalti.trainers.health.checks import YOUNG
from smalti.trainers.health.code_usage import count_code_usage
from smalti.trainers.health.measurement import Measurement
from smalti.trainers.health.record import HistoryPoint, TrainingRecord
from smalti.types import Batch

_TRAINING_SAMPLES = 128
"""Number of training samples for the mean color and the linear codec, if the run has none."""


@dataclass
class Examination:
    """What `smalti doctor` found.

    Attributes:
        title: what was examined, on which data.
        results: the results of the checks.
        young: whether the run is too young to be judged.
        notes: sentences about what the comparison is based on.
    """

    title: str
    results: list[CheckResult]
    young: bool
    notes: list[str]


def examine(
    path: Path,
    *,
    data: str | None,
    size: int | None,
    frames: int | None,
    samples: int,
    batch_size: int,
    codec_file: Path | None,
    device: torch.device,
) -> Examination:
    """Measure a tokenizer, and run the checks.

    Args:
        path: a checkpoint or an exported folder.
        data: source of images or videos; None for the validation data of the run.
        size: height and width of the samples of `data`; None for that of the run, else 256.
        frames: frames per clip of `data`; None for that of the run, else 17.
        samples: maximum number of samples.
        batch_size: samples of `data` per batch.
        codec_file: a linear codec; None for that of the run.
        device: device to measure on.

    Raises:
        SmaltiError: the tokenizer or the data cannot be read, or there is no data.
    """
    tokenizer = load(path, device)
    checkpoint = read_checkpoint(path) if path.is_file() else {}
    state = (checkpoint.get("callbacks") or {}).get(Health.__qualname__)
    run = find_run(path)
    module = _RunData(run)
    if data is None:
        loader, source = module.validation(path), "the validation data of the run"
    else:
        loader, source = _open_loader(data, size or module.size or 256, frames or module.frames or 17, batch_size), data
    batches = _load(loader, samples, samples)
    if not batches:
        raise SmaltiError(f"There are no samples in {source}: pass --data SOURCE.")
    notes: list[str] = []
    codec = _find_codec(tokenizer, module, codec_file, notes)
    color = _find_color(state, module, batches, notes)
    baselines = Baselines(tokenizer, color, codec)
    training = None if state is None else TrainingRecord.from_dict(state["training"])
    step = checkpoint.get("global_step") if path.is_file() else provenance(path).get("step")
    measured, value = _measure(tokenizer, baselines, batches, device)
    if training is not None and data is None and step is not None:
        _add_to_history(training, step, value)
    results = run_checks(measured.to_record(step, value, training))
    title = (
        f"{path}" + ("" if step is None else f", step {step}") + f", on {measured.colors.samples} samples of {source}"
    )
    return Examination(title, results, step is not None and step < YOUNG, notes)


def print_report(examination: Examination) -> int:
    """Print the table and the problems, and return the exit code: 1 if there is a problem, else 0."""
    from rich.console import Console
    from rich.table import Table

    print(examination.title)
    table = Table()
    for heading in ("checked", "value", "verdict"):
        table.add_column(heading)
    for result in examination.results:
        verdict = "not checked" if result.unchecked else "[red]problem[/red]" if result.problem else "ok"
        table.add_row(result.name, result.unchecked or result.value, verdict)
    Console().print(table)
    for note in examination.notes:
        print(note)
    problems = [result for result in examination.results if result.problem]
    for result in problems:
        print(f"Problem ({result.name}): {result}")
    if problems and examination.young:
        print(f"The run is too young to be judged: problems before step {YOUNG} are normal.")
        return 0
    if not problems:
        print("No problem was found.")
    return 1 if problems else 0


class _RunData:
    """The data of a run, built from its settings when it is needed.

    Args:
        run: folder of the run; None if the tokenizer is not in one.
    """

    def __init__(self, run: Path | None) -> None:
        self.run = run
        self._module: Any = None

    @property
    def module(self) -> Any:
        """The data module; None without a run."""
        if self._module is None and self.run is not None:
            self._module = build_data(str(self.run / CONFIG))
        return self._module

    def validation(self, path: Path) -> Iterable[Batch]:
        """Return the loader of the validation data.

        Raises:
            SmaltiError: there is no run.
        """
        if self.run is None:
            raise SmaltiError(f"{path} is not in the folder of a run, so that its data is unknown: pass --data SOURCE.")
        return self.module.val_dataloader()

    def training(self) -> list[Tensor]:
        """Return batches of training data, (B, 3, H, W) or (B, 3, T, H, W) in [-1, 1]; none without a run of ours."""
        preview = getattr(self.module, "preview_loaders", None)
        if preview is None:
            return []
        batches: list[Tensor] = []
        for loader in preview():
            batches += _load(loader, _TRAINING_SAMPLES, _TRAINING_SAMPLES // 4)
        return [uint8_to_pixels(batch) for batch in batches]

    @property
    def size(self) -> int | None:
        """Height and width of the samples of the run."""
        return self._argument("size")

    @property
    def frames(self) -> int | None:
        """Frames of the clips of the run."""
        return self._argument("frames")

    def _argument(self, name: str) -> int | None:
        from smalti.cli.recipes import load_recipes

        settings = {} if self.run is None else load_recipes(self.run / CONFIG).get("data") or {}
        arguments = settings.get("init_args") or {}
        value = arguments.get(name) or ((arguments.get("videos") or {}).get("init_args") or {}).get(name)
        return value if isinstance(value, int) else None


def _open_loader(data: str, size: int, frames: int, batch_size: int) -> Iterable[Batch]:
    """Return a loader of the samples of a source, resized and cropped to a square."""
    from smalti.data import EvaluationTransform, VideoEvaluationTransform, evaluation_loader, open_source

    source = open_source(data)
    transform = (
        VideoEvaluationTransform(frames, None, 1, size, size) if source.videos else EvaluationTransform(size, size)
    )
    return evaluation_loader(source, transform, batch_size)


def _load(loader: Iterable[Batch], images: int, clips: int) -> list[Tensor]:
    """Return the first batches of a loader, as 8-bit pixels, with at most this number of images or of clips."""
    batches: list[Tensor] = []
    count = 0
    for batch in loader:
        limit = clips if batch.pixels.ndim == 5 else images
        batches.append(pixels_to_uint8(to_pixels(batch.pixels[: limit - count])))
        count += len(batches[-1])
        if count >= limit:
            break
    return batches


def _find_codec(tokenizer: Tokenizer, data: _RunData, file: Path | None, notes: list[str]) -> LinearCodec | None:
    """Return the linear codec of the run, or fit one to its training data. Without both, say so and return None."""
    if file is not None:
        return LinearCodec.load(file)
    if data.run is not None and (data.run / CODEC_FILE).is_file():
        return LinearCodec.load(data.run / CODEC_FILE)
    batches = data.training() if data.run is not None else []
    if batches:
        notes.append("The run has no linear codec: it was fitted to the training data now.")
        return fit_linear_codec(tokenizer, batches)
    notes.append(
        "There is no linear codec to compare with, because the training data is unknown: pass --linear-codec, the file "
        f"{CODEC_FILE} in the folder of the run."
    )
    return None


def _find_color(
    state: dict[str, Any] | None, data: _RunData, batches: list[Tensor], notes: list[str]
) -> tuple[float, float, float]:
    """Return the mean color of the training data, or else that of the samples."""
    known = None if state is None else state.get("mean_color")
    if known is not None:
        return known[0], known[1], known[2]
    training = data.training() if data.run is not None else []
    if training:
        return mean_color(training, torch.device("cpu"))
    notes.append("The mean color is that of the samples, because the training data is unknown.")
    return mean_color((uint8_to_pixels(batch) for batch in batches), torch.device("cpu"))


@torch.no_grad()
def _measure(
    tokenizer: Tokenizer, baselines: Baselines, batches: list[Tensor], device: torch.device
) -> tuple[Measurement, float]:
    """Reconstruct the samples with every branch; return what was measured, and the mean PSNR of the default branch."""
    total = 0.0
    with count_code_usage(tokenizer.bottleneck) as codes, ProgressDisplay() as progress:
        measured = Measurement(baselines, codes)
        count = sum(map(len, batches))
        with progress.task("Measuring", count, "samples") as update:
            for index, (pixels, names) in enumerate(_with_names(batches)):
                original = uint8_to_pixels(pixels.to(device))
                reconstruction, latents = tokenizer(original, torch.Generator().manual_seed(index))
                for name, branch in tokenizer.branches.items():
                    if name != latents.code.branch:
                        branch(original, torch.Generator().manual_seed(index))
                total += float(mean_over_frames(psnr, pixels_to_uint8(original), pixels_to_uint8(reconstruction)).sum())
                measured.update(Batch(original, names), reconstruction)
                update(measured.colors.samples)
    return measured, total / count


def _add_to_history(training: TrainingRecord, step: int, value: float) -> None:
    """Add the measurement to the validations of the run: a checkpoint is saved before the validation at its step."""
    if not training.history or training.history[-1].step < step:
        rate, peak = training.learning_rate, training.peak_learning_rate
        fraction = rate / peak if rate is not None and peak else 1.0
        training.history.append(HistoryPoint(step, value, fraction, training.gan_steps > 0))


def _with_names(batches: list[Tensor]) -> Iterator[tuple[Tensor, list[str]]]:
    """Yield batches with a different name for each sample."""
    numbers = iter(range(2**62))
    for batch in batches:
        yield batch, [str(number) for number in islice(numbers, len(batch))]
