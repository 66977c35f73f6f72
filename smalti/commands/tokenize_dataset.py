"""`smalti tokenize-dataset`: tokenize images or videos in bulk, to shards for training other models."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.data_options import CLIP_PROTOCOL_HELP, SOURCE_HELP, add_loading_options, add_max_bad_option
from smalti.cli.options import add_tokenizer_options, check_tokenizer, open_device
from smalti.cli.parser import CommandParser, whole_number
from smalti.cli.reducer_options import REDUCER_HELP, add_reducer_options

if TYPE_CHECKING:
    from smalti.tokenization.job import Job
    from smalti.tokenization.processes import Rank
    from smalti.tokenization.run import Summary

_EXAMPLES = (
    "smalti tokenize-dataset --tokenizer my-tokenizer --data my/photos --protocol square256 --format npy --out tokens",
    "smalti tokenize-dataset --tokenizer vae --data 'photos-*.tar' --protocol square256 --format parquet --out latents",
    "smalti tokenize-dataset --tokenizer t --data clips --protocol clip17x128@24 --all-clips --format npy --out tokens",
)
_NOTES = (
    "Each shard of the input becomes one shard of the output; the files of a folder are cut into shards of equal size. A "
    "shard is written to a temporary folder, renamed, and marked as done by a .json file. Run the command again after an "
    "interruption: it continues, and the result has the same bytes. Samples that cannot be read are listed in these files. "
    "All GPUs of a machine are used. Under torchrun or srun, each process tokenizes a part of the shards."
)


def run(name: str, arguments: list[str]) -> int:
    """Tokenize, and print what was written and what could not be read.

    Raises:
        SmaltiError: an option is invalid, the data or the tokenizer cannot be read, the folder has other content, or too
            many samples are unreadable.
    """
    options = _parse(name, arguments)
    job = _build_job(options)

    from smalti.tokenization.formats import find_format
    from smalti.tokenization.processes import (
        Rank,
        count_devices,
        end_with_parent,
        find_rank,
        rank_device,
        run_processes,
    )

    find_format(job.format)
    if options.ray is not None:
        return _run_on_ray(options, job)
    rank = find_rank()
    if rank is None:
        processes = options.processes or count_devices(options.device)
        if processes > 1:
            _open(replace(job, device="cpu"))  # errors appear once, before processes start
            return run_processes([name, *arguments], processes)
    end_with_parent()
    rank = rank or Rank()
    open_device(options.device)
    _run_rank(replace(job, device=rank_device(options.device, rank)), rank)
    return 0


def _parse(name: str, arguments: list[str]) -> argparse.Namespace:
    parser = CommandParser(
        name,
        "Tokenize a dataset of images or videos to shards for training other models: ids of a discrete tokenizer, or "
        "latents of a continuous one.",
        _EXAMPLES,
        _NOTES,
    )
    add_tokenizer_options(parser, branch=True, bfloat16="which is faster and changes some ids")
    _add_data_options(parser)
    _add_content_options(parser)
    add_reducer_options(parser, f"store reduced latents, with lengths and assignment: {REDUCER_HELP}")
    output = parser.add_argument_group("output")
    output.add_argument(
        "--out", "-o", type=Path, required=True, metavar="PATH", help="folder to write to, or to continue"
    )
    output.add_argument("--format", required=True, help="webdataset, parquet, megatron or npy")
    output.add_argument(
        "--samples-per-shard",
        type=whole_number(1),
        default=10_000,
        metavar="N",
        help="samples per shard, unless the data are shards (default: %(default)s)",
    )
    machines = parser.add_argument_group("speed")
    add_loading_options(
        machines,
        batch_size=64,
        workers=2,
        samples="samples per batch",
        processes="data loading processes per device",
    )
    machines.add_argument(
        "--processes", type=whole_number(1), metavar="N", help="processes on this machine (default: one per GPU)"
    )
    machines.add_argument(
        "--ray",
        nargs="?",
        const="auto",
        metavar="ADDRESS",
        help="run on a Ray cluster, whose machines share the paths: its address, local for a new one on this machine "
        "(default: the one that this machine belongs to); --processes is the number of its workers",
    )
    options = parser.parse(arguments)
    options.tokenizer = check_tokenizer(options.tokenizer)
    return options


def _add_data_options(parser: CommandParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        required=True,
        metavar="SOURCE",
        help=f"folder; {SOURCE_HELP}",
    )
    data.add_argument(
        "--protocol",
        action="append",
        required=True,
        metavar="NAME",
        help="how samples are prepared. Images: square256 (shorter side 256, central 256 x 256), native (original "
        f"size), ... Videos: {CLIP_PROTOCOL_HELP} Repeat the option for several versions of each sample",
    )
    data.add_argument(
        "--augmentations",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="additional versions of each sample: random resized crops and flips of the first protocol's size",
    )
    data.add_argument("--seed", type=whole_number(0), default=0, help="seed for augmentations (default: %(default)s)")
    data.add_argument(
        "--all-clips", action="store_true", help="cut each video into consecutive clips (default: its first clip)"
    )
    data.add_argument(
        "--columns",
        metavar="NAMES",
        help="captions and other data to keep, by suffix, separated by commas: txt,json; none for nothing (default: "
        "those that the first samples have)",
    )
    add_max_bad_option(data)


def _add_content_options(parser: CommandParser) -> None:
    content = parser.add_argument_group("content")
    content.add_argument(
        "--pack-bits", action="store_true", help="store ids without unused bits (default: the smallest integer type)"
    )
    content.add_argument(
        "--vocabulary",
        type=Path,
        metavar="PATH",
        help="store ids of a language model: visual_vocab.json of `smalti vocabulary` (default: ids of the tokenizer)",
    )
    content.add_argument(
        "--dtype",
        metavar="TYPE",
        help="type of continuous latents: float32, float16 or bfloat16 (default: float32)",
    )
    content.add_argument(
        "--log-variance", action="store_true", help="store the log-variance of continuous latents next to their mean"
    )
    content.add_argument(
        "--normalize",
        metavar="STATISTICS",
        help="normalize each channel of continuous latents to mean 0 and standard deviation 1: by the statistics of the "
        "tokenizer, if they were measured in training (tokenizer), or by those of a folder of latents (default: unchanged)",
    )


def _build_job(options: argparse.Namespace) -> Job:
    from smalti.tokenization.job import Job

    columns = None if options.columns is None else tuple(filter(None, options.columns.split(",")))
    return Job(
        tokenizer=str(options.tokenizer),
        data=options.data,
        out=str(options.out),
        format=options.format,
        protocols=tuple(options.protocol),
        augmentations=options.augmentations,
        all_clips=options.all_clips,
        seed=options.seed,
        samples_per_shard=options.samples_per_shard,
        branch=options.branch,
        tile=options.tile,
        precision=options.precision,
        dtype=options.dtype,
        log_variance=options.log_variance,
        normalize=options.normalize,
        pack_bits=options.pack_bits,
        vocabulary=None if options.vocabulary is None else str(options.vocabulary),
        reduce=options.reduce,
        saliency=options.saliency,
        columns=() if columns == ("none",) else columns,
        batch_size=options.batch_size,
        workers=options.workers,
        max_bad=options.max_bad,
        device=options.device,
    )


def _open(job: Job) -> None:
    from smalti.tokenization.job import OpenedJob

    OpenedJob(job)


def _run_rank(job: Job, rank: Rank) -> None:
    from smalti.cli.progress import ProgressDisplay
    from smalti.tokenization.job import OpenedJob
    from smalti.tokenization.run import run_units

    if job.device == "auto":
        job = replace(job, device=str(open_device("auto")))
    opened = OpenedJob(job)
    world = rank.world_size  # the others are about as fast
    with (
        ProgressDisplay(enabled=rank.rank == 0) as display,
        display.task("Tokenizing", None, "samples", show_speed=True) as update,
    ):
        summary = run_units(
            opened,
            rank.select(opened.units),
            lambda progress: update(progress.samples * world, (progress.estimated_samples or 0) * world or None),
        )
    _print_summary(job, rank, summary)
    if rank.rank == 0:
        print_next_command(job)


def _run_on_ray(options: argparse.Namespace, job: Job) -> int:
    from smalti.tokenization.processes import Rank
    from smalti.tokenization.ray_fleet import run_on_ray

    summary = run_on_ray(job, options.ray, options.processes)
    _print_summary(job, Rank(), summary)
    print_next_command(job)
    return 0


def _print_summary(job: Job, rank: Rank, summary: Summary) -> None:
    who = f"process {rank.rank} of {rank.world_size}: " if rank.world_size > 1 else ""
    skipped = f", of which {summary.skipped} were done before" if summary.skipped else ""
    shards = "1 shard" if len(summary.markers) == 1 else f"{len(summary.markers)} shards"
    print(f"{job.out}: {who}{summary.rows} rows in {shards}{skipped}")
    if failures := summary.failures:
        (key, reason), *_ = failures
        print(
            f"{len(failures)} could not be read, listed in the .json files of their shards; the first: {key} ({reason})"
        )


def print_next_command(job: Job) -> None:
    """Print how to read the result."""
    print(f'To read it in Python: dataset = smalti.TokenDataset("{job.out}")')
