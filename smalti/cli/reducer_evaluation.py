"""`smalti evaluate --reduce`: measure what reducers lose, against the number of tokens."""

from __future__ import annotations

import argparse

from smalti.cli.options import check_tokenizer, open_device, open_tokenizer
from smalti.errors import SmaltiError
from smalti.files import check_overwrite, check_writable


def evaluate_reduced(options: argparse.Namespace) -> int:
    """Evaluate reducers, write the report and print the table.

    Args:
        options: the options of `smalti evaluate`, with at least one reducer.

    Returns:
        The exit code.

    Raises:
        SmaltiError: an option is invalid, or the data, the tokenizer or the report cannot be read or written.
    """
    from smalti.eval.protocols import get_protocol
    from smalti.eval.reducer_page import RESULTS

    if options.metric or options.readiness:
        raise SmaltiError("--metric and --readiness measure whole tokenizers: leave them out with --reduce.")
    check_overwrite(options.out, "a report of reducers", RESULTS, overwrite=options.overwrite)
    check_writable(options.out)
    protocol = get_protocol(options.protocol)
    if protocol.clips or protocol.crop is None:
        raise SmaltiError(f"The protocol {protocol.name} does not crop images to one size: use one such as square64.")
    tokenizer_file = check_tokenizer(options.tokenizer)

    from smalti.cli.progress import ProgressDisplay
    from smalti.data import IndexedSource, evaluation_loader, open_source
    from smalti.eval.feature_networks.selection import perceptual_network
    from smalti.eval.metrics import PSNR, SSIM, PerceptualDistance
    from smalti.eval.reducer_page import write_reducer_report
    from smalti.eval.reducers import evaluate_reducers
    from smalti.reducers import parse_reducer
    from smalti.tokenization.preprocessing import build_transform
    from smalti.tokenizers.checkpoints import fingerprint

    for text in options.reduce:
        if ":" in text:
            parse_reducer(text)  # before anything slow
    source = open_source(options.data)
    if source.videos:
        raise SmaltiError(f"{options.data} contains videos: pass images.")
    device = open_device(options.device)
    tokenizer = open_tokenizer(tokenizer_file, device, options.branch, options.tile)
    metrics = [PSNR(), SSIM(), PerceptualDistance(perceptual_network(options.lpips, options.weights))]
    loader = evaluation_loader(
        source, build_transform(protocol), options.batch_size, options.workers, max_bad=options.max_bad
    )
    total = len(source) if isinstance(source, IndexedSource) else None
    with ProgressDisplay() as progress, progress.task("Evaluating", total, "images") as update:
        evaluation = evaluate_reducers(
            tokenizer,
            loader,
            options.reduce,
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
