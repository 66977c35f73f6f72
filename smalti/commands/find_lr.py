"""`smalti find-lr`: try learning rates for a recipe."""

from __future__ import annotations

import sys

from smalti.cli.training_arguments import prepare_arguments, split_options
from smalti.errors import SmaltiError

STEPS = 60
"""Default number of steps of each learning rate."""


def run(name: str, arguments: list[str]) -> int:
    """Try learning rates, and print which of them learns best.

    Args:
        name: find-lr.
        arguments: the arguments after the command's name: those of `smalti fit`, and --steps and --rates.

    Raises:
        SmaltiError: a recipe does not exist, a setting is wrong, or no learning rate has learned anything.
    """
    steps, others = split_options(arguments, "--steps")
    rates, others = split_options(others, "--rates")
    own = [
        word
        for option, values in (("--steps", steps), ("--rates", rates))
        for v in values
        for word in (option, v or "")
    ]
    parsed_steps, parsed_rates = _parse_steps(steps), _parse_rates(rates)
    prepared = prepare_arguments("fit", others)
    # Set in sys.argv, because the processes that DDP launches repeat sys.argv.
    sys.argv[1:] = [name, *own, *prepared]

    from smalti.cli.sweep_cli import SweepCLI  # imports Lightning, which takes seconds
    from smalti.cli.training_cli import run_training

    run_training(name, arguments, lambda _, typed: SweepCLI(typed, prepared, parsed_steps, parsed_rates))
    return 0


def _parse_steps(values: list[str | None]) -> int:
    text = values[-1] if values else str(STEPS)
    if text is None or not text.isdecimal() or int(text) < 4:
        raise SmaltiError(f"--steps is '{text}': give the number of steps of each learning rate, at least 4.")
    return int(text)


def _parse_rates(values: list[str | None]) -> list[float] | None:
    if not values:
        return None
    text = values[-1] or ""
    try:
        rates = sorted({float(word) for word in text.strip("[]").split(",")})
    except ValueError:
        rates = [0.0]
    if rates[0] <= 0:
        raise SmaltiError(f"--rates is '{text}': give positive learning rates with commas, such as 1e-4,3e-4,1e-3.")
    return rates
