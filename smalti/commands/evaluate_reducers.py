"""`smalti evaluate-reducers`: measure what reducers lose, against the number of tokens."""

from __future__ import annotations

from pathlib import Path

from smalti.cli.options import (
    add_output_options,
    add_tokenizer_options,
    check_tokenizer,
    open_device,
    open_tokenizer,
)
from smalti.cli.parser import CommandParser, fraction, whole_number
from smalti.cli.reducer_options import REDUCER_HELP, add_saliency_option
from smalti.errors import SmaltiError
from smalti.files import check_overwrite, check_writable

_EXAMPLES = (
    "smalti evaluate-reducers --tokenizer my-tokenizer --data my/photos --out reducers",
    "smalti evaluate-reducers --tokenizer my-tokenizer --data my/photos --reduce m3 --reduce topk:keep=0.25 --out reducers",
)
_NOTES = (
    "A reducer without options is measured at several sizes. Tokens are spread back over the latent grid before they are "
    "decoded: what a language model would see cannot be decoded directly."
)
_DEFAULT = ("m3", "topk", "prumerge", "mustdrop", "vqtoken")


def run(name: str, arguments: list[str]) -> int:
    """Evaluate reducers, write the report and print the table.

    Raises:
        SmaltiError: an option is invalid, or the data, the tokenizer or the report cannot be read or written.
    """
    parser = CommandParser(
        name,
        "Reduce the latents of images to fewer tokens with several reducers, spread them back, decode them, and draw PSNR, "
        "SSIM and LPIPS against the number of tokens on one page, with pictures.",
        _EXAMPLES,
        _NOTES,
    )
    add_tokenizer_options(parser, branch=True, seed=True)
    add_saliency_option(parser)
    parser.add_argument(
        "--reduce",
        action="append",
        metavar="NAME",
        help=f"{REDUCER_HELP}; repeat the option for several (default: {', '.join(_DEFAULT)})",
    )
    data = parser.add_argument_group("data")
    data.add_argument("--data", required=True, metavar="SOURCE", help="images, as in `smalti evaluate`")
    data.add_argument(
        "--protocol", default="imagenet256", metavar="NAME", help="as in `smalti evaluate` (default: %(default)s)"
    )
    data.add_argument(
        "--batch-size", type=whole_number(1), default=8, metavar="N", help="images per batch (default: 8)"
    )
    data.add_argument("--workers", type=whole_number(0), default=2, metavar="N", help="loading processes (default: 2)")
    data.add_argument(
        "--max-bad", type=fraction, default=0.01, metavar="FRACTION", help="unreadable files to skip (default: 0.01)"
    )
    data.add_argument(
        "--lpips", default="lpips_vgg", choices=("lpips_vgg", "lpips_alex"), help="network (default: %(default)s)"
    )
    data.add_argument("--weights", type=Path, metavar="PATH", help="folder of pretrained weights of LPIPS")
    data.add_argument(
        "--pictures", type=whole_number(0), default=2, metavar="N", help="images to show (default: %(default)s)"
    )
    add_output_options(parser, "folder to write the report to", "replace an existing report")
    options = parser.parse(arguments)

    from smalti.eval.protocols import get_protocol
    from smalti.eval.reducer_page import RESULTS

    check_overwrite(options.out, "a report of reducers", RESULTS, overwrite=options.overwrite)
    check_writable(options.out)
    protocol = get_protocol(options.protocol)
    if protocol.clips or protocol.crop is None:
        raise SmaltiError(f"The protocol {protocol.name} does not crop images to one size: use one such as square64.")
    tokenizer_file = check_tokenizer(options.tokenizer)

    from smalti.cli.progress import ProgressDisplay
    from smalti.data import EvaluationTransform, IndexedSource, evaluation_loader, open_source
    from smalti.eval.feature_networks.selection import perceptual_network
    from smalti.eval.metrics import PSNR, SSIM, PerceptualDistance
    from smalti.eval.reducer_page import write_reducer_report
    from smalti.eval.reducers import evaluate_reducers
    from smalti.reducers import parse_reducer
    from smalti.tokenizers.checkpoints import fingerprint

    names = options.reduce or list(_DEFAULT)
    for text in names:
        if ":" in text:
            parse_reducer(text)  # before anything slow
    source = open_source(options.data)
    if source.videos:
        raise SmaltiError(f"{options.data} contains videos: pass images.")
    device = open_device(options.device)
    tokenizer = open_tokenizer(tokenizer_file, device, options.branch, options.tile)
    transform = EvaluationTransform(
        resize=protocol.resize, crop=protocol.crop, interpolation=protocol.interpolation, antialias=protocol.antialias
    )
    metrics = [PSNR(), SSIM(), PerceptualDistance(perceptual_network(options.lpips, options.weights))]
    loader = evaluation_loader(source, transform, options.batch_size, options.workers, max_bad=options.max_bad)
    total = len(source) if isinstance(source, IndexedSource) else None
    with ProgressDisplay() as progress, progress.task("Evaluating", total, "images") as update:
        evaluation = evaluate_reducers(
            tokenizer,
            loader,
            names,
            metrics,
            saliency=options.saliency,
            device=device,
            num_pictures=options.pictures,
            seed=options.seed,
            progress=update,
        )
    settings = {
        "tokenizer": tokenizer_file.name,
        "fingerprint": fingerprint(tokenizer_file),
        "data": options.data,
        "protocol": protocol.name,
        "saliency": options.saliency,
    }
    files = write_reducer_report(evaluation, metrics, options.out, settings)
    columns = [metric.name for metric in metrics]
    width = max(len(label) for label in evaluation.tokens)
    print(f"{'reducer':<{width}} {'tokens':>8} " + " ".join(f"{column:>14}" for column in columns))
    for label, tokens in evaluation.tokens.items():
        values = " ".join(f"{evaluation.values[label][column]:>14.4g}" for column in columns)
        print(f"{label:<{width}} {tokens:>8.4g} {values}")
    for file in files:
        print(file)
    return 0
