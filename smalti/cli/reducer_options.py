"""Command-line options that select a reducer."""

from __future__ import annotations

import argparse
from typing import Any

REDUCER_HELP = (
    "m3, langdc, proxyv, fold, topk, prumerge, prumerge_plus, mustdrop or vqtoken, with options: m3:scale=36, "
    "langdc:shape=[4,4], proxyv:factor=4, topk:keep=0.25, prumerge:ratio=0.125, mustdrop:threshold=0.8, vqtoken:clusters=32"
)


def add_reducer_options(parser: argparse.ArgumentParser, reduce_help: str, **settings: Any) -> argparse._ArgumentGroup:
    """Add `--reduce` and `--saliency` in a group for options of reducers, and return the group.

    Args:
        parser: the parser of the command.
        reduce_help: help of `--reduce`, with `REDUCER_HELP`.
        settings: further settings of `--reduce`, as for `add_argument`.
    """
    group = parser.add_argument_group("reducer")
    group.add_argument("--reduce", metavar="NAME", help=reduce_help, **settings)
    group.add_argument(
        "--saliency",
        default="contrast",
        choices=("contrast", "norm", "error", "surprise"),
        help="what topk and prumerge keep: latents that differ from their neighborhood, that are large, whose pixels are "
        "reconstructed badly, or whose ids are rare (default: %(default)s)",
    )
    return group
