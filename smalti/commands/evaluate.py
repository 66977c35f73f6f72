"""`smalti evaluate`: measure a tokenizer on images or videos with a named protocol."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.data_options import CLIP_PROTOCOL_HELP, SOURCE_HELP, add_loading_options, add_max_bad_option
from smalti.cli.options import (
    add_output_options,
    add_tokenizer_options,
    check_channels,
    check_tokenizer,
    open_device,
    open_tokenizer,
)
from smalti.cli.outputs import print_next
from smalti.cli.parser import CommandParser, whole_number
from smalti.cli.reducer_evaluation import evaluate_reduced
from smalti.cli.reducer_options import REDUCER_HELP, add_reducer_options
from smalti.cli.rivals import add_rival_options, open_rivals, select_rival_samples
from smalti.errors import SmaltiError
from smalti.files import check_writable

if TYPE_CHECKING:
    from torch import nn

    from smalti.channel_groups import ChannelGroups
    from smalti.data import Source
    from smalti.eval.metrics import Metric
    from smalti.eval.metrics.registry import MetricBuilder
    from smalti.eval.protocols import Protocol
    from smalti.eval.results import Evaluation

_EXAMPLES = (
    "smalti evaluate --tokenizer my-tokenizer --data my/photos --out report",
    "smalti evaluate --tokenizer my-tokenizer --data videos:my/clips --protocol clip17x128@24 --out report",
    "torchrun --nproc-per-node 8 -m smalti evaluate --tokenizer my-tokenizer --data imagenet/val --out report",
)
_NOTES = (
    "To compare tokenizers, or the checkpoints of a run, evaluate each on the same data with the same protocol, and pass "
    "the reports to `smalti compare`. With torchrun, several GPUs share the data. With --reduce, the report is a page with "
    "curves of PSNR, SSIM and LPIPS against the number of tokens. Tokens are spread back over the latent grid before they "
    "are decoded: what a language model would see cannot be decoded directly."
)


def run(name: str, arguments: list[str]) -> int:
    """Evaluate, write the report and print the table.

    Under `torchrun`, each process measures its part of the dataset, and rank 0 writes the report for the whole dataset.

    Raises:
        SmaltiError: an option is invalid, the data or the tokenizer cannot be read, too many samples are unreadable, or the
            report exists and may not be replaced.
    """
    options = _parse(name, arguments)
    if options.reduce:
        return evaluate_reduced(options)

    from smalti.data import open_source
    from smalti.eval.metrics import find_metric
    from smalti.eval.protocols import get_protocol
    from smalti.eval.report import check_report_folder
    from smalti.eval.rivals import select_rivals
    from smalti.tokenization.preprocessing import build_transform, check_protocol

    if not options.overwrite:
        check_report_folder(options.out)
    check_writable(options.out)
    protocol = get_protocol(options.protocol)
    select_rivals(options.rivals, "clips" if protocol.clips else "images")  # before anything slow
    source = open_source(options.data, any_channels=True)
    check_protocol(source, protocol)
    transform = build_transform(protocol)
    requested = {name: find_metric(name) for name in options.metric}
    options.tokenizer = check_tokenizer(options.tokenizer)
    with _process_group() as rank:
        evaluation, skipped = _evaluate(options, source, transform, protocol, requested, rank)
    if rank == 0:
        _write_report(options, protocol, evaluation, skipped)
    return 0


def _parse(name: str, arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments after the command's name.

    Raises:
        SmaltiError: an option is invalid, or `--weights` is not a folder.
    """
    parser = CommandParser(
        name,
        "Measure PSNR, SSIM, LPIPS, rFID (for videos: rFVD) and codebook usage of a tokenizer. Compare it with bicubic "
        "downsampling and upsampling, and on a few samples with a linear codec and with JPEG, WebP and AVIF (for videos: "
        "H.264 and HEVC) at equal bits. Write a report with the results, the values per sample, examples and a plot.",
        _EXAMPLES,
        _NOTES,
    )
    add_tokenizer_options(parser, branch=True, seed=True)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help=f"folder, image or video; photos:validation or clips:validation; {SOURCE_HELP}",
    )
    data.add_argument(
        "--protocol",
        default="imagenet256",
        metavar="NAME",
        help="how samples are prepared. Images: imagenet256, native (original size), square64 (64 x 64 pixels), ... "
        f"Videos: {CLIP_PROTOCOL_HELP} (default: %(default)s)",
    )
    add_loading_options(
        data,
        batch_size=8,
        workers=2,
        samples="images or clips per batch and process",
        processes="data loading processes per process",
    )
    add_max_bad_option(data)
    metrics = parser.add_argument_group("metrics")
    metrics.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="additional metric, such as lpips_alex or fd_efflite0, or the class path of your own metric "
        "(my_package.MyMetric); repeat the option for several metrics",
    )
    metrics.add_argument(
        "--readiness",
        action="store_true",
        help="also measure how ready the latents are for a generator, without training one: iFID, spectrum, equivariance, "
        "statistics of the channels, posterior collapse",
    )
    metrics.add_argument(
        "--neighbors",
        metavar="SOURCE",
        help="data in which iFID searches neighbors, the training set as in its paper (default: the evaluated samples)",
    )
    metrics.add_argument(
        "--lpips",
        default="lpips_vgg",
        choices=("lpips_vgg", "lpips_alex"),
        help="network for LPIPS (default: %(default)s)",
    )
    metrics.add_argument(
        "--weights",
        type=Path,
        metavar="PATH",
        help="folder with the pretrained weights of the metrics' networks (default: the folder in the environment variable "
        "SMALTI_WEIGHTS, else they are downloaded)",
    )
    reducers = add_reducer_options(
        parser,
        f"instead of the tokenizer, measure what a reducer loses: {REDUCER_HELP}; repeat the option for several. A reducer "
        "without options is measured at several sizes",
        action="append",
        default=[],
    )
    reducers.add_argument(
        "--pictures",
        type=whole_number(0),
        default=2,
        metavar="N",
        help="images on the page of the reducers (default: %(default)s)",
    )
    add_rival_options(parser)
    add_output_options(parser, "folder to write the report to", "replace an existing report")
    options = parser.parse(arguments)
    if options.weights is not None and not options.weights.is_dir():
        raise SmaltiError(
            f"--weights is {options.weights}, which is not a folder: give the folder that contains the weight files."
        )
    return options


def _build_metrics(
    options: argparse.Namespace, protocol: Protocol, requested: dict[str, MetricBuilder], channels: ChannelGroups
) -> list[Metric]:
    """Return the default metrics and the requested ones. Channels other than red, green and blue are measured by group.

    Raises:
        SmaltiError: a requested metric does not measure this kind of samples, or its weights are not available.
    """
    from smalti.channel_groups import RGB
    from smalti.eval.feature_networks.selection import frechet_network
    from smalti.eval.metrics import FrechetDistance, channel_metrics, default_metrics, readiness_metrics

    if channels == RGB:
        metrics = default_metrics(clips=protocol.clips, lpips=options.lpips, weights=options.weights)
    else:
        metrics = channel_metrics(channels)
    if options.readiness:
        network = next((metric.network for metric in metrics if isinstance(metric, FrechetDistance)), None)
        metrics += readiness_metrics(
            network or frechet_network("i3d" if protocol.clips else "inception", options.weights)
        )
    names = {metric.name for metric in metrics}
    metrics += [build(options.weights) for name, build in requested.items() if name not in names]
    for metric in metrics:
        metric.check_medium("clips" if protocol.clips else "images")
    if options.neighbors is not None:
        _add_reference(options, protocol, metrics)
    return metrics


def _add_reference(options: argparse.Namespace, protocol: Protocol, metrics: list[Metric]) -> None:
    """Let iFID search the data of `--neighbors`.

    Raises:
        SmaltiError: iFID is not measured, or the data cannot be opened or does not fit the protocol.
    """
    from smalti.data import evaluation_loader, open_source
    from smalti.eval.metrics import InterpolatedFrechetDistance
    from smalti.tokenization.preprocessing import build_transform, check_protocol

    interpolated = [metric for metric in metrics if isinstance(metric, InterpolatedFrechetDistance)]
    if not interpolated:
        raise SmaltiError("--neighbors is for iFID, which is not measured: add --readiness or --metric ifid.")
    source = open_source(options.neighbors, any_channels=True)
    check_protocol(source, protocol)
    for metric in interpolated:
        metric.search_in(
            evaluation_loader(
                source,
                build_transform(protocol),
                _batch_size(options, protocol),
                options.workers,
                max_bad=options.max_bad,
            )
        )


def _evaluate(
    options: argparse.Namespace,
    source: Source,
    transform: nn.Module,
    protocol: Protocol,
    requested: dict[str, MetricBuilder],
    rank: int,
) -> tuple[Evaluation, int]:
    """Evaluate this process's part of the data.

    Returns:
        The results and the number of skipped samples, both over all processes.
    """
    from smalti.cli.progress import ProgressDisplay
    from smalti.data import IndexedSource, evaluation_loader
    from smalti.distributed import gather, world_size
    from smalti.eval.evaluate import evaluate

    device = open_device(options.device)
    tokenizer = open_tokenizer(options.tokenizer, device, options.branch, options.tile)
    check_channels(tokenizer, source)
    if rank > 0:
        logging.getLogger("smalti.eval.feature_networks").setLevel(logging.ERROR)  # rank 0 warns about proxies
    metrics = _build_metrics(options, protocol, requested, tokenizer.channels)
    rivals = open_rivals(options, tokenizer, source, transform, protocol)
    batch_size = _batch_size(options, protocol)
    world = world_size()
    loader = evaluation_loader(source, transform, batch_size, options.workers, rank, world, options.max_bad)
    total = len(source) if isinstance(source, IndexedSource) else None
    rival_samples = select_rival_samples(options, protocol)
    competing = sum(rival.find_obstacle_for(tokenizer.channels) is None for rival in rivals)
    rival_total = competing * min(rival_samples, total or rival_samples)
    with (
        ProgressDisplay(enabled=rank == 0) as progress,
        progress.task("Evaluating", total, "samples") as update,
        progress.task("Measuring rivals", rival_total, "samples") if rivals else nullcontext() as update_rivals,
    ):
        evaluation = evaluate(
            tokenizer,
            loader,
            metrics,
            seed=options.seed,
            device=device,
            rivals=rivals,
            rival_samples=rival_samples,
            progress=lambda done: update(min(done * world, total or done * world)),
            rival_progress=update_rivals and (lambda done: update_rivals(min(done * world, rival_total))),
        )
    return evaluation, sum(gather(loader.skipped.count))


def _batch_size(options: argparse.Namespace, protocol: Protocol) -> int:
    """Return the batch size: 1 if the protocol does not crop, because samples can then have different sizes."""
    return options.batch_size if protocol.crop else 1


def _write_report(options: argparse.Namespace, protocol: Protocol, evaluation: Evaluation, skipped: int) -> None:
    """Write the report, and print the table of results and the paths of the files."""
    from rich.console import Console

    from smalti.eval.report import Provenance, results_table, write_report
    from smalti.eval.rivals.report import rivals_table
    from smalti.tokenizers.checkpoints import fingerprint, provenance

    origin = {
        "path": str(options.tokenizer),
        "as": options.branch,
        "tile": options.tile,
        "fingerprint": fingerprint(options.tokenizer),
    }
    data = {"source": options.data, "max_bad": options.max_bad, "batch_size": _batch_size(options, protocol)}
    if options.neighbors is not None:
        data["neighbors"] = options.neighbors
    report_provenance = Provenance(
        protocol=protocol, tokenizer=origin | provenance(options.tokenizer), data=data, skipped=skipped
    )
    files = write_report(evaluation, options.out, report_provenance, overwrite=options.overwrite)
    Console().print(results_table(evaluation, report_provenance))
    if (table := rivals_table(evaluation)) is not None:
        Console().print(table)
    for file in files:
        print(file)
    print_next("To compare it with another report", "compare", options.out, "other-report")


@contextmanager
def _process_group() -> Iterator[int]:
    """Join the process group of `torchrun`, if there is one, and yield the rank."""
    import torch
    from torch import distributed

    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield 0
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # The processes exchange objects only, which NCCL would pass through the GPUs.
    distributed.init_process_group("gloo")
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()
