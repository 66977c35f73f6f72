"""`smalti fit`, `validate` and `test`: Lightning's command line for training."""

from __future__ import annotations

import logging
import sys
import warnings
from argparse import ArgumentError
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from jsonargparse.typing import lazy_instance
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from smalti.cli.recipes import format_recipe, load_recipes
from smalti.data import ImageData, MixedData, VideoData  # noqa: F401 - `--help` lists the classes that are imported
from smalti.errors import SmaltiError
from smalti.tokenizers.weight_files import read_checkpoint
from smalti.trainers import Checkpoints, ReconstructionGrid, Throughput, TokenizerEMA, TokenizerTraining, WarmStart
from smalti.trainers.latent_statistics import LatentStatisticsCallback
from smalti.trainers.log_progress import LogProgress

_CONFIG_OPTIONS = ("-c", "--config")
_DROPPED_MESSAGES = ("💡 Tip", "TPU available")
"""Beginnings of messages that Lightning logs at every start and that say nothing about the run."""
_DESCRIPTIONS = {
    "fit": "Train a tokenizer. Pass recipes with -c: a model recipe and a data recipe, such as -c wetok/f16.yaml -c "
    "data/folder.yaml. `smalti recipes` lists the installed ones. Later recipes and options override earlier ones. To "
    "resume a run, pass its last.ckpt with --ckpt_path.",
    "validate": "Evaluate a checkpoint (--ckpt_path) on the validation data of its recipe. Pass the recipe with -c, such "
    "as the config.yaml in the folder of the run.",
    "test": "Evaluate a checkpoint (--ckpt_path) on the test data of its recipe. Pass the recipe with -c, such as the "
    "config.yaml in the folder of the run.",
}


class _TrainingCLI(LightningCLI):
    """Lightning's command line, with recipes and the callbacks of every run."""

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Build Lightning's parser, and replace the help text of -c."""
        parser = super().init_parser(**kwargs)
        (action,) = (action for action in parser._actions if action.dest == "config")
        action.help = "recipe: a YAML file, or the name of an installed recipe. Repeat the option to combine recipes."
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add a section of the recipe, with options such as --ema.decay, for each callback of every run."""
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

    def after_fit(self) -> None:
        """Print where the checkpoint is and what to do next."""
        checkpoint = Path(getattr(self.trainer.checkpoint_callback, "last_model_path", ""))
        if self.trainer.is_global_zero and checkpoint.is_file():
            print(f"The run is saved in {checkpoint}. To export it: smalti export {checkpoint} --out my-tokenizer")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands without predict, which `smalti reconstruct` replaces."""
        subcommands = LightningCLI.subcommands()
        return {name: subcommands[name] for name in ("fit", "validate", "test")}


def run(name: str, arguments: list[str]) -> int:
    """Run Lightning's command line. Find recipes by name, and upgrade recipes of earlier versions.

    Args:
        name: fit, validate or test.
        arguments: the arguments after the command's name.

    Raises:
        SmaltiError: a recipe does not exist, or a setting is wrong.
    """
    _quiet_lightning()
    logging.getLogger("smalti").setLevel(logging.INFO)
    logging.basicConfig(format="%(message)s")
    # Set in sys.argv and not passed as an argument, because the processes that DDP launches repeat sys.argv.
    sys.argv[1:] = [name, *_merge_recipe_options(arguments)]
    try:
        _TrainingCLI(
            TokenizerTraining,
            pl.LightningDataModule,
            subclass_mode_data=True,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"prog": "smalti", "exit_on_error": False}
            | {name: {"description": text} for name, text in _DESCRIPTIONS.items()},
            trainer_defaults={"callbacks": []},
            save_config_kwargs={"overwrite": True},  # a run that is resumed in its own folder already has a config.yaml
        )
    except (ArgumentError, ValueError) as error:
        cause = _find_smalti_error(error)
        if cause is not None:
            raise cause from error
        if not isinstance(error, ArgumentError):
            raise
        if str(error).endswith(f"required: {name}.data"):
            raise SmaltiError("No data is given: add a data recipe, such as -c data/folder.yaml.") from error
        # Each line of the message is one level of the path to the wrong setting.
        raise SmaltiError(" ".join(str(error).split())) from error
    except MisconfigurationException as error:
        raise SmaltiError(f"The settings of the trainer or its callbacks are invalid: {error}") from error
    return 0


def _quiet_lightning() -> None:
    """Drop Lightning's tips, and warnings that do not apply."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_informative)
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    # Validation metrics are already means over all ranks when they are logged.
    warnings.filterwarnings("ignore", message=r".*It is recommended to use `self\.log\('(val|test)/.*sync_dist=True.*")


def _is_informative(record: logging.LogRecord) -> bool:
    """Return whether a log record says something about the run."""
    return not str(record.msg).startswith(_DROPPED_MESSAGES)


def _find_smalti_error(error: BaseException) -> SmaltiError | None:
    """Return the SmaltiError among an error and its causes, which a library may have wrapped; None if there is none."""
    current: BaseException | None = error
    while current is not None:
        if isinstance(current, SmaltiError):
            return current
        current = current.__cause__ or current.__context__
    return None


def _merge_recipe_options(arguments: list[str]) -> list[str]:
    """Replace all recipes with one merged recipe, written inline as the first option: other options override recipes.

    The result can be merged again. The processes that DDP launches do so.
    """
    recipes: list[str] = []
    others: list[str] = []
    iterator = iter(arguments)
    for argument in iterator:
        option, equals, value = argument.partition("=")
        if option in _CONFIG_OPTIONS:
            recipes.append(value if equals else next(iterator, ""))
        else:
            others.append(argument)
    return ["-c", format_recipe(load_recipes(*recipes)), *others] if recipes else others
