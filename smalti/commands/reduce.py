"""`smalti reduce`: write the latents of images and videos in fewer tokens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from smalti.cli.options import (
    MEDIA_INPUT_HELP,
    add_file_options,
    add_tokenizer_options,
    add_video_options,
    check_tokenizer,
    open_device,
    open_tokenizer,
)
from smalti.cli.outputs import plan_outputs, process_files
from smalti.cli.parser import CommandParser
from smalti.cli.reducer_options import REDUCER_HELP, add_reducer_options
from smalti.errors import SmaltiError

if TYPE_CHECKING:
    from smalti.cli.progress import ProgressDisplay
    from smalti.reducers import Reducer
    from smalti.tokenizers.tokenizer import Tokenizer

_EXAMPLES = (
    "smalti reduce photo.jpg --out photo.safetensors --tokenizer my-tokenizer --reduce topk:keep=0.25",
    "smalti reduce my/photos --out reduced --tokenizer my-tokenizer --reduce vqtoken:clusters=16",
)
_NOTES = (
    "Each file has the tokens of the reducer, their number, and the token that represents each latent position. The frames "
    "of a video are reduced one latent time step at a time. A tokenizer that was trained with a reducer uses its own."
)


def run(name: str, arguments: list[str]) -> int:
    """Write the reduced latents of each file.

    Raises:
        SmaltiError: an option is invalid, the reducer does not fit the latents, or a file cannot be read or written.
    """
    parser = CommandParser(
        name,
        "Encode an image or a video, or every image and video in a folder, reduce the latents to fewer tokens, and write "
        "these.",
        _EXAMPLES,
        _NOTES,
    )
    add_file_options(
        parser, MEDIA_INPUT_HELP, "file (.safetensors) to write; for an input folder, the folder to write to"
    )
    add_tokenizer_options(parser, branch=True)
    add_reducer_options(parser, f"{REDUCER_HELP} (default: the reducer of the tokenizer)")
    add_video_options(parser)
    options = parser.parse(arguments)
    tokenizer_file = check_tokenizer(options.tokenizer)

    import torch

    from smalti.cli.media_streams import TOKENS, TimeRange, encode_file, find_media, media_kind, with_progress
    from smalti.eval.latent_saliency import latent_saliency
    from smalti.export.reduced_files import ReducedFile, save_reduced
    from smalti.export.token_files import portable_path
    from smalti.images import load_image
    from smalti.reducers import reduce_latents
    from smalti.tokenizers.checkpoints import fingerprint
    from smalti.tokenizers.configurable import get_config
    from smalti.types import Latents

    part = TimeRange(options.start, options.stop)
    files = find_media(options.input)
    pairs = plan_outputs(options.input, files, options.out, lambda _: TOKENS, overwrite=options.overwrite)
    device = open_device(options.device)
    tokenizer = open_tokenizer(tokenizer_file, device, options.branch, options.tile)
    reducer = _open_reducer(options.reduce, tokenizer).to(device)
    tokenizer_fingerprint = fingerprint(tokenizer_file)
    needs_saliency = "saliency" in reducer.needs

    @torch.inference_mode()
    def reduce(file: Path, result: Path, progress: ProgressDisplay) -> str:
        stream = encode_file(tokenizer, file, options.rate, part)
        latents = Latents.join_time(with_progress(stream, file.name, progress))
        saliency = None
        if needs_saliency:
            if stream.rate is not None and options.saliency == "error":
                raise SmaltiError("--saliency error is for images: choose contrast, norm or surprise for videos.")
            pixels = load_image(file).to(latents.z) if media_kind(file).suffix == ".png" else latents.z
            saliency = latent_saliency(options.saliency, tokenizer, latents, pixels)
        reduced = reduce_latents(reducer, latents, saliency)
        recorded = portable_path(tokenizer_file, result.parent)
        content = ReducedFile(
            reduced, latents.layout(), get_config(reducer), recorded, tokenizer_fingerprint, stream.rate
        )
        save_reduced(result, content)
        tokens = sum(int(part.lengths.sum()) for part in reduced)
        return f"{tokens} tokens of {reduced[0].tokens.shape[2]} channels for {latents.positions} positions"

    process_files(pairs, "Reducing", reduce, options.out)
    return 0


def _open_reducer(text: str | None, tokenizer: Tokenizer) -> Reducer:
    """Return the reducer of an option, or that of the tokenizer.

    Raises:
        SmaltiError: there is neither, or the option is invalid.
    """
    from smalti.reducers import ReducedDecoder, parse_reducer

    if text is not None:
        return parse_reducer(text)
    if not isinstance(tokenizer.decoder, ReducedDecoder):
        raise SmaltiError(
            "This tokenizer was not trained with a reducer: pass --reduce NAME, such as --reduce topk:keep=0.25."
        )
    return tokenizer.decoder.reducer
