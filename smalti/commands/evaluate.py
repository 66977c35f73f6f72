"""`smalti evaluate`: a tokenizer measured on a set of images or videos, by a named protocol."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import add_path, add_tokenizer, open_device, open_tokenizer
from smalti.cli.outputs import console
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from torch import nn

    from smalti.data import Source
    from smalti.eval.protocols import Protocol


def run(name: str, arguments: list[str]) -> int:
    """Evaluate, write the report, show the table.

    Under `torchrun` each process takes its share of the set, and the first writes the report of the whole.
    """
    options = _parse(name, arguments)

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from smalti.data import IndexedSource, evaluation_loader, open_source
    from smalti.eval.evaluate import evaluate
    from smalti.eval.feature_networks.selection import frechet_network, perceptual_network
    from smalti.eval.protocols import protocol
    from smalti.eval.report import Provenance, refuse_existing, table, write
    from smalti.tokenizers.checkpoints import fingerprint, provenance

    if not options.overwrite:
        refuse_existing(options.out)
    how = protocol(options.protocol)
    source = open_source(options.data)
    transform = _transform(source, how)
    with _processes() as (rank, world):
        device = open_device(options.device)
        tokenizer = open_tokenizer(options.tokenizer, device, options.path, options.tile)
        # Samples that are not cut to one size cannot stand in one batch.
        batch_size = options.batch_size if how.crop else 1
        loader = evaluation_loader(source, transform, batch_size, options.workers, rank, world, options.max_bad)
        bar = Progress(
            TextColumn("Evaluating"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=console(), disable=rank > 0,
        )  # fmt: skip
        with bar:
            total = len(source) if isinstance(source, IndexedSource) else None
            task = bar.add_task("", total=total)
            result = evaluate(
                tokenizer,
                loader,
                seed=options.seed,
                device=device,
                perceptual=perceptual_network(options.lpips, options.weights),
                features=frechet_network("i3d" if how.clips else "inception", options.weights),
                progress=lambda done: bar.update(task, completed=min(done * world, total or done * world)),
            )
        skipped = _sum_of_processes(loader.skipped.count, world)
    if rank > 0:
        return 0
    origin = {
        "path": str(options.tokenizer),
        "as": options.path,
        "tile": options.tile,
        "fingerprint": fingerprint(options.tokenizer),
    }
    about = Provenance(
        protocol=how,
        tokenizer=origin | provenance(options.tokenizer),
        data={"source": options.data, "max_bad": options.max_bad, "batch_size": batch_size},
        skipped=skipped,
    )
    files = write(result, options.out, about, overwrite=options.overwrite)
    from rich.console import Console

    Console().print(table(result))
    for file in files:
        print(file)
    return 0


def _transform(source: Source, how: Protocol) -> nn.Module:
    """What the protocol does to an image or a video.

    Raises:
        SmaltiError: the protocol is for the other kind.
    """
    from smalti.data import EvaluationTransform, VideoEvaluationTransform

    if source.videos != how.clips:
        has, wanted = ("videos", "images") if source.videos else ("images", "videos")
        other = "clip17x128@24" if source.videos else "imagenet256"
        raise SmaltiError(
            f"{source} holds {has}, and the protocol {how.name} is for {wanted}: take one for {has}, such as {other}."
        )
    spatial = {"resize": how.resize, "crop": how.crop, "interpolation": how.interpolation, "antialias": how.antialias}
    return VideoEvaluationTransform(how.frames, how.rate, **spatial) if how.clips else EvaluationTransform(**spatial)


def _parse(name: str, arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        f"smalti {name}",
        description="PSNR, SSIM, LPIPS, rFID (of videos, rFVD) and codebook use, sample by sample, beside a baseline.",
        epilog="Several GPUs: torchrun --nproc-per-node 8 -m smalti evaluate ...",
    )
    add_tokenizer(parser)
    add_path(parser)
    parser.add_argument(
        "--data",
        required=True,
        help="a folder, an image, a video, shards (a pattern or URL of .tar files; videos:... where they hold videos), "
        "photos:validation or clips:validation",
    )
    parser.add_argument("--out", "-o", type=Path, required=True, help="the folder to write the report to")
    parser.add_argument(
        "--protocol",
        default="imagenet256",
        help="what is done to an image (imagenet256, native, square64, ...) or a video (clip17x128@24: 17 frames of 128 x "
        "128 at 24 a second; %(default)s)",
    )
    parser.add_argument(
        "--batch-size", type=int, default=8, help="images or clips at a time, of one process (%(default)s)"
    )
    parser.add_argument("--workers", type=int, default=2, help="processes that read data (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="decides the noise of a generative decoder (%(default)s)")
    parser.add_argument(
        "--lpips", default="lpips_vgg", choices=("lpips_vgg", "lpips_alex"), help="network (%(default)s)"
    )
    parser.add_argument(
        "--weights", type=Path, help="folder of the metric networks' weights; else SMALTI_WEIGHTS, else download"
    )
    parser.add_argument("--max-bad", type=float, default=0.01, help="share of unreadable files that is still no error")
    parser.add_argument("--overwrite", action="store_true", help="replace a report that is there")
    options = parser.parse_args(arguments)
    if options.weights is not None and not options.weights.is_dir():
        raise SmaltiError(f"--weights names {options.weights}, which is no folder.")
    return options


@contextmanager
def _processes() -> Iterator[tuple[int, int]]:
    """(rank, world): one process, or those that `torchrun` started, joined."""
    import torch
    from torch import distributed

    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield distributed.get_rank(), world
    finally:
        distributed.destroy_process_group()


def _sum_of_processes(count: int, world: int) -> int:
    from torch import distributed

    counts = [count] * world
    if world > 1:
        distributed.all_gather_object(counts, count)
    return sum(counts)
