"""`smalti evaluate`: measure a tokenizer on images or videos with a named protocol."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.cli.options import add_branch_option, add_tokenizer_options, open_device, open_tokenizer
from smalti.cli.outputs import get_console
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from torch import nn

    from smalti.data import Source
    from smalti.eval.metrics import Metric
    from smalti.eval.metrics.registry import MetricBuilder
    from smalti.eval.protocols import Protocol
    from smalti.eval.results import Evaluation


def run(name: str, arguments: list[str]) -> int:
    """Evaluate, write the report and print the table.

    Under `torchrun`, each process measures its part of the dataset, and rank 0 writes the report for the whole dataset.

    Raises:
        SmaltiError: an option is invalid, the data or the tokenizer cannot be read, too many samples are unreadable, or the
            report exists and may not be replaced.
    """
    options = _parse(name, arguments)

    from smalti.data import open_source
    from smalti.eval.metrics import find_metric
    from smalti.eval.protocols import get_protocol
    from smalti.eval.report import check_report_folder

    if not options.overwrite:
        check_report_folder(options.out)
    protocol = get_protocol(options.protocol)
    source = open_source(options.data)
    transform = _build_transform(source, protocol)
    requested = {name: find_metric(name) for name in options.metric}
    with _process_group() as rank:
        evaluation, skipped = _evaluate(options, source, transform, protocol, requested, rank)
    if rank == 0:
        _write_report(options, protocol, evaluation, skipped)
    return 0


def _parse(name: str, arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments after the command's name.

    Raises:
        SmaltiError: `--weights` is not a folder.
    """
    parser = argparse.ArgumentParser(
        f"smalti {name}",
        description="Measure PSNR, SSIM, LPIPS, rFID (for videos: rFVD) and codebook usage of a tokenizer. Compare it with "
        "a baseline. Write a report with the results and the values per sample.",
        epilog="Multiple GPUs: torchrun --nproc-per-node 8 -m smalti evaluate ...",
    )
    add_tokenizer_options(parser)
    add_branch_option(parser)
    parser.add_argument(
        "--data",
        required=True,
        help="folder, image or video; shards (path, glob or URL of .tar files); photos:validation or clips:validation; or "
        "the class path of your own source (my_package.MySource). The prefix videos: selects the videos of a folder, or "
        "marks shards that contain videos (videos:clips-*.tar)",
    )
    parser.add_argument("--out", "-o", type=Path, required=True, help="folder to write the report to")
    parser.add_argument(
        "--protocol",
        default="imagenet256",
        help="how samples are prepared. Images: imagenet256, native (original size), square64 (64 x 64 pixels), ... "
        "Videos: clip17x128@24 (17 frames of 128 x 128 pixels at 24 frames per second), ... (default: %(default)s)",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="additional metric, such as lpips_alex or fd_efflite0, or the class path of your own metric "
        "(my_package.MyMetric); repeat the option for several metrics",
    )
    parser.add_argument(
        "--lpips",
        default="lpips_vgg",
        choices=("lpips_vgg", "lpips_alex"),
        help="network for LPIPS (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        help="folder with the pretrained weights of the metrics' networks (default: the folder in the environment variable "
        "SMALTI_WEIGHTS, else they are downloaded)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, help="images or clips per batch and process (default: %(default)s)"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="data loading workers per process (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed for the noise of a generative decoder (default: %(default)s)"
    )
    parser.add_argument(
        "--max-bad",
        type=float,
        default=0.01,
        help="maximum fraction of unreadable files to skip before evaluation stops with an error (default: %(default)s)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing report")
    options = parser.parse_args(arguments)
    if options.weights is not None and not options.weights.is_dir():
        raise SmaltiError(
            f"--weights is {options.weights}, which is not a folder: give the folder that contains the weight files."
        )
    return options


def _build_transform(source: Source, protocol: Protocol) -> nn.Module:
    """Return the transform that prepares samples according to a protocol.

    Raises:
        SmaltiError: the protocol is for images and the source contains videos, or vice versa.
    """
    from smalti.data import EvaluationTransform, VideoEvaluationTransform

    if source.videos != protocol.clips:
        present, expected = ("videos", "images") if source.videos else ("images", "videos")
        example = "clip17x128@24" if source.videos else "imagenet256"
        raise SmaltiError(
            f"{source} contains {present}, but the protocol {protocol.name} is for {expected}: use a protocol for "
            f"{present}, such as {example}."
        )
    spatial: dict[str, Any] = {
        "resize": protocol.resize,
        "crop": protocol.crop,
        "interpolation": protocol.interpolation,
        "antialias": protocol.antialias,
    }
    if protocol.clips:
        return VideoEvaluationTransform(protocol.frames, protocol.rate, **spatial)
    return EvaluationTransform(**spatial)


def _build_metrics(
    options: argparse.Namespace, protocol: Protocol, requested: dict[str, MetricBuilder]
) -> list[Metric]:
    """Return the default metrics and the requested ones.

    Raises:
        SmaltiError: a requested metric does not measure this kind of samples, or its weights are not available.
    """
    from smalti.eval.metrics import default_metrics

    metrics = default_metrics(clips=protocol.clips, lpips=options.lpips, weights=options.weights)
    names = {metric.name for metric in metrics}
    metrics += [build(options.weights) for name, build in requested.items() if name not in names]
    for metric in metrics:
        metric.check_medium("clips" if protocol.clips else "images")
    return metrics


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
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from smalti.data import IndexedSource, evaluation_loader
    from smalti.distributed import gather, world_size
    from smalti.eval.evaluate import evaluate

    device = open_device(options.device)
    tokenizer = open_tokenizer(options.tokenizer, device, options.branch, options.tile)
    if rank > 0:
        logging.getLogger("smalti.eval.feature_networks").setLevel(logging.ERROR)  # rank 0 warns about proxies
    metrics = _build_metrics(options, protocol, requested)
    batch_size = _batch_size(options, protocol)
    world = world_size()
    loader = evaluation_loader(source, transform, batch_size, options.workers, rank, world, options.max_bad)
    bar = Progress(
        TextColumn("Evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=get_console(), disable=rank > 0,
    )  # fmt: skip
    with bar:
        total = len(source) if isinstance(source, IndexedSource) else None
        task = bar.add_task("", total=total)
        evaluation = evaluate(
            tokenizer,
            loader,
            metrics,
            seed=options.seed,
            device=device,
            progress=lambda done: bar.update(task, completed=min(done * world, total or done * world)),
        )
    return evaluation, sum(gather(loader.skipped.count))


def _batch_size(options: argparse.Namespace, protocol: Protocol) -> int:
    """Return the batch size: 1 if the protocol does not crop, because samples can then have different sizes."""
    return options.batch_size if protocol.crop else 1


def _write_report(options: argparse.Namespace, protocol: Protocol, evaluation: Evaluation, skipped: int) -> None:
    """Write the report, and print the table of results and the paths of the files."""
    from rich.console import Console

    from smalti.eval.report import Provenance, results_table, write_report
    from smalti.tokenizers.checkpoints import fingerprint, provenance

    origin = {
        "path": str(options.tokenizer),
        "as": options.branch,
        "tile": options.tile,
        "fingerprint": fingerprint(options.tokenizer),
    }
    data = {"source": options.data, "max_bad": options.max_bad, "batch_size": _batch_size(options, protocol)}
    report_provenance = Provenance(
        protocol=protocol, tokenizer=origin | provenance(options.tokenizer), data=data, skipped=skipped
    )
    files = write_report(evaluation, options.out, report_provenance, overwrite=options.overwrite)
    Console().print(results_table(evaluation))
    for file in files:
        print(file)


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
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield distributed.get_rank()
    finally:
        distributed.destroy_process_group()
