"""Command-line options about data that several commands share: sources, protocols, batches and workers."""

from __future__ import annotations

import argparse

from smalti.cli.parser import fraction, whole_number

SOURCE_HELP = (
    "shards (path, glob or URL of .tar files); or the class path of your own source (my_package.MySource). The prefix "
    "videos: selects the videos of a folder, or marks shards that contain videos (videos:clips-*.tar)"
)
"""How a source is given, after the kinds that only some commands take."""

CLIP_PROTOCOL_HELP = "clip17x128@24 (17 frames of 128 x 128 pixels at 24 frames per second), ..."
"""An example of a protocol for clips."""


def add_loading_options(
    group: argparse._ActionsContainer, *, batch_size: int, workers: int, samples: str, processes: str
) -> None:
    """Add `--batch-size` and `--workers`.

    Args:
        group: the parser of the command, or a group of its options.
        batch_size: default of `--batch-size`.
        workers: default of `--workers`.
        samples: what a batch has, such as "samples per batch".
        processes: what the workers are, such as "data loading processes per device".
    """
    group.add_argument(
        "--batch-size",
        type=whole_number(1),
        default=batch_size,
        metavar="N",
        help=f"{samples} (default: %(default)s)",
    )
    group.add_argument(
        "--workers",
        type=whole_number(0),
        default=workers,
        metavar="N",
        help=f"{processes}; 0 loads in the main process (default: %(default)s)",
    )


def add_max_bad_option(group: argparse._ActionsContainer) -> None:
    """Add `--max-bad`, a fraction."""
    group.add_argument(
        "--max-bad",
        type=fraction,
        default=0.01,
        metavar="FRACTION",
        help="maximum fraction of unreadable samples to skip before the command fails (default: %(default)s)",
    )
