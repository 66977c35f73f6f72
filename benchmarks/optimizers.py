"""Optimizers for small tokenizers, at equal time and at equal steps: Adam, AdamW, Muon, SOAP and schedule-free AdamW.

    python benchmarks/optimizers.py                                    # about half an hour on 2 cores
    python benchmarks/optimizers.py --minutes 3 --networks wetok --optimizers adam muon
    python benchmarks/optimizers.py --minutes 120 --seeds 3

The networks are those of the quickstarts (WeTok, OneVAE, LTX-Video), with their data, losses, batch sizes, clipping and
averaged weights, from the random initialization. The learning rate is constant after a warm-up of 20 steps. Each optimizer
has its own grid of four learning rates: each trains for a fifth of the time, and the best one of them then trains from the
start for the whole time, with each seed. SOAP and schedule-free AdamW come from pytorch-optimizer (`pip install -e
'.[bench]'`), and are left out without it.

Time is the CPU time of the training process, which has one thread; loading data and validation do not count. PSNR is that
of the averaged weights on the validation data. "Equal steps" is the number of steps of the slowest optimizer; values
between two validations are interpolated. Prints a Markdown table, and writes results.json (all curves), curves.csv and, if
matplotlib is installed, curves.png.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.optim import Adam, AdamW, Optimizer

from short_training import WARMUP_STEPS, Point, train
from smalti.cli.recipes import load_recipes
from smalti.trainers import Muon

NETWORKS = {"wetok": "quickstart.yaml", "onevae": "onevae/quickstart.yaml", "ltx": "ltx/quickstart.yaml"}
"""Recipes by name."""
GRID_SHARE = 0.2
"""Time of a run that chooses the learning rate, relative to the time of the runs that are compared."""
_WORK_SHARE = 0.75
"""Part of the total time in which networks train; the rest is for imports, validation and waiting."""
_OVERHEAD = 4.0
"""Seconds that a run takes besides training, to estimate the time left."""

Groups = list[dict[str, Any]]


def build_soap(groups: Groups, lr: float) -> Optimizer:
    """Build SOAP (arXiv 2409.11321) with the settings of its paper, without weight decay."""
    from pytorch_optimizer import SOAP

    return SOAP(groups, lr=lr, betas=(0.95, 0.95), weight_decay=0.0)


def build_schedule_free(groups: Groups, lr: float) -> Optimizer:
    """Build schedule-free AdamW (arXiv 2405.15682). It averages the weights itself."""
    from pytorch_optimizer import ScheduleFreeAdamW

    return ScheduleFreeAdamW(groups, lr=lr, betas=(0.9, 0.99), warmup_steps=WARMUP_STEPS)


@dataclass(frozen=True)
class Candidate:
    """An optimizer and its grid.

    Attributes:
        build: builds the optimizer from parameter groups and a learning rate.
        rates: learning rates to try.
    """

    build: Callable[[Groups, float], Optimizer]
    rates: tuple[float, ...]


OPTIMIZERS = {
    "adam": Candidate(lambda groups, lr: Adam(groups, lr=lr, betas=(0.9, 0.99)), (3e-4, 1e-3, 3e-3, 1e-2)),
    "adamw": Candidate(
        lambda groups, lr: AdamW(groups, lr=lr, betas=(0.9, 0.99), weight_decay=0.01), (3e-4, 1e-3, 3e-3, 1e-2)
    ),
    "muon": Candidate(lambda groups, lr: Muon(groups, lr=lr, adam_lr=lr / 10), (3e-3, 1e-2, 3e-2, 1e-1)),
    "soap": Candidate(build_soap, (3e-4, 1e-3, 3e-3, 1e-2)),
    "schedule_free": Candidate(build_schedule_free, (1e-3, 3e-3, 1e-2, 3e-2)),
}
"""Muon's learning rate is that of the matrices; Adam's, for everything else, is a tenth of it."""
_FROM_PYTORCH_OPTIMIZER = ("soap", "schedule_free")


@dataclass(frozen=True)
class Run:
    """What one training run does.

    Attributes:
        network: a name in `NETWORKS`.
        optimizer: a name in `OPTIMIZERS`.
        rate: learning rate.
        seed: seed of the run.
        seconds: training time.
        final: whether the run is compared; otherwise, it chooses the learning rate.
    """

    network: str
    optimizer: str
    rate: float
    seed: int
    seconds: float
    final: bool


@dataclass(frozen=True)
class Result:
    """A finished run and its curve."""

    run: Run
    curve: list[Point]

    def psnr(self) -> float:
        """Return the PSNR at the end; minus infinity for a run that diverged."""
        psnr = self.curve[-1].psnr
        return -math.inf if math.isnan(psnr) else psnr

    def psnr_at(self, step: int) -> float:
        """Return the PSNR after a number of steps, linear between two validations."""
        for before, after in zip(self.curve, self.curve[1:], strict=False):
            if before.step <= step <= after.step:
                share = (step - before.step) / (after.step - before.step)
                return before.psnr + share * (after.psnr - before.psnr)
        return self.psnr()


def execute(run: Run, device: str) -> Result:
    """Train. Runs in its own process."""
    torch.set_num_threads(1)
    build = OPTIMIZERS[run.optimizer].build
    recipe = load_recipes(NETWORKS[run.network], "{start: {method: random}}")
    return Result(run, train(recipe, lambda groups: build(groups, run.rate), run.seconds, run.seed, device))


class Benchmark:
    """Runs the grid of each optimizer, then the best learning rate with all seeds, with progress on stderr.

    Args:
        options: the command line options.
        seconds: training time of a run that is compared.
    """

    def __init__(self, options: argparse.Namespace, seconds: float) -> None:
        self.options, self.seconds = options, seconds
        self.results: list[Result] = []
        self._start = time.monotonic()
        rates = {name: len(OPTIMIZERS[name].rates) for name in options.optimizers}
        runs = len(options.networks) * sum(n + len(options.seeds) for n in rates.values())
        training = len(options.networks) * sum(seconds * (GRID_SHARE * n + len(options.seeds)) for n in rates.values())
        self._planned = training + _OVERHEAD * runs
        self._done = 0.0

    def run(self) -> list[Result]:
        """Run everything, and return the results of the grid and of the runs that are compared."""
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(self.options.jobs, context) as pool:
            grid: dict[Future[Result], None] = {}
            for network in self.options.networks:
                for name in self.options.optimizers:
                    for rate in OPTIMIZERS[name].rates:
                        short = Run(network, name, rate, self.options.seeds[0], GRID_SHARE * self.seconds, final=False)
                        grid[pool.submit(execute, short, self.options.device)] = None
            self._collect(list(grid))
            final = [
                pool.submit(execute, Run(network, name, self.best_rate(network, name), seed, self.seconds, final=True),
                            self.options.device)
                for seed in self.options.seeds for network in self.options.networks for name in self.options.optimizers
            ]  # fmt: skip
            self._collect(final)
        return self.results

    def best_rate(self, network: str, optimizer: str) -> float:
        """Return the learning rate with the highest PSNR in the grid."""
        grid = [r for r in self.results if (r.run.network, r.run.optimizer, r.run.final) == (network, optimizer, False)]
        return max(grid, key=Result.psnr).run.rate

    def _collect(self, futures: list[Future[Result]]) -> None:
        """Wait for runs, and print a line with the time left for each."""
        for future in as_completed(futures):
            result = future.result()
            self.results.append(result)
            self._done += result.run.seconds + _OVERHEAD
            elapsed = time.monotonic() - self._start
            left = elapsed * (self._planned - self._done) / self._done
            run, last = result.run, result.curve[-1]
            print(
                f"{run.network} {run.optimizer}, learning rate {run.rate:g}, seed {run.seed}: {result.psnr():.2f} dB after "
                f"{last.step} steps in {last.seconds:.0f} s; about {left / 60:.1f} minutes left",
                file=sys.stderr, flush=True,
            )  # fmt: skip


def print_table(results: list[Result], network: str, seconds: float) -> None:
    """Print the rows of a network: means over the seeds, with the lowest and the highest value if there are several."""
    final = [result for result in results if result.run.final and result.run.network == network]
    steps = min(result.curve[-1].step for result in final)
    for name in [name for name in OPTIMIZERS if any(result.run.optimizer == name for result in final)]:
        same = [result for result in final if result.run.optimizer == name]
        ends = [result.curve[-1] for result in same]
        milliseconds = statistics.mean(1000 * end.seconds / max(1, end.step) for end in ends)
        rate, rates = same[0].run.rate, OPTIMIZERS[name].rates
        edge = " (edge of the grid)" if rate in (rates[0], rates[-1]) else ""
        print(
            f"| {network} | {name} | {rate:g}{edge} | {milliseconds:.0f} | {statistics.mean(e.step for e in ends):.0f} | "
            f"{_format([r.psnr() for r in same])} | {_format([r.psnr_at(steps) for r in same])} ({steps} steps) |",
            flush=True,
        )


def _format(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def write_files(results: list[Result], options: argparse.Namespace, seconds: float) -> None:
    """Write results.json, curves.csv and, if matplotlib is installed, curves.png."""
    options.out.mkdir(parents=True, exist_ok=True)
    content = {
        "torch": torch.__version__,
        "device": options.device,
        "seconds": seconds,
        "grids": {name: OPTIMIZERS[name].rates for name in options.optimizers},
        "runs": [asdict(result.run) | {"curve": [asdict(point) for point in result.curve]} for result in results],
    }
    (options.out / "results.json").write_text(json.dumps(content, indent=1))
    with (options.out / "curves.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["network", "optimizer", "learning_rate", "seed", "final", "step", "seconds", "psnr"])
        for result in results:
            run = result.run
            for point in result.curve:
                cells = [point.step, f"{point.seconds:.3f}", f"{point.psnr:.4f}"]
                writer.writerow([run.network, run.optimizer, run.rate, run.seed, int(run.final), *cells])
    if find_spec("matplotlib") is None:
        print("matplotlib is not installed: there is no curves.png.", file=sys.stderr)
    else:
        plot([result for result in results if result.run.final], options.out / "curves.png")


def plot(results: list[Result], path: Path) -> None:
    """Draw PSNR against time and against steps, one row per network."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    networks = list(dict.fromkeys(result.run.network for result in results))
    figure, axes = plt.subplots(len(networks), 2, figsize=(10, 3.5 * len(networks)), squeeze=False)
    colors = {name: f"C{index}" for index, name in enumerate(OPTIMIZERS)}
    for row, network in zip(axes, networks, strict=True):
        for axis, key in zip(row, ("seconds", "step"), strict=True):
            labeled: set[str] = set()
            for result in results:
                run = result.run
                if run.network == network:
                    label = f"{run.optimizer}, {run.rate:g}" if run.optimizer not in labeled else None
                    labeled.add(run.optimizer)
                    x = [getattr(point, key) for point in result.curve[1:]]
                    axis.plot(x, [point.psnr for point in result.curve[1:]], color=colors[run.optimizer], label=label)
            axis.set_title(network)
            axis.set_xlabel("steps" if key == "step" else "seconds of training")
            axis.set_ylabel("PSNR, dB")
            axis.grid(alpha=0.3)
            axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def parse_options() -> argparse.Namespace:
    """Parse the command line. Without pytorch-optimizer, its optimizers are left out unless they are requested."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="total time, about (default: %(default)s)")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--optimizers", nargs="+", choices=OPTIMIZERS, help="default: all that are installed")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds of the runs that are compared")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time, with one thread each")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/optimizers"), help="output folder (default: %(default)s)"
    )
    options = parser.parse_args()
    options.seeds = list(range(options.seeds))
    has_library = find_spec("pytorch_optimizer") is not None
    if options.optimizers is None:
        options.optimizers = [name for name in OPTIMIZERS if has_library or name not in _FROM_PYTORCH_OPTIMIZER]
    elif not has_library and (missing := [name for name in options.optimizers if name in _FROM_PYTORCH_OPTIMIZER]):
        parser.error(f"{missing[0]} needs pytorch-optimizer: pip install -e '.[bench]'")
    return options


def main() -> None:
    """Run the benchmark, print the table and write the files."""
    os.environ["OMP_NUM_THREADS"] = "1"  # also of the processes that train
    options = parse_options()
    shares = sum(GRID_SHARE * len(OPTIMIZERS[name].rates) + len(options.seeds) for name in options.optimizers)
    seconds = 60 * options.minutes * _WORK_SHARE * options.jobs / (shares * len(options.networks))
    results = Benchmark(options, seconds).run()
    print(
        f"{seconds:.0f} seconds of training, {len(options.seeds)} seed(s), {options.device}, torch {torch.__version__}\n"
    )
    print("| network | optimizer | learning rate | ms per step | steps | PSNR at equal time, dB | at equal steps, dB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for network in options.networks:
        print_table(results, network, seconds)
    write_files(results, options, seconds)


if __name__ == "__main__":
    main()
