"""What small tokenizers learn in minutes: variants at equal bits and equal time, with seeds, curves and pictures.

    python benchmarks/learning.py --study published --minutes 8          # the published setting of WeTok against ours
    python benchmarks/learning.py --study quantizers start --minutes 1 --seeds 3
    python benchmarks/learning.py --study published --train my/photos --validation my/val

A study is a recipe and its variants, each of which states what it changes (`STUDIES`). All variants of a study get
the same time on the same data, with one thread. Time is the CPU time of the training process, without loading data and
validation. A linear start counts. The learning rate decays over the time. PSNR is that of the averaged weights on uint8
pictures, the mean over the validation pictures: images are resized and cropped to 128 x 128 pixels.

Prints a Markdown table per study with the mean and the range over the seeds. Writes results.json and, if matplotlib is
installed, curves.png and, for each study of images, pictures of the first seed. The study `published` also gives JPEG,
WebP and the linear codec at the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam, Optimizer

from short_training import Groups, Point, train
from smalti.cli.recipes import format_recipe, load_recipes
from smalti.data import EvaluationTransform, ImageData
from smalti.data.source_spec import open_source
from smalti.eval.rivals.base import sample_psnr
from smalti.eval.rivals.bicubic import Bicubic
from smalti.eval.rivals.image_codecs import JPEG, WebP
from smalti.eval.rivals.linear import fit_linear_codecs
from smalti.pixels import pixels_to_uint8, to_pixels
from smalti.tokenizers import wetok
from smalti.tokenizers.bottlenecks import GQ
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.trainers import Muon

Recipe = dict[str, Any]

SHOWN = 3
"""Validation pictures that are drawn for each variant."""
_ENTROPIES = {"token_entropy": 0.1, "codebook_entropy": -0.1, "commitment": 0.25}
_FROZEN = ["encoder", "bottleneck", "decoder.conv_in", "decoder.middle"]


def _bottleneck(name: str, **arguments: Any) -> Recipe:
    """Return a recipe that replaces the bottleneck."""
    return {"model": {"tokenizer": {"init_args": {"bottleneck": {"class_path": name, "init_args": arguments}}}}}


def _network(**arguments: Any) -> Recipe:
    """Return a recipe that changes arguments of the tokenizer."""
    return {"model": {"tokenizer": {"init_args": arguments}}}


def _model(**settings: Any) -> Recipe:
    """Return a recipe that changes settings of the training."""
    return {"model": settings}


def _adam(lr: float, betas: tuple[float, float] = (0.9, 0.99)) -> Recipe:
    return _model(optimizer={"class_path": "Adam", "init_args": {"lr": lr, "betas": list(betas)}})


def _muon(lr: float, adam_lr: float = 1e-3) -> Recipe:
    return _model(optimizer={"class_path": "Muon", "init_args": {"lr": lr, "adam_lr": adam_lr}})


def _curriculum(**arguments: Any) -> Recipe:
    return {"trainer": {"callbacks": [{"class_path": "smalti.trainers.Curriculum", "init_args": arguments}]}}


_RANDOM: Recipe = {"start": {"method": "random"}}
_LINEAR: Recipe = {"start": {"method": "linear"}}
_PUBLISHED: list[Recipe] = [
    _RANDOM,
    {"trainer": {"precision": "32-true"}},
    _network(channels=32, multipliers=[1, 2, 2, 4], blocks=2, groups=32),
    _model(weights={"l1": 1.0, "mse": 0.0, **_ENTROPIES}, frozen=[]),
]
"""WeTok's network at a width of 32 with group norms, random weights, and its losses without perceptual and GAN losses."""
_NORMS = _network(channels=32, groups=8)
"""The network of the quickstart with group norms, and the width that their groups need for a linear start."""
_SMALL = [_network(stride=4, channels=16, multipliers=[1, 2, 4]), _RANDOM, _muon(0.01)]
"""A network for 12 bits per 4 x 4 pixels, from random weights: a size at which all quantizers can be trained."""
_FSQ = [_bottleneck("FSQ", levels=[16, 8, 8, 4, 4, 4], tokens_per_position=2), _model(frozen=[]), _muon(0.005)]
"""32 bits with FSQ, for a base with GQ whose encoder is frozen."""
_TRAINABLE_GQ = [_model(frozen=[]), _muon(0.003), _model(weights={"l1": 1.0, "mse": 1.0, "commitment": 0.25})]


@dataclass(frozen=True)
class Study:
    """A comparison.

    Attributes:
        title: what is compared.
        base: name of the recipe that the variants change.
        variants: the changes of each variant by its name, in the order in which they are merged.
    """

    title: str
    base: str
    variants: dict[str, list[Recipe]]


STUDIES = {
    "published": Study(
        "32 bits per 8 x 8 pixels: WeTok's published setting, and the quickstart",
        "wetok/quickstart.yaml",
        {
            "published, Adam 1e-4": [*_PUBLISHED, _bottleneck("GQ", groups=4, bits=8), _adam(1e-4, (0.5, 0.9))],
            "published, Adam 1e-3": [*_PUBLISHED, _bottleneck("GQ", groups=4, bits=8), _adam(1e-3, (0.5, 0.9))],
            "quickstart with 32 bits": [_bottleneck("GQ", groups=4, bits=8)],
            "FSQ with 32 bits": [*_FSQ, _network(multipliers=[1, 2, 4, 8])],
            "FSQ with 32 bits, wider": [*_FSQ, _network(channels=24, multipliers=[1, 2, 4, 8])],
            "FSQ with 32 bits, wider, 64 levels": [
                *_FSQ, _network(channels=24, multipliers=[1, 2, 4, 8]),
                _bottleneck("FSQ", levels=[64, 16, 8, 8], tokens_per_position=2),
            ],
        },
    ),
    "quantizers": Study(
        "12 bits per 4 x 4 pixels, random start, Muon",
        "quickstart.yaml",
        {
            "GQ 3 x 4": [*_SMALL, _bottleneck("GQ", groups=3, bits=4), _model(weights=_ENTROPIES)],
            "LFQ 1 x 12": [*_SMALL, _bottleneck("GQ", groups=1, bits=12), _model(weights=_ENTROPIES)],
            "BSQ 12": [*_SMALL, _bottleneck("BSQ", bits=12), _model(weights=_ENTROPIES)],
            "FSQ 8, 8, 8, 8": [*_SMALL, _bottleneck("FSQ", levels=[8, 8, 8, 8])],
            "VQ 4096": [*_SMALL, _bottleneck("VQ", dim=8, codebook_size=4096), _model(weights={"commitment": 0.25})],
            "SimVQ 4096": [*_SMALL, _bottleneck("SimVQ", dim=8, codebook_size=4096), _model(weights={"commitment": 0.25})],
        },
    ),
    "tokens": Study(
        "One token or several: 12 bits per 4 x 4 pixels, random start, Muon",
        "quickstart.yaml",
        {
            f"GQ {groups} x {12 // groups}": [
                *_SMALL, _bottleneck("GQ", groups=groups, bits=12 // groups), _model(weights=_ENTROPIES)
            ]
            for groups in (1, 2, 4, 6)
        },
    ),
    "start": Study(
        "FSQ, 64 bits per 8 x 8 pixels: start and optimizer",
        "quickstart.yaml",
        {
            "random, Adam 1e-3": [_RANDOM, _adam(1e-3)],
            "random, Muon 0.01": [_RANDOM, _muon(0.01)],
            "linear, Adam 1e-3": [_LINEAR, _adam(1e-3)],
            "linear, Muon 0.01": [_LINEAR, _muon(0.01)],
            "group norms, random, Muon 0.01": [_NORMS, _RANDOM, _muon(0.01)],
            "group norms, linear, Muon 0.005": [_NORMS, _LINEAR, _muon(0.005, 3e-4)],
        },
    ),
    "curriculum": Study(
        "GQ, 64 bits per 8 x 8 pixels, linear start: how the encoder trains",
        "wetok/quickstart.yaml",
        {
            "code layers frozen": [],
            "encoder trained, straight-through": _TRAINABLE_GQ,
            "encoder trained, clipped": [
                *_TRAINABLE_GQ, _bottleneck("GQ", groups=8, bits=8, gradient="clipped")
            ],
            "comparisons instead of binary numbers, encoder trained, clipped": [
                *_TRAINABLE_GQ, _bottleneck("GQ", groups=8, bits=8, gradient="clipped"),
                _network(multipliers=[1, 2, 4, 8]), _muon(0.001), _model(weights={"commitment": 0.0}),
            ],
            "encoder trained, rotation": [
                *_TRAINABLE_GQ, _bottleneck("GQ", groups=8, bits=8, gradient="rotation")
            ],
            "encoder frozen for 300 steps": [*_TRAINABLE_GQ, _curriculum(frozen_until=dict.fromkeys(_FROZEN[::2], 300))],
            "continuous to quantized in 300 steps": [
                *_TRAINABLE_GQ, _curriculum(schedules={"bottleneck.hardness": [[0, 0.0], [300, 1.0]]})
            ],
            "temperature 1 to 0.01, entropies from 0": [
                *_TRAINABLE_GQ,
                _model(weights=_ENTROPIES),
                _curriculum(
                    schedules={
                        "bottleneck.temperature": [[0, 1.0], [300, 0.01]],
                        "weights.token_entropy": [[0, 0.0], [300, 0.1]],
                        "weights.codebook_entropy": [[0, 0.0], [300, -0.1]],
                    }
                ),
            ],
        },
    ),
    "decoder": Study(
        "32 bits per 16 x 16 pixels: plain and generative decoder, without a GAN loss",
        "quickstart.yaml",
        {
            name: [
                _network(stride=16, channels=16, multipliers=[1, 2, 4, 6, 8], generative=generative),
                _RANDOM, _muon(0.01), _bottleneck("GQ", groups=4, bits=8), _model(weights=_ENTROPIES),
            ]
            for name, generative in (("plain", False), ("generative", True))
        },
    ),
    "joint": Study(
        "OneVAE's quickstart, 0.15 bits per pixel: joint, and discrete alone (discrete branch, held-out clips)",
        "onevae/quickstart.yaml",
        {
            "joint": [],
            "discrete alone": [
                _bottleneck(
                    "Projected", dim=32,
                    quantizer={"class_path": "FSQ", "init_args": {"levels": [32, 16, 8, 4, 4], "tokens_per_position": 2}},
                ),
            ],
        },
    ),
}  # fmt: skip


def build_optimizer(recipe: Recipe, groups: Groups) -> Optimizer:
    """Build the optimizer that a recipe describes."""
    description = recipe["model"]["optimizer"]
    cls = Muon if description["class_path"].endswith("Muon") else Adam
    return cls(groups, **description["init_args"])


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        study: a name in `STUDIES`.
        variant: a name in its variants.
        seed: the seed.
        seconds: time of the training.
    """

    study: str
    variant: str
    seed: int
    seconds: float


@dataclass(frozen=True)
class Data:
    """Sources that replace those of the recipes; None keeps them."""

    train: str | None
    validation: str | None


def merge(study: Study, variant: str, data: Data) -> Recipe:
    """Return the recipe of a variant."""
    recipe = load_recipes(study.base, *map(format_recipe, study.variants[variant]))
    settings = recipe["data"]["init_args"]
    for name, source in asdict(data).items():
        if source is not None and name in settings:
            settings[name] = source
    return recipe


def execute(run: Run, data: Data) -> tuple[list[Point], Tensor | None]:
    """Train, in a process of its own.

    Returns:
        The curve; and the reconstructions of some pictures, (3, H, W) uint8, None for a study of clips.
    """
    torch.set_num_threads(1)
    rows: list[Tensor] = []
    recipe = merge(STUDIES[run.study], run.variant, data)
    settings = recipe["data"]["init_args"]
    pictures = validation_pictures(settings["validation"]) if "validation" in settings else None

    def reconstruct(tokenizer: Tokenizer) -> None:
        generator = torch.Generator().manual_seed(0)
        with torch.inference_mode():
            rows.extend(pixels_to_uint8(tokenizer(x, generator)[0])[0] for x in (pictures or [])[:SHOWN])

    curve = train(
        recipe, lambda groups: build_optimizer(recipe, groups), run.seconds, run.seed,
        points=4, decay=True, validation=pictures, finish=reconstruct,
    )  # fmt: skip
    return curve, torch.cat(rows, dim=1) if rows else None


def validation_pictures(source: str) -> list[Tensor]:
    """Return the pictures of a source as batches of one, (1, 3, 128, 128) in [-1, 1]."""
    pictures = open_source(source)
    transform = EvaluationTransform(128, 128)
    return [to_pixels(transform(pictures[index])[None]) for index in range(len(pictures))]


def print_table(study: str, curves: dict[Run, list[Point]]) -> None:
    """Print a row for each variant of a study."""
    print(f"\n{STUDIES[study].title}\n")
    print("| variant | step 0, dB | steps | PSNR, dB | seeds |\n|---|---|---|---|---|")
    for variant in STUDIES[study].variants:
        same = [curve for run, curve in curves.items() if (run.study, run.variant) == (study, variant)]
        if not same:
            continue
        ends = [curve[-1].psnr for curve in same]
        spread = f" ({min(ends):.2f} to {max(ends):.2f})" if len(ends) > 1 else ""
        begin = statistics.mean(curve[0].psnr for curve in same)
        steps = statistics.mean(curve[-1].step for curve in same)
        mean = statistics.mean(ends)
        print(f"| {variant} | {begin:.2f} | {steps:.0f} | {mean:.2f}{spread} | {len(ends)} |", flush=True)


def print_codecs(data: Data) -> None:
    """Print the PSNR of bicubic resampling, the linear codec, JPEG and WebP at 32 bits per 8 x 8 pixels."""
    settings = merge(STUDIES["published"], "quickstart with 32 bits", data)["data"]["init_args"]
    images = ImageData(**settings | {"workers": 0, "batch_size": 32})
    images.setup("fit")
    loader = iter(images.train_dataloader())
    crops = [to_pixels(next(loader).pixels).unsqueeze(2) for _ in range(16)]
    tokenizer = wetok(GQ(4, 8), stride=8, channels=8, multipliers=[1, 1, 1, 1], blocks=1, groups=None)
    rivals = {
        "bicubic": Bicubic(1),
        "linear codec": fit_linear_codecs(crops, tokenizer, "training crops"),
        "JPEG": JPEG(),
        "WebP": WebP(),
    }
    print("\n| codec at the same bits | PSNR, dB |\n|---|---|")
    samples = [pixels_to_uint8(picture[0]) for picture in validation_pictures(settings["validation"])]
    for name, rival in rivals.items():
        values = []
        for sample in samples:
            bits = 32 * sample.shape[-1] * sample.shape[-2] / 64
            approximations = rival.approximate(sample, bits)
            if 1.0 in approximations:
                values.append(sample_psnr(sample, approximations[1.0].sample))
        print(f"| {name} | {statistics.mean(values):.2f} |", flush=True)


def plot(curves: dict[Run, list[Point]], path: Path) -> None:
    """Draw PSNR against time, one panel per study."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    studies = list(dict.fromkeys(run.study for run in curves))
    figure, axes = plt.subplots(1, len(studies), figsize=(6 * len(studies), 4), squeeze=False)
    for axis, study in zip(axes[0], studies, strict=True):
        for number, variant in enumerate(STUDIES[study].variants):
            same = [curve for run, curve in curves.items() if (run.study, run.variant) == (study, variant)]
            for index, curve in enumerate(same):
                label = variant if index == 0 else None
                axis.plot([p.seconds for p in curve], [p.psnr for p in curve], f"C{number}", label=label)
        axis.set_title(STUDIES[study].title, fontsize=9)
        axis.set_xlabel("seconds of training")
        axis.set_ylabel("PSNR, dB")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def show(study: str, curves: dict[Run, list[Point]], pictures: dict[Run, Tensor], data: Data, path: Path) -> None:
    """Draw the originals and the reconstructions of each variant."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    variants = list(STUDIES[study].variants)
    source = merge(STUDIES[study], variants[0], data)["data"]["init_args"]["validation"]
    originals = [pixels_to_uint8(picture[0]) for picture in validation_pictures(source)[:SHOWN]]
    columns = [("original", torch.cat(originals, dim=1))] + [
        (f"{run.variant}\n{curves[run][-1].psnr:.2f} dB", picture)
        for run, picture in sorted(pictures.items(), key=lambda item: variants.index(item[0].variant))
        if run.study == study and run.seed == 0
    ]
    figure, axes = plt.subplots(1, len(columns), figsize=(2.2 * len(columns), 2.2 * SHOWN + 0.6), squeeze=False)
    for axis, (title, picture) in zip(axes[0], columns, strict=True):
        axis.imshow(picture.permute(1, 2, 0), interpolation="nearest")
        axis.set_title(title, fontsize=7)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run the studies, print the tables and write the files."""
    os.environ["OMP_NUM_THREADS"] = "1"  # also of the processes that train
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", nargs="+", choices=STUDIES, default=["published"])
    parser.add_argument("--variants", nargs="+", help="only these variants")
    parser.add_argument("--minutes", type=float, default=8.0, help="training time of each run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time, with one thread each")
    parser.add_argument("--train", help="training images, instead of those of the recipes")
    parser.add_argument("--validation", help="validation images, instead of those of the recipes")
    parser.add_argument("--out", type=Path, default=Path("runs/learning"), help="output folder (default: %(default)s)")
    options = parser.parse_args()
    data = Data(options.train, options.validation)
    runs = [
        Run(study, variant, seed, 60 * options.minutes)
        for study in options.study
        for seed in range(options.seeds)
        for variant in STUDIES[study].variants
        if options.variants is None or variant in options.variants
    ]
    curves: dict[Run, list[Point]] = {}
    pictures: dict[Run, Tensor] = {}
    begin = time.monotonic()
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        futures = {pool.submit(execute, run, data): run for run in runs}
        for future in as_completed(futures):
            run = futures[future]
            curves[run], picture = future.result()
            if picture is not None:
                pictures[run] = picture
            left = (time.monotonic() - begin) * (len(runs) - len(curves)) / len(curves)
            print(
                f"{run.study}, {run.variant}, seed {run.seed}: {curves[run][-1].psnr:.2f} dB after {curves[run][-1].step} "
                f"steps; about {left / 60:.1f} minutes left",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    print(f"{60 * options.minutes:.0f} seconds of training per run, one thread, torch {torch.__version__}")
    for study in options.study:
        print_table(study, curves)
    if "published" in options.study:
        print_codecs(data)
    options.out.mkdir(parents=True, exist_ok=True)
    content = [asdict(run) | {"curve": [asdict(point) for point in curve]} for run, curve in curves.items()]
    (options.out / "results.json").write_text(json.dumps(content, indent=1))
    if find_spec("matplotlib") is not None:
        plot(curves, options.out / "curves.png")
        for study in {run.study for run in pictures}:
            show(study, curves, pictures, data, options.out / f"pictures_{study}.png")


if __name__ == "__main__":
    main()
