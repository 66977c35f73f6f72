"""Short training runs of a recipe with any optimizer, in one process, with the quality after each part of the time.

The networks, data, losses, batch size, clipping, averaged weights, start, precision and curriculum are those of the
recipe. The learning rate has a linear warm-up. After it, it is constant, so that each point of a curve is also the result
of a shorter run, or it follows a cosine over the time of the run.
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.optim import Optimizer

from smalti.cli.precision import fastest_precision
from smalti.data import ImageData, MixedData, VideoData  # noqa: F401 - jsonargparse finds the classes that are imported
from smalti.data.data_modules import TrainingData
from smalti.pixels import to_pixels
from smalti.seeds import derive_seed
from smalti.tokenizers.bottlenecks import VQ, SimVQ  # noqa: F401 - as above; these are imported on demand
from smalti.tokenizers.linear_start.start import start_as_linear_codec
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers import Curriculum, TokenizerTraining
from smalti.trainers.gradients import clip_gradients, gradient_norm
from smalti.trainers.losses.weighting import weighted_sum
from smalti.trainers.validation_metrics import sample_metrics
from smalti.types import Batch

WARMUP_STEPS = 20
"""Steps at the start with a lower learning rate."""

Groups = list[dict[str, Any]]
"""Parameter groups of `TokenizerTraining`."""

BuildOptimizer = Callable[[Groups], Optimizer]
"""Builds an optimizer from the parameter groups of `TokenizerTraining`."""


@dataclass(frozen=True)
class Point:
    """The quality after a part of a run.

    Attributes:
        step: optimizer steps so far.
        seconds: time that they took, see `Clock`.
        psnr: PSNR in dB of the averaged weights on the validation data; NaN after a loss that is not finite.
    """

    step: int
    seconds: float
    psnr: float


class Clock:
    """Measures the time of training steps without that of loading data and of validation.

    On a CPU, this is the CPU time of the process, which does not depend on the load of the machine; use one thread. On
    CUDA, it is the wall time.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._total = 0.0
        self._start: float | None = None

    def seconds(self) -> float:
        """Return the time between all calls of `resume` and `pause` so far."""
        return self._total + (0.0 if self._start is None else self._read() - self._start)

    def pause(self) -> None:
        """Stop the clock until `resume`."""
        self._total, self._start = self.seconds(), None

    def resume(self) -> None:
        """Start the clock."""
        self._start = self._read()

    def _read(self) -> float:
        if self._device == "cpu":
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()


def train(
    recipe: dict[str, Any],
    build: BuildOptimizer,
    seconds: float,
    seed: int,
    device: str = "cpu",
    points: int = 8,
    *,
    decay: bool = False,
    validation: Sequence[Tensor] | None = None,
    finish: Callable[[Tokenizer], None] | None = None,
) -> list[Point]:
    """Train a tokenizer without the GAN loss.

    Args:
        recipe: the content of a recipe, from `smalti.cli.recipes.load_recipes`.
        build: builds the optimizer.
        seconds: time of the training steps.
        seed: seed of the weights, the data order and the noise.
        device: "cpu" or "cuda".
        points: number of validations, at equal distances in time.
        decay: whether the learning rate decays to zero over the time; otherwise, it is constant.
        validation: batches of pixels to validate with; None: the validation data of the recipe.
        finish: receives the tokenizer with averaged weights at the end.

    Returns:
        The points, the first of which is before the first step. Their time includes a linear start.
    """
    run = _Run(recipe, build, seed, device)
    if validation is not None:
        run.validation = [batch.to(device) for batch in validation]
    try:
        clock = Clock(device)
        clock.resume()
        run.start(recipe)
        clock.pause()
        curve = [run.measure(clock)]
        clock.resume()
        while clock.seconds() < seconds and not math.isnan(curve[-1].psnr):
            clock.pause()
            batch = next(run.batches)
            clock.resume()
            run.step(batch, 0.5 + 0.5 * math.cos(math.pi * min(1.0, clock.seconds() / seconds)) if decay else 1.0)
            if clock.seconds() >= seconds * len(curve) / points:
                clock.pause()
                curve.append(run.measure(clock))
                clock.resume()
        if finish is not None:
            finish(run.averaged().eval())
        return curve
    finally:
        run.close()


class _Run:
    """A training run: the networks, the data, the optimizer and the averaged weights."""

    def __init__(self, recipe: dict[str, Any], build: BuildOptimizer, seed: int, device: str) -> None:
        self.module, self.data = _build(recipe, seed)
        self.module.to(device)
        self.data.setup("fit")
        self.batches = _endless(self.data)
        self.validation = [(to_pixels(batch.pixels).to(device)) for batch in self.data.val_dataloader()]
        self.optimizer = build(self.module.parameter_groups())
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.average = copy.deepcopy(self.module.tokenizer)
        trainer = recipe["trainer"]
        precision = trainer.get("precision")
        self.bf16 = (fastest_precision(device) if precision == "auto" else precision) == "bf16-mixed"
        callbacks = [callback["init_args"] for callback in trainer.get("callbacks") or ()]
        self.curricula = [Curriculum(**arguments) for arguments in callbacks]
        self.clip: float | None = recipe["trainer"].get("gradient_clip_val")
        self.decay: float = recipe["ema"]["decay"]
        self.seed, self.device = seed, device
        self.steps = 0

    def start(self, recipe: dict[str, Any]) -> None:
        """Fit the weights to training data if the recipe starts as a linear codec."""
        start = recipe.get("start") or {}
        if start.get("method") != "linear":
            return
        samples, batches = start.get("samples", 256), []
        while sum(map(len, batches)) < samples:
            batches.append(to_pixels(next(self.batches).pixels).to(self.device))
        start_as_linear_codec(self.module.tokenizer, batches)
        self.average.load_state_dict(self.module.tokenizer.state_dict())

    def step(self, batch: Batch, factor: float = 1.0) -> None:
        """Take an optimizer step on a batch, and update the averaged weights.

        Args:
            batch: the batch.
            factor: factor of the learning rates, besides the warm-up.
        """
        torch.manual_seed(derive_seed(self.seed, self.steps))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor * min(1.0, (self.steps + 1) / (WARMUP_STEPS + 1))
        module = self.module
        for curriculum in self.curricula:
            curriculum.apply(module, self.steps)
        pixels = to_pixels(batch.pixels.to(self.device))
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            losses, branch = module.compute_losses(module.tokenizer, pixels, with_gan=False)
        self.optimizer.zero_grad()
        weighted_sum(losses, module._branch_weights(branch)).backward()
        for curriculum in self.curricula:
            curriculum.discard_gradients(module, self.steps)
        parameters = [p for p in module.tokenizer.parameters() if p.requires_grad]
        if self.clip:
            clip_gradients(parameters, self.clip, gradient_norm(parameters, pixels.device))
        self.optimizer.step()
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))  # as in TokenizerEMA
        averages, current = ([p.data for p in network.parameters()] for network in (self.average, module.tokenizer))
        torch._foreach_lerp_(averages, current, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @property
    def _is_schedule_free(self) -> bool:
        """Whether the optimizer has averaged weights of its own."""
        return hasattr(self.optimizer, "eval")

    @torch.no_grad()
    def averaged(self) -> Tokenizer:
        """Return the tokenizer with averaged weights."""
        if self._is_schedule_free:
            cast(Any, self.optimizer).eval()
            return self.module.tokenizer
        for average, buffer in zip(self.average.buffers(), self.module.tokenizer.buffers(), strict=True):
            average.copy_(buffer)
        return self.average

    @torch.no_grad()
    def measure(self, clock: Clock) -> Point:
        """Validate the averaged weights: the optimizer's own average if it is schedule-free, else the moving average."""
        tokenizer = self.averaged().eval()
        values = []
        for number, pixels in enumerate(self.validation):
            reconstruction, _ = tokenizer(pixels, torch.Generator().manual_seed(number))
            values.append(sample_metrics(reconstruction, pixels)["psnr"])
        self.module.train()
        if self._is_schedule_free:
            cast(Any, self.optimizer).train()
        return Point(self.steps, clock.seconds(), float(torch.cat(values).mean()))

    def close(self) -> None:
        """Stop the workers that load data."""
        self.data.teardown("fit")


def _build(recipe: dict[str, Any], seed: int) -> tuple[TokenizerTraining, TrainingData]:
    """Build the training module and the data module of a recipe, without its optimizer, schedule and GAN loss."""
    os.environ["PL_GLOBAL_SEED"] = str(seed)
    model = {name: value for name, value in recipe["model"].items() if name not in ("optimizer", "scheduler", "gan")}
    data = _without_workers(recipe["data"])
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TokenizerTraining, "model")
    parser.add_subclass_arguments(LightningDataModule, "data")
    torch.manual_seed(seed)
    built = parser.instantiate(parser.parse_object({"model": model, "data": data}))
    return built.model, built.data


def _without_workers(settings: Any) -> Any:
    """Return the settings of data modules that load data in this process: other runs need the other cores."""
    if not isinstance(settings, dict):
        return settings
    return {name: 0 if name == "workers" else _without_workers(value) for name, value in settings.items()}


def _endless(data: TrainingData) -> Iterator[Batch]:
    """Yield the training batches without end."""
    loader = data.train_dataloader()
    while True:
        yield from loader
