"""`smalti fit`, `validate` and `test`: Lightning's command line for the training module."""

from __future__ import annotations

import logging
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import yaml
from jsonargparse import get_loader, set_loader
from jsonargparse.typing import lazy_instance
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from smalti.cli.recipe_files import find_recipe
from smalti.errors import SmaltiError
from smalti.legacy import upgrade_recipe
from smalti.tokenizers.weight_files import read_checkpoint
from smalti.trainers import Checkpoints, ReconstructionGrid, Throughput, TokenizerEMA, TokenizerTraining, WarmStart
from smalti.trainers.latent_statistics import LatentStatisticsCallback
from smalti.trainers.log_progress import LogProgress

_CONFIG_OPTIONS = ("-c", "--config")
_NOISE = ("💡 Tip", "TPU available")
"""Beginnings of messages that Lightning logs at every start and that say nothing about the run."""
_load_yaml = get_loader("yaml")


class _TrainingCLI(LightningCLI):
    """Lightning's command line with the callbacks of every run."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Give each callback of every run its own section in the recipe, and options such as --ema.decay."""
        parser.add_lightning_class_args(WarmStart, "warm_start")
        parser.add_lightning_class_args(TokenizerEMA, "ema")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(ReconstructionGrid, "visualization")
        parser.add_lightning_class_args(LatentStatisticsCallback, "statistics")
        parser.set_defaults({"trainer.logger": lazy_instance(TensorBoardLogger, save_dir="runs", name="")})

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer, with progress as plain text if the output is not a terminal."""
        if not sys.stdout.isatty() and self._get(self.config_init, "trainer.enable_progress_bar") is not False:
            self.trainer_defaults["callbacks"].append(LogProgress())
        if self._get(self.config_init, "trainer.logger") is not False:
            self.trainer_defaults["callbacks"] += [Throughput(), LearningRateMonitor("step")]
        return super().instantiate_trainer(**kwargs)

    def before_instantiate_classes(self) -> None:
        """Check the checkpoint before anything is built.

        Raises:
            SmaltiError: the checkpoint is required and not given, does not exist, or is damaged.
        """
        path = self._get(self.config, "ckpt_path")
        if path is None and self.subcommand != "fit":
            raise SmaltiError(f"`smalti {self.subcommand}` measures trained weights: pass --ckpt_path.")
        if path is not None and path not in ("last", "best", "hpc", "registry"):
            read_checkpoint(Path(path))

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands without predict, for which there is `smalti reconstruct`."""
        subcommands = LightningCLI.subcommands()
        return {name: subcommands[name] for name in ("fit", "validate", "test")}


def run(name: str, arguments: list[str]) -> int:
    """Run Lightning's command line. Recipes are found by name, and those of earlier versions are upgraded.

    Args:
        name: fit, validate or test.
        arguments: the arguments after the command's name.

    Raises:
        SmaltiError: a recipe does not exist, or a setting is wrong.
    """
    _quiet_lightning()
    set_loader("yaml", _load_recipe, exceptions=(yaml.YAMLError,))
    logging.getLogger("smalti").setLevel(logging.INFO)
    logging.basicConfig(format="%(message)s")
    # Set and not passed: the processes that DDP launches repeat the command from sys.argv.
    sys.argv[1:] = [name, *_resolve_recipes(arguments)]
    try:
        _TrainingCLI(
            TokenizerTraining,
            pl.LightningDataModule,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "smalti", "exit_on_error": False},
            trainer_defaults={"callbacks": []},
            save_config_kwargs={"overwrite": True},  # a run that is resumed in its own folder has a config there
        )
    except (ArgumentError, ValueError) as error:
        cause = _find_smalti_error(error)
        if cause is not None:
            raise cause from error
        if not isinstance(error, ArgumentError):
            raise
        if str(error).endswith(f"required: {name}.data"):
            raise SmaltiError("No data is given: add a data recipe, such as -c data/folder.yaml.") from error
        # The lines of the message are the path to the wrong setting, one level per line.
        raise SmaltiError(" ".join(str(error).split())) from error
    except MisconfigurationException as error:
        raise SmaltiError(f"The trainer's settings do not fit together: {error}") from error
    return 0


def _quiet_lightning() -> None:
    """Drop Lightning's tips, and warnings that do not apply."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_about_the_run)
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    # Validation metrics are already means over all ranks when they are logged.
    warnings.filterwarnings("ignore", message=r".*It is recommended to use `self\.log\('(val|test)/.*sync_dist=True.*")


def _is_about_the_run(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_NOISE)


def _load_recipe(text: str) -> Any:
    """Load YAML, upgrading what an earlier version wrote."""
    return upgrade_recipe(_load_yaml(text))


def _find_smalti_error(error: BaseException) -> SmaltiError | None:
    """Return the error for users that a library has wrapped in its own errors, if there is one."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, SmaltiError):
            return current
        current = current.__cause__ or current.__context__
    return None


def _resolve_recipes(arguments: list[str]) -> list[str]:
    """Replace the name of each recipe by the path of its file."""
    resolved: list[str] = []
    previous = ""
    for argument in arguments:
        option, equals, value = argument.partition("=")
        if previous in _CONFIG_OPTIONS:
            resolved.append(str(find_recipe(argument)))
        elif equals and option in _CONFIG_OPTIONS:
            resolved.append(f"{option}={find_recipe(value)}")
        else:
            resolved.append(argument)
        previous = argument
    return resolved
