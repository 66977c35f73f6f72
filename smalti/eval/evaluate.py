"""Evaluation of a tokenizer on images or clips. Every sample counts once, with any number of processes.

    batch -> latents -> LatentMetric.update_latents
    batch -> originals, and the candidates: reconstructions by the tokenizer, and the baseline; photos have 8 bits
          -> Metric.update of every metric; counts of the ids
    a few samples -> rivals of the tokenizer, such as JPEG at equal bytes -> SampleMetric.update
    all batches of all processes -> merged -> Metric.compute per candidate -> Evaluation

Shapes: B batch; C channels; T frames, H, W pixels; N positions, G tokens per position.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from smalti.channel_groups import ChannelGroups, describe_groups
from smalti.distributed import combine_on_rank_0, connect_for_objects, gather, world_size
from smalti.errors import SmaltiError
from smalti.eval.accumulator import Accumulator, Part, merge_parts
from smalti.eval.baseline import count_kept_pixels, equal_bits_factor, kept_pixel_bits, make_baseline
from smalti.eval.channel_views import explain_missing_colors, measured_values, metric_view, panel_titles, pictures
from smalti.eval.codebook_usage import IdCounts
from smalti.eval.examples import Candidate, ExampleSelection, copy_part, measure_detail
from smalti.eval.functional import full_precision
from smalti.eval.metrics.base import Medium, Metric, SampleMetric
from smalti.eval.metrics.latent_base import LatentMetric
from smalti.eval.nominal_bits import bits_per_position, counting
from smalti.eval.reconstruct import reconstruct
from smalti.eval.results import BASELINE_PREFIX, CodebookUsage, Evaluation, Example, MetricResult
from smalti.eval.rivals.base import Rival
from smalti.eval.rivals.measurement import SampleSelection, measure_rivals, summarize_rivals
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Batch

MIN_SIZE = 16
"""Minimum height and width of a sample in pixels."""

RECONSTRUCTION, BASELINE = "reconstruction", "baseline"
"""The candidates that metrics compare with the originals."""


@dataclass(frozen=True)
class _Settings:
    """The tokenizer to evaluate, its rivals, and how."""

    tokenizer: Tokenizer
    rivals: Sequence[Rival]
    seed: int
    device: torch.device

    @property
    def channels(self) -> ChannelGroups:
        """Groups of channels of the samples."""
        return self.tokenizer.channels


def evaluate(
    tokenizer: Tokenizer,
    batches: Iterable[Batch],
    metrics: Sequence[Metric],
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    num_examples: int = 18,
    rivals: Sequence[Rival] = (),
    rival_samples: int = 16,
    progress: Callable[[int], None] | None = None,
    rival_progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Reconstruct a dataset of images or of clips and measure the reconstructions.

    Metrics see reconstructions without the tokenizer's padding, and run in float32 without TF32. Photos are rounded to 8
    bits; of samples with other channels, only what metrics of colors see (`Metric.all_channels`). With torch.distributed,
    each process passes its own part of the dataset, which may be empty, and all processes return the results for the whole
    dataset, which rank 0 computes. A process may finish its part long before the others. The noise of a generative decoder
    depends only on `seed`, the name of the sample and the type of device. The batch size and the number of processes change
    the values by no more than float32 rounding. Memory grows with the number of values per sample and of distinct ids.

    Args:
        tokenizer: is moved to `device`; runs in the dtype of its weights; its training mode is restored afterwards.
        batches: pixels (B, C, H, W), or clips (B, C, T, H, W), in [-1, 1], with the channels of the tokenizer, and names
            that are unique over the dataset.
        metrics: what to measure, for example `smalti.eval.metrics.default_metrics(clips=False)`. They are reset first. All
            processes pass the same metrics in the same order.
        seed: seed for the noise.
        device: where everything runs.
        num_examples: maximum number of examples to return. See `smalti.eval.examples` for which these are.
        rivals: what the tokenizer competes with at equal bits, for example `smalti.eval.rivals.build_rivals(["jpeg"])`. All
            processes pass the same rivals. They are measured by the metrics that have values per sample.
        rival_samples: maximum number of samples on which rivals are measured, because codecs are slow: those whose names
            have the smallest hashes. Their originals are kept in memory.
        progress: called after each batch with the number of samples that this process has measured.
        rival_progress: called after each sample of each rival with the number of samples that this process has measured.

    Raises:
        SmaltiError: there are no samples, a sample occurs twice or is too small, images and clips are mixed, a metric
            does not measure this kind of samples or needs colors, two metrics have one name, or a reconstruction contains
            NaN. All processes raise it.
    """
    connect_for_objects()
    _check_metrics(metrics, tokenizer.channels)
    settings = _Settings(tokenizer.to(device), rivals, seed, torch.device(device))
    selection = SampleSelection(rival_samples if rivals else 0)
    accumulator = Accumulator(metrics, ExampleSelection(num_examples))
    for metric in metrics:
        metric.reset()
        metric.to(device)
    if tokenizer.discrete:
        accumulator.counts = [IdCounts() for _ in range(tokenizer.quantizer.tokens_per_position)]
    training = tokenizer.training
    tokenizer.eval()
    try:
        failure = _measure_all(settings, accumulator, selection, batches, progress)
        if not any(gather(failure is not None)):
            failure = _finish_latent_metrics(settings, accumulator)
    finally:
        tokenizer.train(training)
    selected = selection.restrict_over_ranks()
    if rivals and not any(gather(failure is not None)):
        with torch.no_grad(), full_precision(settings.device):
            accumulator.rivals = measure_rivals(
                rivals, selected, metrics, settings.device, rival_progress, groups=settings.channels
            )
    part = Part.of(accumulator, failure)
    return combine_on_rank_0(part, lambda parts: _summarize(settings, merge_parts(parts)))


def _measure_all(
    settings: _Settings,
    accumulator: Accumulator,
    selection: SampleSelection,
    batches: Iterable[Batch],
    progress: Callable[[int], None] | None,
) -> SmaltiError | None:
    """Measure the batches of this process. Return a SmaltiError instead of raising it, for all processes to raise."""
    try:
        with torch.no_grad(), full_precision(settings.device):
            for batch in batches:
                _check_batch(batch, settings.channels)
                medium = _medium(batch.pixels)
                accumulator.add_names(batch.names, medium)
                for metric in accumulator.metrics:
                    metric.check_medium(medium)
                _measure(settings, accumulator, selection, Batch(batch.pixels.to(settings.device), batch.names))
                if progress is not None:
                    progress(len(accumulator.names))
    except SmaltiError as error:
        return error
    return None


def _finish_latent_metrics(settings: _Settings, accumulator: Accumulator) -> SmaltiError | None:
    """Let metrics of latents process the samples of all processes. All of them call this together."""
    try:
        with torch.no_grad(), full_precision(settings.device):
            for metric in accumulator.metrics:
                if isinstance(metric, LatentMetric) and metric.find_obstacle(settings.tokenizer) is None:
                    metric.finish(settings.tokenizer)
    except SmaltiError as error:
        return error
    return None


def _measure(settings: _Settings, accumulator: Accumulator, selection: SampleSelection, batch: Batch) -> None:
    reconstruction, latents = reconstruct(settings.tokenizer, batch, seed=settings.seed)
    groups = settings.channels
    original = measured_values(batch.pixels, groups)
    accumulator.add_digests(batch.names, original)
    bits = bits_per_position(settings.tokenizer) * latents.positions
    height, width = original.shape[-2:]
    stride, channels = settings.tokenizer.encoder.stride[0], original.shape[1]
    factor = equal_bits_factor((_frames(original), height, width), bits, stride, channels)
    candidates = {RECONSTRUCTION: reconstruction, BASELINE: make_baseline(original, factor)}
    for metric in accumulator.metrics:
        if _frames(original) < metric.min_frames:
            continue
        if not isinstance(metric, LatentMetric):
            view = partial(metric_view, groups=groups, all_channels=metric.all_channels)
            metric.update(view(original), {name: view(x) for name, x in candidates.items()}, batch.names)
        elif metric.find_obstacle(settings.tokenizer) is None:
            metric.update_latents(settings.tokenizer, batch, latents)
        accumulator.measured[metric.name] += len(original)
    if latents.code.ids is not None:
        for group, counts in enumerate(accumulator.counts):
            counts.add(latents.code.ids[:, :, group])
    accumulator.pixels += original.numel() // channels
    accumulator.positions += len(original) * latents.positions
    accumulator.baseline_pixels += count_kept_pixels(original, factor)
    _offer_examples(accumulator, batch.names, original, reconstruction, groups)
    selection.add(batch.names, original, bits)


def _offer_examples(
    accumulator: Accumulator, names: Sequence[str], original: Tensor, reconstruction: Tensor, groups: ChannelGroups
) -> None:
    """Keep samples to look at, ranked by the first metric that has values per sample."""
    ranking = next((metric for metric in accumulator.metrics if isinstance(metric, SampleMetric)), None)
    values = {} if ranking is None else ranking.values.get(RECONSTRUCTION, {})
    sign = 1 if ranking is None or ranking.higher_is_better else -1
    panels = panel_titles(original, groups)
    shown = (pictures(samples, groups) for samples in (original, reconstruction))
    for name, before, after in zip(names, *shown, strict=True):
        quality = sign * values[name] if name in values else None
        candidate = Candidate(name, quality, measure_detail(before))
        accumulator.examples.add(candidate, partial(_make_example, name, before, after, panels))


def _make_example(name: str, original: Tensor, reconstruction: Tensor, panels: tuple[str, ...]) -> Example:
    return Example(name, copy_part(original), copy_part(reconstruction), panels)


def _medium(samples: Tensor) -> Medium:
    return "clips" if samples.ndim == 5 else "images"


def _frames(samples: Tensor) -> int:
    return samples.shape[2] if samples.ndim == 5 else 1


def _check_metrics(metrics: Sequence[Metric], groups: ChannelGroups) -> None:
    for metric in metrics:
        if "rgb" not in groups and not metric.all_channels:
            raise SmaltiError(f"{explain_missing_colors(metric.name, groups)}: leave it out.")
    names = [metric.name for metric in metrics]
    for name in names:
        if names.count(name) > 1:
            raise SmaltiError(f"Two metrics are called '{name}': leave one out, or give it another name.")


def _check_batch(batch: Batch, groups: ChannelGroups) -> None:
    shape, c = tuple(batch.pixels.shape), sum(groups.values())
    if len(shape) not in (4, 5) or shape[1] != c or 0 in shape:
        raise SmaltiError(
            f"Evaluation takes images (B, {c}, H, W) or clips (B, {c}, T, H, W) with the channels of the tokenizer "
            f"({describe_groups(groups)}), not {shape}."
        )
    if len(batch.names) != shape[0]:
        raise ValueError(f"A batch of {shape[0]} samples has {len(batch.names)} names.")
    if min(shape[-2:]) < MIN_SIZE:
        raise SmaltiError(
            f"Sample '{batch.names[0]}' has {shape[-2]} x {shape[-1]} pixels, but the metrics need at least {MIN_SIZE} x "
            f"{MIN_SIZE}: use a protocol with a larger size, or remove the sample."
        )


def _summarize(settings: _Settings, accumulator: Accumulator) -> Evaluation:
    if not accumulator.names:
        raise SmaltiError("The dataset contains no samples: check its path and its filters.")
    tokenizer = settings.tokenizer
    left_out = {m.name: reason for m in accumulator.metrics if (reason := _left_out_reason(m, accumulator, tokenizer))}
    computed = [metric for metric in accumulator.metrics if metric.name not in left_out]
    if not settings.tokenizer.discrete:
        left_out["codebook"] = "the tokenizer is continuous"
    left_out |= accumulator.rivals.obstacles
    rivals = settings.rivals
    device, bits = settings.device, bits_per_position(settings.tokenizer)
    return Evaluation(
        samples=_sample_values(accumulator),
        samples_sha256=accumulator.samples_sha256(),
        metrics={metric.name: _result(metric, RECONSTRUCTION, accumulator) for metric in computed},
        baseline={m.name: _result(m, BASELINE, accumulator) for m in computed if not isinstance(m, LatentMetric)},
        bits_per_pixel=bits * accumulator.positions / accumulator.pixels,
        bits_counting=counting(settings.tokenizer),
        baseline_bits_per_pixel=_source_bits(settings) * accumulator.baseline_pixels / accumulator.pixels,
        clips=accumulator.medium == "clips",
        channels=dict(settings.channels),
        codebook=_codebook_usage(settings, accumulator) if settings.tokenizer.discrete else None,
        left_out=left_out,
        examples=accumulator.examples.ranked(),
        networks={metric.name: dict(metric.provenance) for metric in accumulator.metrics if metric.provenance},
        seed=settings.seed,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        dtype=str(next(settings.tokenizer.parameters(), torch.empty(0)).dtype).removeprefix("torch."),
        processes=world_size(),
        rivals=summarize_rivals(accumulator.rivals, rivals, computed, RECONSTRUCTION) if rivals else None,
    )


def _left_out_reason(metric: Metric, accumulator: Accumulator, tokenizer: Tokenizer) -> str | None:
    """Return why a metric has no result, or None if it has one."""
    if isinstance(metric, LatentMetric) and (obstacle := metric.find_obstacle(tokenizer)) is not None:
        return obstacle
    count = accumulator.measured[metric.name]
    if count >= metric.min_samples:
        return None
    frames = f" with at least {metric.min_frames} frames" if metric.min_frames > 1 else ""
    return f"it needs at least {metric.min_samples} samples{frames}, but the dataset has {count}"


def _result(metric: Metric, candidate: str, accumulator: Accumulator) -> MetricResult:
    note = metric.note
    if skipped := len(accumulator.names) - accumulator.measured[metric.name]:
        reason = f"{skipped} more have fewer than {metric.min_frames} frames and are left out"
        note = reason if note is None else f"{note}; {reason}"
    return MetricResult(
        value=metric.compute(candidate),
        comparable=metric.comparable,
        higher_is_better=metric.higher_is_better,
        range=metric.range,
        definition=metric.definition,
        unit=metric.unit,
        note=note,
        details=metric.details,
    )


def _sample_values(accumulator: Accumulator) -> dict[str, dict[str, float]]:
    """Return the values of each sample by metric: of the reconstruction, then of the baseline, then of each rival."""
    samples: dict[str, dict[str, float]] = {name: {} for name in sorted(accumulator.names)}
    rivals = [(name, f"{name}_") for name in accumulator.rivals.points if name not in accumulator.rivals.obstacles]
    for candidate, prefix in ((RECONSTRUCTION, ""), (BASELINE, BASELINE_PREFIX), *rivals):
        for metric in accumulator.metrics:
            if isinstance(metric, SampleMetric):
                for name, value in metric.values.get(candidate, {}).items():
                    samples[name][prefix + metric.name] = value
    return samples


def _source_bits(settings: _Settings) -> int:
    """Return the bits of a pixel of the samples at 8 bits per channel."""
    return kept_pixel_bits(sum(settings.channels.values()))


def _codebook_usage(settings: _Settings, accumulator: Accumulator) -> CodebookUsage:
    quantizer = settings.tokenizer.quantizer
    bits_per_pixel = quantizer.bits_per_position * accumulator.positions / accumulator.pixels
    return CodebookUsage(
        codebook_size=quantizer.codebook_size,
        tokens_per_position=quantizer.tokens_per_position,
        bits_per_pixel=bits_per_pixel,
        compression_ratio=_source_bits(settings) / bits_per_pixel,
        groups=tuple(counts.summarize(quantizer.codebook_size) for counts in accumulator.counts),
    )
