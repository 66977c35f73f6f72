"""Evaluation of a tokenizer on a set of images or clips: every sample counted once, on any number of processes.

    batches -> tokenizer -> 8-bit reconstructions -> values of every sample, spread of features, counts of ids
            -> gathered from all processes -> true means over samples -> Evaluation

Shapes: B batch, T frames, H, W pixels, N positions, G tokens a position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.errors import SmaltiError
from smalti.eval.accumulator import Accumulator, gather_accumulators
from smalti.eval.baseline import baseline, compare, kept_pixels
from smalti.eval.codebook_usage import IdCounts
from smalti.eval.feature_networks.frechet import FrechetNetwork
from smalti.eval.feature_networks.perceptual import PerceptualNetwork
from smalti.eval.frechet import FeatureStatistics, frechet_distance
from smalti.eval.functional import full_precision
from smalti.eval.reconstruct import reconstruct
from smalti.eval.results import BASELINE, CodebookUse, Evaluation, Example, Metric
from smalti.pixels import pixels_to_uint8
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch

SMALLEST = 16
"""Height and width, in pixels, that a sample must have at least."""

SETS = ("original", "reconstruction", "baseline")
"""The sets whose features are kept."""

EXAMPLE_FRAMES = 64
"""Frames that an example keeps of a clip, which bounds memory."""


@dataclass(frozen=True)
class _Bench:
    """What measures, and what is measured."""

    tokenizer: Tokenizer
    perceptual: PerceptualNetwork | None
    features: FrechetNetwork | None
    seed: int
    device: torch.device


def evaluate(
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    perceptual: PerceptualNetwork | None = None,
    features: FrechetNetwork | None = None,
    keep: int = 8,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Reconstruct a set of images or of clips and measure it.

    Everything is measured on reconstructions rounded to 8 bits, in float32 without TF32. Where torch.distributed is
    initialised, each process gives its own share of the set, possibly none, and all get the same answer: that of one
    process with the whole set. A generative decoder's noise follows from `seed` and the sample's name alone (and from
    the kind of device), so neither the size of batches nor the number of processes moves a value by more than the
    rounding of the convolutions. Memory grows with the set by its samples' values and by the distinct ids; metrics and
    features of a clip are taken frame by frame. Frames that the tokenizer pads are trimmed before anything is measured.

    Args:
        tokenizer: moved to `device`; runs in the dtype of its weights; its mode is put back afterwards.
        batches: pixels (B, 3, H, W), or of clips (B, 3, T, H, W), in [-1, 1]; names that are unique over the whole set.
        seed: of the noise.
        device: where everything runs.
        perceptual: see `smalti.eval.feature_networks.selection.perceptual_network`; None: left out.
        features: see `smalti.eval.feature_networks.selection.frechet_network`, for images or for clips; None: left out. Clips with fewer
            frames than the network needs are left out of its distance.
        keep: number of examples.
        progress: called after every batch with the number of samples that this process has done.

    Raises:
        SmaltiError: no samples, one that came twice or is too small, images and clips in one set or before features of
            the other, or a reconstruction that is not finite; on several processes all raise.
    """
    bench = _Bench(tokenizer, perceptual, features, seed, torch.device(device))
    for network in (tokenizer, perceptual, features):
        if network is not None:
            network.to(bench.device)
    tally = Accumulator(keep)
    if tokenizer.discrete:
        tally.counts = [IdCounts() for _ in range(tokenizer.quantizer.tokens_per_position)]
    if features is not None:
        tally.spreads = {key: FeatureStatistics(features.dim) for key in SETS}
    training = tokenizer.training
    tokenizer.eval()
    try:
        failure = _measure_share(bench, tally, batches, progress)
    finally:
        tokenizer.train(training)
    return _conclude(bench, *gather_accumulators(tally, failure))


def _measure_share(
    bench: _Bench, tally: Accumulator, batches: Iterable[Batch], progress: Callable[[int], None] | None
) -> SmaltiError | None:
    """Measure this process's share into `tally`; an error for people is returned, for all processes to raise."""
    try:
        with torch.no_grad(), full_precision(bench.device):
            for batch in batches:
                _check(batch)
                tally.claim(batch.names, batch.pixels.ndim == 5)
                _measure(bench, tally, Batch(batch.pixels.to(bench.device), batch.names))
                if progress is not None:
                    progress(len(tally.samples))
    except SmaltiError as error:
        return error
    return None


def _measure(bench: _Bench, tally: Accumulator, batch: Batch) -> None:
    reconstruction, latents = reconstruct(bench.tokenizer, batch, seed=bench.seed)
    original = pixels_to_uint8(batch.pixels)
    factor = bench.tokenizer.encoder.stride
    reduced = baseline(original, factor)
    for prefix, restored in (("", reconstruction), (BASELINE, reduced)):
        for metric, column in compare(original, restored, bench.perceptual).items():
            for name, value in zip(batch.names, column.tolist(), strict=True):
                tally.samples[name][prefix + metric] = value
    if bench.features is not None and not _too_short(original, bench.features):
        for key, samples in zip(SETS, (original, reconstruction, reduced), strict=True):
            tally.spreads[key].add(bench.features(samples))
    if latents.code.ids is not None:
        for group, counts in enumerate(tally.counts):
            counts.add(latents.code.ids[:, :, group])
    tally.size["pixels"] += original.numel() // 3
    tally.size["positions"] += len(original) * latents.positions
    tally.size["baseline"] += kept_pixels(original, factor)
    for name, one, other in zip(batch.names, original, reconstruction, strict=True):
        tally.show(Example(name, _shown(one), _shown(other)))


def _too_short(samples: Tensor, features: FrechetNetwork) -> bool:
    return samples.ndim == 5 and samples.shape[2] < features.least_frames


def _shown(sample: Tensor) -> Tensor:
    """What an example keeps, on the CPU: a copy, so that no batch stays in memory behind it."""
    return (sample[:, :EXAMPLE_FRAMES] if sample.ndim == 4 else sample).cpu().clone()


def _check(batch: Batch) -> None:
    shape = tuple(batch.pixels.shape)
    if len(shape) not in (4, 5) or shape[1] != 3 or 0 in shape:
        raise SmaltiError(f"Evaluation takes images (B, 3, H, W) or clips (B, 3, T, H, W), not {shape}.")
    if len(batch.names) != shape[0]:
        raise ValueError(f"A batch of {shape[0]} samples has {len(batch.names)} names.")
    if min(shape[-2:]) < SMALLEST:
        raise SmaltiError(
            f"Sample '{batch.names[0]}' has {shape[-2]} x {shape[-1]} pixels, and the metrics need {SMALLEST} x "
            f"{SMALLEST}: take a protocol with a larger size, or leave it out."
        )


def _conclude(bench: _Bench, tally: Accumulator, processes: int) -> Evaluation:
    if not tally.samples:
        raise SmaltiError("There is nothing to evaluate: the data gave no samples; look at its path and its filters.")
    metrics, baselines = _means(bench, tally, ""), _means(bench, tally, BASELINE)
    left_out = _left_out(bench, tally)
    if bench.features is not None and bench.features.metric not in left_out:
        metrics[bench.features.metric] = _distance(bench.features, tally, "reconstruction")
        baselines[bench.features.metric] = _distance(bench.features, tally, "baseline")
    device, factor = bench.device, bench.tokenizer.encoder.stride
    return Evaluation(
        samples={name: tally.samples[name] for name in sorted(tally.samples)},
        metrics=metrics,
        baseline=baselines,
        factor=factor if tally.clips else (1, *factor[1:]),
        baseline_bits_per_pixel=24 * tally.size["baseline"] / tally.size["pixels"],
        clips=bool(tally.clips),
        codebook=_codebook(bench.tokenizer, tally) if bench.tokenizer.discrete else None,
        left_out=left_out,
        examples=tuple(tally.examples[name] for name in sorted(tally.examples)),
        networks={n.metric: n.provenance for n in (bench.perceptual, bench.features) if n is not None},
        seed=bench.seed,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        dtype=str(next(bench.tokenizer.parameters(), torch.empty(0)).dtype).removeprefix("torch."),
        processes=processes,
    )


def _left_out(bench: _Bench, tally: Accumulator) -> dict[str, str]:
    """Why a metric that could be expected is not there, by name."""
    reasons = {}
    if bench.perceptual is None:
        reasons["lpips"] = "no perceptual network was given"
    if bench.features is None:
        reasons["rfvd" if tally.clips else "rfid"] = "no feature network was given"
    elif (count := tally.spreads["original"].count) < 2:
        short = f" with {bench.features.least_frames} frames or more" if tally.clips else ""
        number = {0: "were none", 1: "was one"}[count]
        reasons[bench.features.metric] = f"a covariance needs two samples or more, and there {number}{short}"
    if not bench.tokenizer.discrete:
        reasons["codebook"] = "the tokenizer is continuous"
    return reasons


def _means(bench: _Bench, tally: Accumulator, prefix: str) -> dict[str, Metric]:
    """True means over samples; `fsum` is exact, so that no order of them can be told from the result."""
    stand_ins = set() if bench.perceptual is None or bench.perceptual.comparable else {bench.perceptual.metric}
    count = len(tally.samples)
    names = [name for name in next(iter(tally.samples.values())) if not name.startswith(BASELINE)]
    return {
        name: Metric(
            math.fsum(values[prefix + name] for values in tally.samples.values()) / count, name not in stand_ins
        )
        for name in names
    }


def _distance(features: FrechetNetwork, tally: Accumulator, key: str) -> Metric:
    count = tally.spreads["original"].count
    note = f"of {count} samples; depends on their number (arXiv 1911.07023): compare equal numbers only"
    if count < len(tally.samples):
        note += f"; {len(tally.samples) - count} more have fewer than {features.least_frames} frames and are left out"
    return Metric(frechet_distance(tally.spreads["original"], tally.spreads[key]), features.comparable, note)


def _codebook(tokenizer: Tokenizer, tally: Accumulator) -> CodebookUse:
    quantizer = tokenizer.quantizer
    bits_per_pixel = quantizer.bits_per_position * tally.size["positions"] / tally.size["pixels"]
    return CodebookUse(
        codebook_size=quantizer.codebook_size,
        tokens_per_position=quantizer.tokens_per_position,
        bits_per_pixel=bits_per_pixel,
        compression_ratio=24 / bits_per_pixel,
        groups=tuple(group.use(quantizer.codebook_size) for group in tally.counts),
    )
