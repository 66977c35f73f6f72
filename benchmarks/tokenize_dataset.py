"""Samples per second of `smalti tokenize-dataset` against a plain loop over the same network, which has its data in memory.

    python benchmarks/tokenize_dataset.py                                  # this machine's best device
    python benchmarks/tokenize_dataset.py --device cuda --samples 50000 --batch-size 256 --workers 8

The plain loop holds one batch of pixels on the device and encodes it again and again: the network's own time. The command
decodes JPEG files or reads raw images in worker processes, transfers them, tokenizes them and writes npy shards. Both
alternate, in one process, with a network that is already loaded; the time of the command includes writing the shards.
On a CPU without workers, the time is that of the process, which other processes on the machine change less than wall time.
The ratio is what the command leaves of the network's own speed: 1 is perfect.

The file is not called tokenize.py: Python would import it instead of its own module of this name.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from smalti.data import ImageSource
from smalti.tokenization.job import Job, OpenedJob
from smalti.tokenization.run import run_units
from smalti.tokenizers.checkpoints import load, save


class RawImages(ImageSource):
    """Random images in memory, whose decoding costs nothing: shows the cost of everything but decoding."""

    count = 0
    size = 0

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        shape = (64, self.size, self.size, 3)
        self._images = [Image.fromarray(pixels) for pixels in random.integers(0, 256, shape, dtype=np.uint8)]

    def __len__(self) -> int:
        return self.count

    def __str__(self) -> str:
        return "random images"

    def name(self, index: int) -> str:
        """Return the index."""
        return f"{index:08d}"

    def __getitem__(self, index: int) -> Image.Image:
        return self._images[index % len(self._images)]


def measure_network(tokenizer_folder: Path, options: argparse.Namespace) -> float:
    """Return the samples per second of a plain loop over the network."""
    tokenizer = load(tokenizer_folder, options.device)
    pixels = torch.rand(options.batch_size, 3, options.size, options.size, device=options.device) * 2 - 1
    batches = max(1, options.samples // options.batch_size)

    def run(count: int) -> float:
        start = options.clock()
        with torch.inference_mode():
            for _ in range(count):
                ids = tokenizer.tokenize(pixels).ids
            ids.cpu()  # waits for the device
        return options.clock() - start

    run(2)
    return batches * options.batch_size / run(batches)


def measure_command(tokenizer_folder: Path, data: str, out: Path, options: argparse.Namespace) -> float:
    """Return the samples per second of the code that each process of `smalti tokenize-dataset` runs."""
    job = Job(
        tokenizer=str(tokenizer_folder), data=data, out=str(out), format=options.format,
        protocols=(f"square{options.size}",),
        batch_size=options.batch_size, workers=options.workers, device=options.device,
        samples_per_shard=max(options.batch_size, options.samples // 4 // options.batch_size * options.batch_size),
    )  # fmt: skip
    opened = OpenedJob(job)
    start = options.clock()
    summary = run_units(opened, opened.units)
    seconds = options.clock() - start
    return summary.rows / seconds


def write_photos(folder: Path, options: argparse.Namespace) -> None:
    """Write random smooth images as JPEG files."""
    folder.mkdir()
    random = np.random.default_rng(0)
    for index in range(options.samples):
        pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        size = (options.size * 5 // 4, options.size)
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(folder / f"{index:06d}.jpg")


def main() -> None:
    """Print the ratio for images in memory and for JPEG files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--recipe", default="quickstart.yaml", help="recipe whose tokenizer is measured, with random weights"
    )
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--format", default="npy")
    options = parser.parse_args()
    cpu_only = options.device == "cpu" and options.workers == 0
    options.clock = time.process_time if cpu_only else time.perf_counter
    RawImages.count, RawImages.size = options.samples, options.size

    from smalti.cli.build_tokenizer import build_tokenizer

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        torch.manual_seed(0)
        save(build_tokenizer(options.recipe).eval(), folder / "tokenizer")
        write_photos(folder / "photos", options)
        print(
            f"{options.recipe}, {options.samples} images of {options.size} x {options.size}, batches of "
            f"{options.batch_size}, {options.workers} workers, {options.device}, {options.format}"
        )
        sources: dict[str, str] = {"in memory": "RawImages", "JPEG files": str(folder / "photos")}
        for name, data in sources.items():
            compare(name, data, folder, options)


def compare(name: str, data: str, folder: Path, options: argparse.Namespace) -> None:
    """Measure both in turns, and print the medians and the median of the ratios."""
    network, command = [], []
    for round_ in range(options.rounds):
        turns: list[Callable[[], None]] = [
            lambda: network.append(measure_network(folder / "tokenizer", options)),
            lambda: command.append(
                measure_command(folder / "tokenizer", data, folder / f"{name}-{round_}", options)  # noqa: B023
            ),
        ]
        for turn in turns if round_ % 2 else reversed(turns):
            turn()
    ratio = statistics.median(c / n for c, n in zip(command, network, strict=True))
    print(f"{name:>10}: network {statistics.median(network):8.1f} samples/s, command {statistics.median(command):8.1f} "
          f"samples/s, ratio {ratio:.3f}")  # fmt: skip


if __name__ == "__main__":
    main()
