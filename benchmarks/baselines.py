"""Size, time, memory and quality of the published autoencoders that Smalti runs, as a table.

    python benchmarks/baselines.py --counts                              # parameters and operations only, a minute
    python benchmarks/baselines.py --update docs/baselines.md            # the table of the documentation, 15 minutes
    python benchmarks/baselines.py --only FLUX.1 --weights "SD 3.5, FLUX.1=diffusers:my/vae" --images my/photos

Each autoencoder is built on the meta device first, where weights take no memory: its parameters and its operations (two per
multiplication and addition) are counted there. Then it is built with random weights in a process of its own, and encodes
and decodes one image, or one clip if it is made for videos, once, in float32. Time is CPU time on a CPU, and wall time on
CUDA. Memory is the peak of a call on top of the weights, in another process. A step that reaches `--cap` is stopped. A step
of the same autoencoder with more operations than a stopped one is not run, nor is one with more than `--most-tflop`. With
`--rows`, an interrupted run continues.

`--weights NAME=PATH` gives weights to an entry, or adds a row under a new name: whatever `smalti.load` accepts. Only rows
with weights have PSNR, SSIM and LPIPS (or its proxy, under its own name), on `--images` or `--videos`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

import smalti
from measurement import peak_memory, run_in_subprocess
from published_autoencoders import AUTOENCODERS, Medium, PublishedAutoencoder
from smalti.channel_groups import RGB, describe_groups
from smalti.data import evaluation_loader
from smalti.data.clip_transforms import VideoEvaluationTransform
from smalti.data.image_transforms import EvaluationTransform
from smalti.data.source_spec import open_source
from smalti.errors import SmaltiError
from smalti.eval.evaluate import evaluate
from smalti.eval.feature_networks.selection import perceptual_network
from smalti.eval.metrics import PSNR, SSIM, PerceptualDistance
from smalti.eval.nominal_bits import bits_per_position
from smalti.tokenizers.tokenizer import Tokenizer
from smalti.types import Latents

GIB = 2**30
BEGIN, END = "<!-- table: benchmarks/baselines.py -->", "<!-- end of the table -->"
HEADER = (
    "autoencoder", "class or recipe", "stride", "per position", "bits per pixel", "parameters: encoder, all",
    "TFLOP: encode, decode", "encode, s", "MiB", "decode, s", "MiB", "weights", "PSNR, dB", "SSIM", "LPIPS or proxy",
)  # fmt: skip


class CapReachedError(Exception):
    """A step was stopped because it took too long."""


def sample_shape(medium: Medium, size: int, frames: int) -> tuple[int, ...]:
    """Return the shape of the image (1, 3, size, size) or of the clip (1, 3, frames, size, size)."""
    return (1, 3, size, size) if medium == "image" else (1, 3, frames, size, size)


def medium_of(tokenizer: Tokenizer) -> Medium:
    """Return what a tokenizer is made for."""
    return "video" if tokenizer.encoder.stride[0] > 1 else "image"


def count(tokenizer: Tokenizer, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return parameters, strides, bits, and the operations of encoder and decoder.

    Args:
        tokenizer: on the meta device.
        shape: see `sample_shape`.
    """
    t, h, w = tokenizer.encoder.stride
    branches = [branch for _, branch in sorted(tokenizer.branches.items())] or [tokenizer]
    parameters = [sum(p.numel() for p in module.parameters()) for module in (tokenizer.encoder, tokenizer)]
    with torch.no_grad(), torch.device("meta"):
        x = torch.empty(shape if len(shape) == 5 else (*shape[:2], 1, *shape[2:]))
        with FlopCounterMode(display=False) as encoding:
            grids = tokenizer.encoder(x)
        z = tuple(torch.empty(1, tokenizer.decoder.in_dim, *grid.shape[2:]) for grid in grids)
        with FlopCounterMode(display=False) as decoding:
            tokenizer.decoder(z)
    return {
        "stride": f"{t}x{h}x{w}",
        "code": " or ".join(map(describe_code, branches)),
        "bits": " or ".join(f"{bits_per_position(branch) / (t * h * w):.3g}" for branch in branches),
        "parameters": parameters,
        "flop": [encoding.get_total_flops(), decoding.get_total_flops()],
    }


def describe_code(tokenizer: Tokenizer) -> str:
    """Return what a latent position holds: channels, or bits."""
    if not tokenizer.discrete:
        return f"{tokenizer.bottleneck.out_dim} channels"
    quantizer = tokenizer.quantizer
    return f"{quantizer.tokens_per_position} x {quantizer.bits_per_position / quantizer.tokens_per_position:.4g} bits"


def measure_step(call: Callable[[], object], request: dict[str, Any]) -> float | str:
    """Return the seconds or the MiB of a call (`quantity` of the request), or why there are none."""
    device, cap = request["device"], request["cap"]
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds: list[float] = []

    def timed() -> None:
        start = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(clock() - start)

    def stop(number: int, frame: object) -> None:
        raise CapReachedError

    timer = signal.ITIMER_PROF if device == "cpu" else signal.ITIMER_REAL
    signal.signal(signal.SIGPROF if device == "cpu" else signal.SIGALRM, stop)
    signal.setitimer(timer, cap)
    try:
        memory = peak_memory(timed, device)
    except CapReachedError:
        return f"> {cap:g}"
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return f"over {request['memory']:g} GiB"
    finally:
        signal.setitimer(timer, 0)
    return seconds[0] if request["quantity"] == "seconds" else memory


def measure(request: dict[str, Any]) -> None:
    """Measure one autoencoder in this process. Prints what is known so far as JSON after each stage.

    Args:
        request: `name`, `path` (or None), `quantity` ("seconds" or "mib"), and the options of the command line.
    """
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    torch.set_num_threads(request["threads"])
    entry = next((entry for entry in AUTOENCODERS if entry.name == request["name"]), None)
    tokenizer = open_weights(request["path"], entry) if request["path"] else None
    abstract = entry.build_without_memory() if entry else open_weights(request["path"], None).to("meta")
    medium = entry.medium if entry else medium_of(abstract)
    shape = sample_shape(medium, request["size"], request["frames"])
    row = {"origin": entry.origin if entry else request["path"], "medium": medium, **count(abstract, shape)}
    print(json.dumps(row), flush=True)
    if request["counts"]:
        return
    row |= dict.fromkeys(("encode", "decode"), "not run")
    if min(row["flop"]) > request["most_tflop"] * 1e12:
        print(json.dumps(row), flush=True)
        return
    if request["device"] == "cpu":
        resource.setrlimit(resource.RLIMIT_DATA, (int(request["memory"] * GIB),) * 2)
    try:
        tokenizer = (entry.build() if tokenizer is None and entry else tokenizer).to(request["device"]).eval()
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error):
            raise
        print(json.dumps({**row, "encode": f"over {request['memory']:g} GiB"}), flush=True)
        return
    tokenizer = tokenizer.as_discrete() if tokenizer.discrete else tokenizer
    x = (torch.rand(shape) * 2 - 1).to(request["device"])
    layout = tokenizer.layout((shape[-2], shape[-1]), shape[2] if len(shape) == 5 else None)
    z = tuple(torch.randn(1, tokenizer.bottleneck.out_dim, *grid, device=x.device) for grid in layout.grids)
    latents = Latents.from_grids(z, layout.size, layout.frames)
    calls = {"encode": lambda: tokenizer.encode(x), "decode": lambda: tokenizer.decode(latents)}
    flop = dict(zip(calls, row["flop"], strict=True))
    for name in sorted(calls, key=flop.__getitem__):
        if flop[name] <= request["most_tflop"] * 1e12:
            row[name] = measure_step(calls[name], request)
        print(json.dumps(row), flush=True)
        if isinstance(row[name], str):
            break
    if request["path"] and request["quantity"] == "seconds":
        row["quality"] = measure_quality(tokenizer, medium, request)
        print(json.dumps(row), flush=True)


def open_weights(path: str, entry: PublishedAutoencoder | None) -> Tokenizer:
    """Load the tokenizer of a row.

    Raises:
        SmaltiError: it is not the published autoencoder whose row it would fill, or has other channels than RGB.
    """
    tokenizer = smalti.load(path)
    if tokenizer.channels != RGB:
        raise SmaltiError(
            f"{path} has the channels {describe_groups(tokenizer.channels)}, but the rows are for red, green and blue: "
            "measure it with `smalti evaluate`."
        )
    if entry is not None:
        counts = [sum(p.numel() for p in t.parameters()) for t in (tokenizer, entry.build_without_memory())]
        if counts[0] != counts[1]:
            raise SmaltiError(
                f"{path} has {counts[0]:,} parameters, but {entry.name} has {counts[1]:,}: give its weights, or a name of "
                "their own to add a row."
            )
    return tokenizer


def measure_quality(tokenizer: Tokenizer, medium: Medium, request: dict[str, Any]) -> dict[str, Any]:
    """Return PSNR, SSIM and LPIPS or its proxy on the given images or videos, and their number."""
    size, videos = request["size"], medium == "video"
    source = open_source(request["videos" if videos else "images"], videos)
    transform = (
        VideoEvaluationTransform(request["frames"], None, 1, size, size) if videos else EvaluationTransform(size, size)
    )
    perceptual = PerceptualDistance(perceptual_network())
    metrics = [PSNR(), SSIM(), perceptual]
    result = evaluate(
        tokenizer, evaluation_loader(source, transform), metrics, device=request["device"], num_examples=0
    )
    values = {name: metric.value for name, metric in result.metrics.items()}
    return {
        "psnr": values["psnr"],
        "ssim": values["ssim"],
        "perceptual": values[perceptual.name],
        "network": perceptual.name,
    }


def format_row(name: str, row: dict[str, Any], *, weights: bool) -> str:
    """Return a row of the table."""
    cells = [name, f"`{row['origin']}`", row["stride"], row["code"], row["bits"]]
    cells.append(", ".join(f"{number / 1e6:.1f} M" for number in row["parameters"]))
    cells.append(", ".join(f"{number / 1e12:.3g}" for number in row["flop"]))
    for step in ("encode", "decode"):
        result = row.get(step, row.get("failure", ""))
        if isinstance(result, str):
            cells += [result, ""]
        else:
            mib = result["mib"]
            cells += [f"{result['seconds']:.2f}", mib if isinstance(mib, str) else f"{mib:.0f}"]
    cells.append("given" if weights else "random")
    quality = row.get("quality")
    cells += (
        [f"{quality['psnr']:.2f}", f"{quality['ssim']:.3f}", f"{quality['perceptual']:.3f} ({quality['network']})"]
        if quality
        else [""] * 3
    )
    return f"| {' | '.join(cells)} |"


def measure_both(request: dict[str, Any]) -> dict[str, Any]:
    """Return a row with the seconds and the MiB of both steps, each measured in a process of its own."""
    row = run_in_subprocess(__file__, request | {"quantity": "seconds"}, partial=True, trim=False)
    measured = [step for step in ("encode", "decode") if isinstance(row.get(step), float)]
    memory = run_in_subprocess(__file__, request | {"quantity": "mib"}, partial=True) if measured else {}
    return row | {step: {"seconds": row[step], "mib": memory.get(step, "")} for step in measured}


def make_table(requests: list[dict[str, Any]], file: Path | None) -> str:
    """Measure every autoencoder in a process of its own, and return a Markdown table for images and one for videos.

    Args:
        requests: see `make_requests`.
        file: file with a row as JSON per line; rows that it has are not measured again, and new ones are added.
    """
    known: dict[str, dict[str, Any]] = {}
    if file is not None and file.is_file():
        known = {row["name"]: row for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}
    rows: dict[str, list[str]] = {"image": [], "video": []}
    for request in requests:
        row = known.get(request["name"])
        if row is None:
            row = {"name": request["name"], **measure_both(request)}
            if file is not None:
                with file.open("a", encoding="utf-8") as stream:
                    print(json.dumps(row), file=stream)
        rows[row["medium"]].append(format_row(request["name"], row, weights=request["path"] is not None))
        print(rows[row["medium"]][-1], flush=True)
    size, frames = requests[0]["size"], requests[0]["frames"]
    samples = {"image": f"One image of {size} x {size}", "video": f"One clip of {frames} x {size} x {size}"}
    head = f"| {' | '.join(HEADER)} |\n{'|---' * len(HEADER)}|"
    return "\n\n".join("\n".join([f"{samples[m]}:", "", head, *lines]) for m, lines in rows.items() if lines)


def update_page(path: Path, table: str) -> None:
    """Replace the table between the two marks of a page.

    Raises:
        SmaltiError: the page has no such marks.
    """
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SmaltiError(f"{path} has no place for the table: add the lines '{BEGIN}' and '{END}'.")
    before, _, rest = text.partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def parse() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="TEXT", help="only names with this text; may be repeated")
    parser.add_argument(
        "--counts", action="store_true", help="only parameters and operations, without running anything"
    )
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=PATH", help="weights; may be repeated")
    parser.add_argument("--images", default="photos:validation", help="images for PSNR (default: %(default)s)")
    parser.add_argument("--videos", default="clips:validation", help="videos for PSNR (default: %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="height and width (default: %(default)s)")
    parser.add_argument("--frames", type=int, default=17, help="frames of a clip (default: %(default)s)")
    parser.add_argument("--cap", type=float, default=60, help="most seconds of a step (default: %(default)s)")
    parser.add_argument("--most-tflop", type=float, default=1e9, metavar="N", help="most operations (default: any)")
    parser.add_argument("--rows", type=Path, metavar="FILE", help="file that keeps the rows, to continue a run")
    parser.add_argument(
        "--memory", type=float, default=14, help="most GiB of a process on a CPU (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--update", type=Path, metavar="PAGE", help="page whose table to replace")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    return parser.parse_args()


def make_requests(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a request for `measure` per row.

    Raises:
        SmaltiError: an option of `--weights` has no name, or no name contains a text of `--only`.
    """
    weights = dict[str, str]()
    for text in options.weights:
        name, separator, path = text.partition("=")
        if not (name and separator and path):
            raise SmaltiError(f"--weights is {text!r}: give NAME=PATH, such as 'FLUX.2=diffusers:my/vae'.")
        weights[name] = path
    names = dict.fromkeys([*(entry.name for entry in AUTOENCODERS), *weights])
    selected = [n for n in names if not options.only or any(text in n for text in options.only)]
    if not selected:
        raise SmaltiError(f"No name contains {' or '.join(options.only)}: the names are {'; '.join(names)}.")
    own = ("only", "weights", "rows", "update", "measure")
    shared = {name: value for name, value in vars(options).items() if name not in own}
    return [{"name": name, "path": weights.get(name), **shared} for name in selected]


def main() -> None:
    """Measure, print a Markdown table, and write it to a page."""
    options = parse()
    if options.measure:
        measure(options.measure)
        return
    table = make_table(make_requests(options), options.rows)
    machine = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"{platform.machine()}, {os.cpu_count()} cores"
    )
    threads = "1 thread" if options.threads == 1 else f"{options.threads} threads"
    note = f"torch {torch.__version__.partition('+')[0]}, {machine}, {threads}, float32."
    print(f"\n{table}\n\n{note}")
    if options.update:
        update_page(options.update, f"{table}\n\n{note}")


if __name__ == "__main__":
    try:
        main()
    except SmaltiError as error:
        sys.exit(f"Error: {error}")
