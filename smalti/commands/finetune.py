"""`smalti finetune`: train an existing tokenizer on images or videos, export it, and compare it with the original."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smalti.cli.held_out import split_folder
from smalti.cli.options import TOKENIZER_HELP, check_tokenizer
from smalti.cli.parser import CommandParser, whole_number
from smalti.errors import SmaltiError
from smalti.files import check_writable

if TYPE_CHECKING:
    from smalti.tokenizers.tokenizer import Tokenizer

_EXAMPLES = (
    "smalti finetune diffusers:stabilityai/sd-vae-ft-mse --data my/photos --out finetuned",
    "smalti finetune diffusers:path/to/wan --data my/videos --frames 17 --out finetuned -- --trainer.max_steps 300",
    "smalti finetune diffusers:path/to/vae --data my/bands --out satellite -- --model.weights.l1_nir 1.0",
)
_NOTES = (
    "Options after -- are those of `smalti fit`, such as --trainer.max_steps 300, --data.batch_size 1, "
    "--model.gradient_checkpointing true or --model.optimizer AdamW8bit. The memory of a step is "
    "estimated and printed before the first step. Without --validation, a tenth of the files of --data is held out. In a "
    "folder of satellite bands, depth or 16-bit images, channels.yaml names the channels: see docs/finetune.md."
)
_RECIPES = {
    "all": "finetune/all.yaml",
    "decoder": "finetune/decoder.yaml",
    "last-block": "finetune/decoder.yaml",
    "lora": "finetune/lora.yaml",
}
_PROTOCOL, _RATE = "imagenet256", 24


def run(name: str, arguments: list[str]) -> int:
    """Fine-tune, export the result, and write a page that compares it with the source on held-out data.

    Raises:
        SmaltiError: an option is invalid, the source cannot be loaded, the output folder is not empty, or a step fails, see
            `smalti fit`, `smalti export` and `smalti evaluate`.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SmaltiError(
            "`smalti finetune` starts one process per GPU by itself: run it without torchrun, or train with `smalti fit`."
        )
    options, others = _parse(name, arguments)
    source = check_tokenizer(options.source)
    if options.out.exists() and any(options.out.iterdir() if options.out.is_dir() else [options.out]):
        raise SmaltiError(f"{options.out} already exists: choose another --out.")
    check_writable(options.out)
    channels = _read_channels(options)
    train, validation = _split(options)
    recipe = _recipe(options, source, train, validation)
    if channels is not None:
        recipe["model"]["tokenizer"]["init_args"]["channels"] = channels

    from smalti.commands import compare, evaluate, export, fit
    from smalti.distributed import disconnect

    default = _RECIPES[options.train] if channels is None else "finetune/channels.yaml"
    recipes = [word for c in options.config or [default] for word in ("-c", c)]
    precision = (
        [] if any(word.startswith("--trainer.precision") for word in others) else ["--trainer.precision", "auto"]
    )
    fit.run("fit", [*recipes, "-c", json.dumps(recipe), *precision, *others])
    disconnect()  # the other processes of the training have ended
    checkpoint = _newest_checkpoint(options.out / "runs")
    tokenizer = options.out / "tokenizer"
    export.run("export", [str(checkpoint), "--out", str(tokenizer)])
    before = source if channels is None else _write_start(source, channels, options.out / "start")
    reports = {"before": str(before), "after": str(tokenizer)}
    rate = "" if channels else f"@{_RATE}"  # clips with other channels have no frame rate
    protocol = options.protocol or (f"clip{options.frames}x128{rate}" if options.frames else _PROTOCOL)
    for report, path in reports.items():
        common = ["--data", str(validation), "--protocol", protocol, "--workers", "0", "--rivals", "none"]
        evaluate.run("evaluate", ["--tokenizer", path, *common, "--out", str(options.out / report)])
    page = options.out / "comparison.html"
    compare.run("compare", [*(str(options.out / report) for report in reports), "--out", str(page)])
    _export_to_diffusers(source, tokenizer, options.out / "diffusers")
    return 0


def _parse(name: str, arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of this command, and those of `smalti fit` after "--"."""
    own, others = arguments, []
    if "--" in arguments:
        cut = arguments.index("--")
        own, others = arguments[:cut], arguments[cut + 1 :]
    parser = CommandParser(
        name,
        "Train an existing tokenizer on your images or videos, with defaults for few files. Writes the tokenizer, its "
        "reports before and after on held-out files, and a page that compares them.",
        _EXAMPLES,
        _NOTES,
    )
    parser.add_argument("source", type=Path, help=TOKENIZER_HELP)
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", required=True, metavar="SOURCE", help="folder of images or videos, or another data source"
    )
    data.add_argument("--validation", metavar="SOURCE", help="held-out data (default: a tenth of the files of --data)")
    data.add_argument("--frames", type=whole_number(1), help="train on clips of this many frames (default: on images)")
    data.add_argument("--protocol", metavar="NAME", help="protocol of the comparison, see `smalti evaluate`")
    training = parser.add_argument_group("training")
    training.add_argument(
        "--train",
        choices=tuple(_RECIPES),
        help="what is trained: all (the latents change), the decoder, its last block, or low-rank adapters of the decoder "
        "(default: decoder; all for other channels)",
    )
    training.add_argument(
        "-c",
        "--config",
        action="append",
        metavar="PATH",
        help="recipe in place of that of --train, such as finetune/gan.yaml",
    )
    output = parser.add_argument_group("output")
    output.add_argument("--out", "-o", type=Path, required=True, metavar="PATH", help="folder to write to")
    return parser.parse(own), others


def _read_channels(options: argparse.Namespace) -> dict[str, int] | None:
    """Return the channels of the data if they are described, and set the default of --train.

    Raises:
        SmaltiError: the description is invalid, or --train leaves out the layers of new channels.
    """
    from smalti.data.band_files import CHANNELS_FILE, is_band_folder, read_channels_file

    folder = Path(options.data).expanduser()
    if not is_band_folder(folder):
        options.train = options.train or "decoder"
        return None
    channels, _, clips = read_channels_file(folder)
    if clips != (options.frames is not None):
        advice = "pass --frames" if clips else "leave out --frames, or add `clips: true` to it"
        raise SmaltiError(f"{folder / CHANNELS_FILE} describes {'clips' if clips else 'images'}: {advice}.")
    if options.train not in (None, "all"):
        raise SmaltiError(
            f"--train {options.train} does not train the layer that reads the channels of {options.data}: use --train all."
        )
    options.train = "all"
    return channels


def _write_start(source: Path, channels: dict[str, int], out: Path) -> Path:
    """Export the tokenizer as it is before the first step, with other channels, and return its folder."""
    from smalti.tokenizers.channels import with_channels
    from smalti.tokenizers.checkpoints import load, save

    save(with_channels(load(source), channels), out, provenance={"source": str(source)})
    return out


def _split(options: argparse.Namespace) -> tuple[str, str]:
    """Return the training data and the held-out data."""
    if options.validation is not None:
        return options.data, options.validation
    if not Path(options.data).is_dir():
        raise SmaltiError(f"--data is {options.data}, which is not a folder that can be split: pass --validation.")
    train, validation = split_folder(Path(options.data), options.out / "data", videos=options.frames is not None)
    return str(train), str(validation)


def _recipe(options: argparse.Namespace, source: Path, train: str, validation: str) -> dict[str, Any]:
    """Return the part of the recipe that follows from the options."""
    kind = "images" if options.frames is None else "clips"
    arguments: dict[str, Any] = {"train": train, "validation": validation}
    data: dict[str, Any] = {"init_args": arguments}
    if kind == "clips":
        arguments |= {"frames": options.frames, "size": 128, "batch_size": 1, "workers": 2, "repeats": 64}
        data["class_path"] = "VideoData"
    recipe: dict[str, Any] = {
        "model": {"tokenizer": {"init_args": {"source": str(source)}}},
        "data": data,
        "trainer": {
            "logger": {
                "class_path": "TensorBoardLogger",
                "init_args": {"save_dir": str(options.out / "runs"), "name": ""},
            }
        },
    }
    if options.train == "last-block" and not options.config:
        from smalti.tokenizers.checkpoints import load

        recipe["model"]["frozen"] = frozen_before_last_block(load(source))
    return recipe


def frozen_before_last_block(tokenizer: Tokenizer) -> list[str]:
    """Return the modules to freeze so that only the last block of the decoder is trained.

    Raises:
        SmaltiError: the decoder does not say which its last block is.
    """
    decoder = tokenizer.decoder
    trained = getattr(decoder, "last_block", None)
    if trained is None:
        raise SmaltiError(
            f"{type(decoder).__name__} does not define its last block: name the modules to freeze with model.frozen, or "
            "use --train decoder."
        )
    frozen = ["encoder", "bottleneck"]
    for name, child in decoder.named_children():
        if name != "network":
            frozen.append(f"decoder.{name}")
            continue
        for inner, module in child.named_children():
            if inner in trained:
                continue
            partly = [n for n, _ in module.named_children() if f"{inner}.{n}" in trained]
            rest = [n for n, _ in module.named_children() if n not in partly]
            frozen += [f"decoder.network.{inner}.{n}" for n in rest] if partly else [f"decoder.network.{inner}"]
    return frozen


def _newest_checkpoint(runs: Path) -> Path:
    """Return the last checkpoint of the newest run."""
    checkpoints = sorted(runs.glob("version_*/checkpoints/last.ckpt"), key=lambda file: file.stat().st_mtime)
    if not checkpoints:
        raise SmaltiError(f"The run in {runs} has saved no checkpoint: train at least one step.")
    return checkpoints[-1]


def _export_to_diffusers(source: Path, tokenizer: Path, out: Path) -> None:
    """Write the folder for diffusers, if the source came from there and its class still fits."""
    if not str(source).startswith("diffusers:"):
        return
    from smalti.commands import export

    try:
        export.run("export", [str(tokenizer), "--format", "diffusers", "--out", str(out)])
    except SmaltiError as error:  # a tokenizer that became discrete: the other files are complete
        print(f"Not written for diffusers: {error}")
