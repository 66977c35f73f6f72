"""`smalti fit`, `validate` and `test`: Lightning's command line over the training module."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse.typing import lazy_instance
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from smalti.cli.recipe_files import find_recipe
from smalti.errors import SmaltiError
from smalti.tokenizers.checkpoints import read_checkpoint
from smalti.trainers import Checkpoints, ReconstructionGrid, Throughput, TokenizerEMA, TokenizerTraining, WarmStart
from smalti.trainers.latent_statistics import LatentStatisticsCallback

_CONFIG_OPTIONS = ("-c", "--config")


class _Command(LightningCLI):
    """Lightning's command line with the callbacks that every run has."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks that every run has, each with a section of its own in a recipe, and options such as --ema.decay."""
        parser.add_lightning_class_args(WarmStart, "warm_start")
        parser.add_lightning_class_args(TokenizerEMA, "ema")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(ReconstructionGrid, "pictures")
        parser.add_lightning_class_args(LatentStatisticsCallback, "statistics")
        parser.set_defaults({"trainer.logger": lazy_instance(TensorBoardLogger, save_dir="runs", name="")})

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """As Lightning; into a file, where its live display shows nothing, progress goes as plain text."""
        if not sys.stdout.isatty() and self._get(self.config_init, "trainer.enable_progress_bar") is not False:
            self.trainer_defaults["callbacks"].append(TQDMProgressBar(refresh_rate=50))
        if self._get(self.config_init, "trainer.logger") is not False:
            self.trainer_defaults["callbacks"] += [Throughput(), LearningRateMonitor("step")]
        return super().instantiate_trainer(**kwargs)

    def before_instantiate_classes(self) -> None:
        """Look at the checkpoint first: it is wanted, there and whole, or nothing starts.

        Raises:
            SmaltiError: it is not.
        """
        path = self._get(self.config, "ckpt_path")
        if path is None and self.subcommand != "fit":
            raise SmaltiError("No checkpoint is named, and fresh weights are not worth measuring: pass --ckpt_path.")
        if path is not None and path not in ("last", "best", "hpc", "registry"):
            read_checkpoint(Path(path))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, but for predict: `smalti reconstruct` does that."""
        theirs = LightningCLI.subcommands()
        return {name: theirs[name] for name in ("fit", "validate", "test")}


def run(name: str, arguments: list[str]) -> int:
    """Run Lightning's command line with installed recipes found by name.

    Raises:
        SmaltiError: a recipe that is not there, or settings that contradict each other.
    """
    logging.getLogger("smalti").setLevel(logging.INFO)
    logging.basicConfig(format="%(message)s")
    # Set, not passed: the processes that data parallelism starts repeat the command from here.
    sys.argv[1:] = [name, *_with_recipes(arguments)]
    try:
        _Command(
            TokenizerTraining,
            pl.LightningDataModule,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "smalti", "exit_on_error": False},
            trainer_defaults={"callbacks": []},
            save_config_kwargs={"overwrite": True},  # a run that is resumed in its own folder has its config there
        )
    except (ArgumentError, ValueError) as error:
        ours = _ours_behind(error)
        if ours is not None:
            raise ours from error
        if not isinstance(error, ArgumentError):
            raise
        if str(error).endswith(f"required: {name}.data"):
            raise SmaltiError("No data is named: add a data recipe, such as -c data/folder.yaml.") from error
        # Its lines are the path to what is wrong, one level each.
        raise SmaltiError(" ".join(str(error).split())) from error
    except MisconfigurationException as error:
        raise SmaltiError(f"The trainer's settings do not fit together: {error}") from error
    return 0


def _ours_behind(error: BaseException) -> SmaltiError | None:
    """The error for people that a library wrapped in its own, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, SmaltiError):
            return seen
        seen = seen.__cause__ or seen.__context__
    return None


def _with_recipes(arguments: list[str]) -> list[str]:
    """The arguments with each recipe's name replaced by its file."""
    found: list[Any] = []
    previous = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if previous in _CONFIG_OPTIONS:
            found.append(str(find_recipe(argument)))
        elif equals and option in _CONFIG_OPTIONS:
            found.append(f"{option}={find_recipe(value)}")
        else:
            found.append(argument)
        previous = argument
    return found
