"""Evaluation of a tokenizer on a set of images: every sample counted once, on any number of processes.

    batches -> tokenizer -> 8-bit reconstructions -> values of every sample, spread of features, counts of ids
            -> gathered from all processes -> true means over samples -> Evaluation

Shapes: B batch, H, W pixels, N positions, G tokens a position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from smalti.errors import SmaltiError
from smalti.eval.codebook import Counts
from smalti.eval.features import Features
from smalti.eval.frechet import Spread, frechet
from smalti.eval.metrics import bicubic, full_precision, psnr, ssim, to_pixels, to_uint8
from smalti.eval.perceptual import Perceptual
from smalti.eval.reconstruct import reconstruct
from smalti.eval.results import BASELINE, CodebookUse, Evaluation, Example, Metric
from smalti.eval.tally import Tally, gathered
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch

SMALLEST = 16
"""Height and width, in pixels, that a sample must have at least."""

IMAGES = ("original", "reconstruction", "baseline")
"""The sets whose features are kept."""


@dataclass(frozen=True)
class _Bench:
    """What measures, and what is measured."""

    tokenizer: Tokenizer
    perceptual: Perceptual | None
    features: Features | None
    seed: int
    device: torch.device


def evaluate(
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    perceptual: Perceptual | None = None,
    features: Features | None = None,
    keep: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Reconstruct a set of images and measure it.

    Everything is measured on reconstructions rounded to 8 bits, in float32 without TF32. Where torch.distributed is
    initialised, each process gives its own share of the set, possibly none, and all get the same answer: that of one
    process with the whole set. A generative decoder's noise follows from `seed` and the sample's name alone (and from
    the kind of device), so neither the size of batches nor the number of processes moves a value by more than the
    rounding of the convolutions. Memory grows with the set by its samples' values and by the distinct ids.

    Args:
        tokenizer: moved to `device`; runs in the dtype of its weights; its mode is put back afterwards.
        batches: pixels (B, 3, H, W) in [-1, 1]; names that are unique over the whole set.
        seed: of the noise.
        device: where everything runs.
        perceptual: see `smalti.eval.perceptual.perceptual_network`; None: left out.
        features: see `smalti.eval.features.feature_network`; None: left out.
        keep: number of examples.
        progress: called after every batch with the number of samples that this process has done.

    Raises:
        SmaltiError: no samples, one that came twice, is too small or is a video, or a reconstruction that is not
            finite; on several processes all raise.
    """
    bench = _Bench(tokenizer, perceptual, features, seed, torch.device(device))
    for network in (tokenizer, perceptual, features):
        if network is not None:
            network.to(bench.device)
    tally = Tally(keep)
    if tokenizer.discrete:
        tally.counts = [Counts() for _ in range(tokenizer.quantizer.tokens_per_position)]
    if features is not None:
        tally.spreads = {key: Spread(features.dim) for key in IMAGES}
    training = tokenizer.training
    tokenizer.eval()
    try:
        failure = _measure_share(bench, tally, batches, progress)
    finally:
        tokenizer.train(training)
    return _conclude(bench, *gathered(tally, failure))


def _measure_share(
    bench: _Bench, tally: Tally, batches: Iterable[Batch], progress: Callable[[int], None] | None
) -> SmaltiError | None:
    """Measure this process's share into `tally`; an error for people is returned, for all processes to raise."""
    try:
        with torch.no_grad(), full_precision(bench.device):
            for batch in batches:
                _check(batch)
                tally.claim(batch.names)
                _measure(bench, tally, Batch(batch.pixels.to(bench.device), batch.names))
                if progress is not None:
                    progress(len(tally.samples))
    except SmaltiError as error:
        return error
    return None


def _measure(bench: _Bench, tally: Tally, batch: Batch) -> None:
    reconstruction, latents = reconstruct(bench.tokenizer, batch, seed=bench.seed)
    original = to_uint8(batch.pixels)
    baseline = bicubic(original, bench.tokenizer.encoder.stride[1:])
    for prefix, restored in (("", reconstruction), (BASELINE, baseline)):
        values = {"psnr": psnr(original, restored), "ssim": ssim(original, restored)}
        if bench.perceptual is not None:
            values[bench.perceptual.metric] = bench.perceptual(to_pixels(original), to_pixels(restored))
        for metric, column in values.items():
            for name, value in zip(batch.names, column.tolist(), strict=True):
                tally.samples[name][prefix + metric] = value
    if bench.features is not None:
        for key, images in zip(IMAGES, (original, reconstruction, baseline), strict=True):
            tally.spreads[key].add(bench.features(images))
    if latents.code.ids is not None:
        for group, counts in enumerate(tally.counts):
            counts.add(latents.code.ids[:, :, group])
    for example in map(Example, batch.names, original.cpu(), reconstruction.cpu()):
        tally.show(example)


def _check(batch: Batch) -> None:
    shape = tuple(batch.pixels.shape)
    if len(shape) != 4:
        raise SmaltiError(f"Evaluation takes images (B, 3, H, W), not {shape}: give videos frame by frame.")
    if len(batch.names) != shape[0]:
        raise ValueError(f"A batch of {shape[0]} samples has {len(batch.names)} names.")
    if min(shape[2:]) < SMALLEST:
        raise SmaltiError(
            f"Sample '{batch.names[0]}' has {shape[2]} x {shape[3]} pixels, and the metrics need {SMALLEST} x "
            f"{SMALLEST}: take a protocol with a larger size, or leave it out."
        )


def _conclude(bench: _Bench, tally: Tally, processes: int) -> Evaluation:
    if not tally.samples:
        raise SmaltiError("There is nothing to evaluate: the data gave no samples; look at its path and its filters.")
    metrics, baseline = _means(bench, tally, ""), _means(bench, tally, BASELINE)
    left_out = {}
    if bench.perceptual is None:
        left_out["lpips"] = "no perceptual network was given"
    if bench.features is None:
        left_out["rfid"] = "no feature network was given"
    elif len(tally.samples) < 2:
        left_out[bench.features.metric] = "a covariance needs two samples or more, and there was one"
    else:
        metrics[bench.features.metric] = _distance(bench.features, tally, "reconstruction")
        baseline[bench.features.metric] = _distance(bench.features, tally, "baseline")
    if not bench.tokenizer.discrete:
        left_out["codebook"] = "the tokenizer is continuous"
    device = bench.device
    return Evaluation(
        samples={name: tally.samples[name] for name in sorted(tally.samples)},
        metrics=metrics,
        baseline=baseline,
        factor=bench.tokenizer.encoder.stride[1:],
        codebook=_codebook(bench.tokenizer, tally.counts) if bench.tokenizer.discrete else None,
        left_out=left_out,
        examples=tuple(tally.examples[name] for name in sorted(tally.examples)),
        networks={n.metric: n.provenance for n in (bench.perceptual, bench.features) if n is not None},
        seed=bench.seed,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        dtype=str(next(bench.tokenizer.parameters(), torch.empty(0)).dtype).removeprefix("torch."),
        processes=processes,
    )


def _means(bench: _Bench, tally: Tally, prefix: str) -> dict[str, Metric]:
    """True means over samples; `fsum` is exact, so that no order of them can be told from the result."""
    comparable = {"psnr": True, "ssim": True}
    if bench.perceptual is not None:
        comparable[bench.perceptual.metric] = bench.perceptual.comparable
    count = len(tally.samples)
    return {
        metric: Metric(math.fsum(values[prefix + metric] for values in tally.samples.values()) / count, fair)
        for metric, fair in comparable.items()
    }


def _distance(features: Features, tally: Tally, key: str) -> Metric:
    note = f"of {len(tally.samples)} samples; depends on their number (arXiv 1911.07023): compare equal numbers only"
    return Metric(frechet(tally.spreads["original"], tally.spreads[key]), features.comparable, note)


def _codebook(tokenizer: Tokenizer, counts: list[Counts]) -> CodebookUse:
    quantizer = tokenizer.quantizer
    return CodebookUse(
        codebook_size=quantizer.codebook_size,
        tokens_per_position=quantizer.tokens_per_position,
        bits_per_pixel=tokenizer.bits_per_pixel,
        compression_ratio=tokenizer.compression_ratio,
        groups=tuple(group.use(quantizer.codebook_size) for group in counts),
    )
