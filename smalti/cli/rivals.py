"""Options that select the rivals of `smalti evaluate`, and building the rivals. Finding and fitting the linear codec."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import check_channels
from smalti.cli.parser import whole_number
from smalti.cli.run_folder import find_run
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from torch import nn

    from smalti.data import Source
    from smalti.eval.protocols import Protocol
    from smalti.eval.rivals import Rival
    from smalti.tokenizers.tokenizer import Tokenizer

_DEFAULT_SAMPLES = {"images": 16, "clips": 4}
"""Default of --rival-samples. Codecs take seconds per sample, and more for clips."""

_MAX_FITTED_PIXELS = 2**24
"""Maximum number of pixels on which a linear codec is fitted, to bound time and memory: 256 images of 256 x 256."""

_UNKNOWN_SIDE, _UNKNOWN_FRAMES = 512, 16
"""Assumed size of samples whose protocol does not state it, for the number of samples to read."""


def add_rival_options(parser: argparse.ArgumentParser) -> None:
    """Add `--rivals`, `--rival-samples` and `--linear-codec`."""
    group = parser.add_argument_group("rivals")
    group.add_argument(
        "--rivals",
        default="all",
        metavar="NAME,...",
        help="what the tokenizer competes with at equal bits: linear_codec, bicubic, for images jpeg, webp and avif, for "
        "videos h264 and hevc; all or none (default: %(default)s)",
    )
    group.add_argument(
        "--rival-samples",
        type=whole_number(1),
        metavar="N",
        help="number of samples on which rivals are measured, selected by the hashes of their names (default: "
        f"{_DEFAULT_SAMPLES['images']} images or {_DEFAULT_SAMPLES['clips']} clips, because codecs are slow)",
    )
    group.add_argument(
        "--linear-codec",
        metavar="PATH",
        help="linear_codec.safetensors of a run, or training data to fit a linear codec on: a SOURCE as for --data, of "
        f"which at most {_MAX_FITTED_PIXELS // 2**20} million pixels are used (default: the file of the tokenizer's run or "
        "folder)",
    )


def select_rival_samples(options: argparse.Namespace, protocol: Protocol) -> int:
    """Return the number of samples on which rivals are measured."""
    return options.rival_samples or _DEFAULT_SAMPLES["clips" if protocol.clips else "images"]


def open_rivals(
    options: argparse.Namespace, tokenizer: Tokenizer, source: Source, transform: nn.Module, protocol: Protocol
) -> list[Rival]:
    """Build the selected rivals. With several processes, all must call this.

    Args:
        options: the parsed options, with those of `add_rival_options`.
        tokenizer: the tokenizer that they compete with.
        source: the data of the evaluation.
        transform: prepares samples according to the protocol.
        protocol: the protocol.

    Raises:
        SmaltiError: a rival does not exist or does not take this kind of samples, or the linear codec cannot be loaded or
            fitted.
    """
    from smalti.eval.rivals import build_rivals, select_rivals
    from smalti.eval.rivals.linear import LinearRival

    names = select_rivals(options.rivals, "clips" if protocol.clips else "images")
    linear = None
    if LinearRival.name in names:
        linear = _open_linear_codec(options, tokenizer, source, transform, protocol)
    frame_stride = tokenizer.encoder.stride[0] if protocol.clips else 1
    return build_rivals(names, frame_stride=frame_stride, linear_codec=linear)


def find_linear_codec(tokenizer: Path) -> Path | None:
    """Return the linear codec in an exported folder or in the folder of a checkpoint's run; None if there is none."""
    from smalti.eval.linear_codec import CODEC_FILE

    folder = tokenizer if tokenizer.is_dir() else find_run(tokenizer)
    return folder / CODEC_FILE if folder is not None and (folder / CODEC_FILE).is_file() else None


def _open_linear_codec(
    options: argparse.Namespace, tokenizer: Tokenizer, source: Source, transform: nn.Module, protocol: Protocol
) -> Rival | None:
    """Return the linear codec of `--linear-codec` or of the tokenizer's folder; None if there is none."""
    from smalti.eval.rivals import MissingRival, load_linear_codec
    from smalti.eval.rivals.linear import LinearRival

    spec: str | None = options.linear_codec
    if spec is not None and Path(spec).suffix == ".safetensors":
        return load_linear_codec(Path(spec), tokenizer, clips=protocol.clips)
    if spec is not None:
        return _fit(spec, options, tokenizer, source, transform, protocol)
    file = find_linear_codec(options.tokenizer)
    if file is None:
        return None
    try:
        return load_linear_codec(file, tokenizer, clips=protocol.clips)
    except SmaltiError as error:  # nobody asked for this file: it must not stop the evaluation
        return MissingRival(LinearRival.name, str(error).rstrip("."))


def _fit(
    spec: str,
    options: argparse.Namespace,
    tokenizer: Tokenizer,
    evaluated: Source,
    transform: nn.Module,
    protocol: Protocol,
) -> Rival:
    """Fit linear codecs on samples that are spread evenly over a source.

    Raises:
        SmaltiError: the source cannot be read, is of the other kind, or contains data of the evaluation.
    """
    from smalti.data import IndexedSource, evaluation_loader, open_source
    from smalti.data.overlap import describe_overlap
    from smalti.eval.rivals import fit_linear_codecs

    source = open_source(spec, any_channels=True)
    check_channels(tokenizer, source)
    if source.videos != protocol.clips:
        expected = "videos" if protocol.clips else "images"
        raise SmaltiError(f"--linear-codec is {spec}, which contains no {expected}: give training data like --data.")
    overlap = describe_overlap(source, evaluated)
    if overlap is not None:
        raise SmaltiError(
            f"--linear-codec is {spec}, but a codec fitted on the data of the evaluation is no fair rival ({overlap}): "
            "give training data."
        )
    limit = max(1, _MAX_FITTED_PIXELS // _pixels_per_sample(protocol))
    # As one of `step` processes, the loader reads every step-th file. All ranks read the same samples.
    step = -(-len(source) // limit) if isinstance(source, IndexedSource) else 1
    batch_size = options.batch_size if protocol.crop else 1
    loader = evaluation_loader(source, transform, batch_size, options.workers, 0, step, options.max_bad)
    batches, count = [], 0
    for batch in loader:
        batches.append(batch.pixels[: limit - count])
        count += len(batches[-1])
        if count >= limit:
            break
    return fit_linear_codecs(batches, tokenizer, f"{count} samples of {spec}")


def _pixels_per_sample(protocol: Protocol) -> int:
    side = protocol.crop or protocol.resize or _UNKNOWN_SIDE
    return side * side * ((protocol.frames or _UNKNOWN_FRAMES) if protocol.clips else 1)
