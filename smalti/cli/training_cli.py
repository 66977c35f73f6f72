"""Lightning's command line for training, with the folder, the messages and the callbacks of a run."""

from __future__ import annotations

import logging
import os
import shlex
import signal
import sys
import threading
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lightning.pytorch as pl
import yaml
from jsonargparse import Namespace, set_parsing_settings
from jsonargparse._common import parsing_settings
from jsonargparse.typing import lazy_instance
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim.lr_scheduler import OneCycleLR

from smalti.cli.audit_report import StopAfterAudit, describe_audit
from smalti.cli.build_data import instantiate_sources
from smalti.cli.last_good import KEYWORD
from smalti.cli.run_callback import RunFolder
from smalti.cli.run_folder import CONFIG, find_run
from smalti.cli.training_arguments import split_options
from smalti.cli.training_errors import explain_error
from smalti.cli.training_help import TrainingParser, arrange_help
from smalti.data import ImageData, MixedData, MultiSizeImageData, Source, VideoData  # noqa: F401 - `--help` lists the classes that are imported
from smalti.data.data_modules import TrainingData
from smalti.errors import SmaltiError, find_cause
from smalti.extensions import (
    UNTRUSTED_OPTION,
    import_object,
    import_options,
    is_untrusted,
    trusted_packages,
)
from smalti.tokenizers import bottlenecks
from smalti.tokenizers.weight_files import read_checkpoint
from smalti.trainers import (
    Audit,
    Checkpoints,
    Health,
    ReconstructionGrid,
    Start,
    Throughput,
    TokenizerEMA,
    TokenizerTraining,
    WarmStart,
)
from smalti.trainers.latent_statistics import LatentStatisticsCallback
from smalti.trainers.log_progress import LogProgress
from smalti.trainers.losses.base import Loss
from smalti.trainers.rank_errors import RankCrashError, RankError
from smalti.trainers.rank_watch import RankWatch

AnyCallback = TypeVar("AnyCallback", bound=pl.Callback)
_PATIENCE = 60.0
"""Seconds that the processes of other ranks may need to exit after training."""
_LIGHTNING_LOGGERS = ("lightning.pytorch", "lightning.fabric")


class TrainingCLI(LightningCLI):
    """Lightning's command line for one of its commands, with recipes and the callbacks of every run.

    Args:
        command: fit, check, validate or test. "check" is "fit" without a folder, until the audit of its first steps is
            complete. `smalti find-lr` has a subclass.
        arguments: the arguments as the user typed them, for the command that resumes the run.
    """

    def __init__(self, command: str, arguments: list[str]) -> None:
        self._name = command
        self._checks = command in ("check", "find-lr")
        self._command = "fit" if self._checks else command
        self._typed = arguments
        self._audit = Audit()
        super().__init__(
            TokenizerTraining,
            pl.LightningDataModule,
            save_config_callback=RunFolder,
            seed_everything_default=0,
            trainer_defaults={
                "callbacks": [],
                "logger": lazy_instance(TensorBoardLogger, save_dir="runs", name=""),
                "enable_model_summary": False,  # `RunFolder` prints one line instead
                "enable_autolog_hparams": False,  # there are none, and the folder would exist before the first step
            },
            parser_class=TrainingParser,
            parser_kwargs={"prog": "smalti", "exit_on_error": False},
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return only the command that runs: building the parser of a command takes time."""
        return {self._command: LightningCLI.subcommands()[self._command]}

    # Options

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the sections of a recipe in the order of the help: a section for each callback of every run, trainer last."""
        parser.add_lightning_class_args(TokenizerTraining, "model")
        parser.add_lightning_class_args(pl.LightningDataModule, "data", subclass_mode=True)
        parser.add_lightning_class_args(TokenizerEMA, "ema")
        parser.add_lightning_class_args(Checkpoints, "checkpoint")
        parser.add_lightning_class_args(ReconstructionGrid, "visualization")
        parser.add_lightning_class_args(Health, "health")
        parser.add_lightning_class_args(LatentStatisticsCallback, "statistics")
        parser.add_lightning_class_args(Start, "start")
        parser.add_lightning_class_args(WarmStart, "warm_start")
        parser.add_lightning_class_args(RankWatch, "watch")
        parser.add_lightning_class_args(pl.Trainer, "trainer")
        defaults = {f"trainer.{name}": value for name, value in self.trainer_defaults.items() if name != "callbacks"}
        parser.set_defaults(defaults)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        arrange_help(parser, self._name)
        return parser

    def _parse_ckpt_path(self) -> None:
        """Do not read the checkpoint for hyperparameters: the module saves none, and a checkpoint can be large."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the options.

        Raises:
            SmaltiError: an option is unknown or its value is wrong; the sentence names the nearest valid name.
        """
        try:
            self.config = parser.parse_args([self._command, *self._options()])
        except ArgumentError as error:
            cause = find_cause(error, SmaltiError)
            raise cause or SmaltiError(explain_error(str(error), self._parser(self._command))) from error

    def _options(self) -> list[str]:
        """Return the options to parse. The processes that DDP launches find them in `sys.argv` as well."""
        return sys.argv[2:]

    # Objects

    def before_instantiate_classes(self) -> None:
        """Check the checkpoint before anything is built.

        Raises:
            SmaltiError: the checkpoint is damaged.
        """
        path = self._checkpoint()
        if path is None:
            return
        try:
            self._step = read_checkpoint(path).get("global_step", 0)
        except SmaltiError as error:
            raise SmaltiError(
                f"{str(error).removesuffix('.')}: take the newest one that can be read, with --ckpt_path "
                f"{path.parent.parent / KEYWORD}."
            ) from error

    def instantiate_classes(self) -> None:
        """Check the losses, and build the data module, then the networks, which take much longer, and the trainer.

        Raises:
            SmaltiError: a loss cannot be built, or a data source cannot be opened or is missing.
        """
        config = self.config.clone()
        for loss in (self._get(self.config, "model.losses") or {}).values():
            _check_loss(loss)
        data = self._build_data(config[self._command].data)
        if isinstance(data, TrainingData):
            data.check_sources(self._command)
        config[self._command].data = data
        self.config_init = self.parser.instantiate(config)
        self.datamodule = data
        self.model = self._get(self.config_init, "model")
        self.trainer = self.instantiate_trainer()

    def _build_data(self, settings: Namespace) -> pl.LightningDataModule:
        config = Namespace({"subcommand": self._command, self._command: Namespace(data=settings)})
        built = instantiate_sources(
            lambda builders: self.parser.instantiate(config, instantiate_groups=False, instantiators=builders)
        )
        return built[self._command].data

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Build the trainer, with progress as lines of text, and the logger of the run that is continued.

        Raises:
            SmaltiError: Lightning refuses the settings.
        """
        if self._checks:
            return self._instantiate_checking_trainer()
        callbacks = self._get(self.config_init, "trainer.callbacks") or []
        own_bar = any(isinstance(c, ProgressBar) for c in (callbacks if isinstance(callbacks, list) else [callbacks]))
        if self._get(self.config_init, "trainer.enable_progress_bar") is not False and not own_bar:
            self.trainer_defaults["callbacks"].append(LogProgress())
        run = find_run(self._checkpoint())
        if self.subcommand != "fit" and self._is_logger_of(run):
            kwargs["logger"] = False  # the result is printed; a new folder with one point would only be in the way
        elif run is not None and self._is_logger_of(run):
            # TensorBoard hides the points that an interrupted run logged after its checkpoint.
            kwargs["logger"] = TensorBoardLogger(run.parent, name="", version=run.name, purge_step=self._step + 1)
        if kwargs.get("logger", self._get(self.config_init, "trainer.logger")) is not False:
            self.trainer_defaults["callbacks"] += [Throughput(), LearningRateMonitor("step")]
        if self._command == "fit":
            self.trainer_defaults["callbacks"].append(self._audit)
        return self._build_trainer(**kwargs)

    def _build_trainer(self, **kwargs: Any) -> pl.Trainer:
        try:
            return super().instantiate_trainer(**kwargs)
        except ValueError as error:  # such as a strategy that does not exist, or that needs a GPU
            raise SmaltiError(f"The trainer cannot be built: {error}") from error

    def _instantiate_checking_trainer(self) -> pl.Trainer:
        """Build a trainer that writes nothing, validates nothing and stops when the audit has finished."""
        self.trainer_defaults["callbacks"] += [self._audit, StopAfterAudit(self._audit)]
        trainer = self._build_trainer(
            logger=False,
            limit_val_batches=0,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            min_steps=None,
            min_epochs=None,
        )
        writing = (Checkpoints, Health, ReconstructionGrid, RunFolder)
        callbacks: list[Any] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        callbacks[:] = [callback for callback in callbacks if not isinstance(callback, writing)]
        return trainer

    def _checkpoint(self) -> Path | None:
        """Return the checkpoint, unless it is a keyword such as "last"."""
        path = self._get(self.config, "ckpt_path")
        return Path(path) if path is not None and Path(path).is_file() else None

    def _is_logger_of(self, run: Path | None) -> bool:
        """Return whether the logger is the default one or that of a run: the user has not chosen another folder."""
        if any(argument.startswith("--trainer.logger") for argument in self._typed):
            return False
        logger = _summarize_logger(self._get(self.config, "trainer.logger"))
        known = [_summarize_logger(self._parser(self.subcommand).get_defaults().get("trainer.logger"))]
        if run is not None:
            settings = yaml.safe_load((run / CONFIG).read_text(encoding="utf-8"))
            known.append(_summarize_logger((settings.get("trainer") or {}).get("logger")))
        return logger is not None and logger in known

    # Commands

    def fit(self, **kwargs: Any) -> None:
        """Train. Print how to export, extend or resume the run. Leave nothing behind if no step has finished.

        Raises:
            SmaltiError: the audit of the first steps has found a problem.
        """
        if self._checks:
            self._check(**kwargs)
            return
        is_main, run_folder, logger = self.trainer.is_global_zero, self._run_folder(), self.trainer.logger
        folder = Path(logger.log_dir) if is_main and isinstance(logger, TensorBoardLogger) else None
        if folder is not None:
            run_folder.remember_files(folder)
        watch = self._callback(RankWatch)
        try:
            with _end_children_on_sigterm(self.trainer, watch):
                self.trainer.fit(**kwargs)
        except BaseException as error:
            if is_main and (run_folder.already_saved or not isinstance(error, SmaltiError)):
                self._print_how_to_resume(run_folder)
            if isinstance(error, (RankError, RankCrashError)) and error.__cause__ is None and not is_main:
                # The rank that has failed prints the message, and so does rank 0, whose output people read.
                raise SystemExit(2 if isinstance(error, SmaltiError) else 1) from None
            raise
        else:
            if is_main:
                self._print_next_steps(run_folder)
        finally:
            if watch is not None:
                watch.end_children(_PATIENCE)
            if folder is not None:
                run_folder.remove_new_files(folder)

    def _check(self, **kwargs: Any) -> None:
        """Train until the audit has finished, with the GAN losses from the first step, and print what it has found."""
        gan = self.model.gan
        if gan is not None:
            gan.start = 0
        logging.getLogger("smalti.trainers.audit").setLevel(logging.WARNING)  # the report contains the memory
        self.trainer.fit(**kwargs)
        if self.trainer.is_global_zero:
            print(describe_audit(self._audit, self.trainer, self.model), flush=True)

    def _print_next_steps(self, run_folder: RunFolder) -> None:
        """Print where the run is and what to type next."""
        checkpoint = self._last_checkpoint()
        if checkpoint is None:
            return
        step = self.trainer.global_step
        if not run_folder.already_saved:
            print(f"The run has already finished: the checkpoint is at step {step}.")
        print(f"The run is saved in {run_folder.folder or checkpoint.parent}. Last checkpoint: {checkpoint}")
        print(f"To export it: {_command('export', shlex.quote(str(checkpoint)), '--out my-tokenizer')}")
        longer = f"--trainer.max_steps {2 * step}"
        schedules = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        if any(isinstance(schedule, OneCycleLR) and schedule.total_steps < 2 * step for schedule in schedules):
            longer += f" --model.scheduler.total_steps {2 * step}"
        print(f"To train longer: {self._resume_command(checkpoint)} {longer}", flush=True)

    def _print_how_to_resume(self, run_folder: RunFolder) -> None:
        """Print how to resume a run that was interrupted or has failed."""
        checkpoint = self._last_checkpoint()
        if not run_folder.already_saved:
            print("The run stopped before its first step was finished: nothing was saved.", flush=True)
        elif checkpoint is not None:
            step = self.trainer.global_step
            print(f"The run stopped at step {step}. To resume it: {self._resume_command(checkpoint)}", flush=True)

    def _run_folder(self) -> RunFolder:
        return self._callback(RunFolder) or RunFolder(self.parser, self.config)

    def _callback(self, kind: type[AnyCallback]) -> AnyCallback | None:
        """Return the callback of a class; None if the trainer has none."""
        callbacks: list[Any] = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        return next((callback for callback in callbacks if isinstance(callback, kind)), None)

    def _last_checkpoint(self) -> Path | None:
        """Return the newest checkpoint of this run, or else the one that it started from; None without any."""
        path = Path(getattr(self.trainer.checkpoint_callback, "last_model_path", ""))
        return path if path.is_file() else self._checkpoint()

    def _resume_command(self, checkpoint: Path) -> str:
        """Return the command that resumes this run. A checkpoint outside the folder of a run needs all options."""
        options = split_options(self._typed, "--ckpt_path")[1] if find_run(checkpoint) is None else []
        return _command("fit", *map(shlex.quote, [*options, "--ckpt_path", str(checkpoint)]))


def run_training(
    command: str, arguments: list[str], cli: Callable[[str, list[str]], TrainingCLI] = TrainingCLI
) -> None:
    """Run a command of Lightning with the options in `sys.argv`.

    Args:
        command: fit, check, find-lr, validate or test.
        arguments: the arguments as the user typed them.
        cli: runs the command, given its name and the arguments.

    Raises:
        SmaltiError: a setting is wrong.
    """
    _quiet_lightning()
    for name in bottlenecks.__all__:
        # Some bottlenecks are imported on first use, and jsonargparse finds imported classes only.
        if any(name in argument for argument in sys.argv):
            getattr(bottlenecks, name)
    logging.getLogger("smalti").setLevel(logging.INFO)
    logging.basicConfig(format="%(message)s")
    try:
        with _limit_imports():
            cli(command, arguments)
    except (ArgumentError, ValueError) as error:
        cause = find_cause(error, SmaltiError)
        if cause is not None:
            raise cause from error
        if not isinstance(error, ArgumentError):
            raise
        raise SmaltiError(" ".join(str(error).split())) from error
    except MisconfigurationException as error:
        raise SmaltiError(f"The settings of the trainer or its callbacks are invalid: {error}") from error


@contextmanager
def _limit_imports() -> Iterator[None]:
    """Let settings name classes of trusted packages only, if the recipe is untrusted."""
    verdicts = parsing_settings["import_path_verdicts"]
    if is_untrusted():
        set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=trusted_packages())
    try:
        yield
    finally:
        parsing_settings["import_path_verdicts"] = verdicts


@contextmanager
def _end_children_on_sigterm(trainer: pl.Trainer, watch: RankWatch | None) -> Iterator[None]:
    """Let SIGTERM before the first step also end the processes that Lightning has launched for other ranks.

    When training starts, `Checkpoints` handles the signal.
    """

    def end(number: int, _frame: Any) -> None:
        for child in [*getattr(trainer.strategy.launcher, "procs", []), *(watch.children if watch is not None else [])]:
            child.send_signal(number)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    main_thread = threading.current_thread() is threading.main_thread()
    if not main_thread or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _check_loss(settings: Any) -> None:
    """Let a loss check its arguments before anything is built.

    Args:
        settings: class and arguments of a loss, as jsonargparse represents them.

    Raises:
        SmaltiError: the loss cannot be built.
    """
    if not isinstance(settings, Namespace) or "class_path" not in settings:
        return
    cls = import_object(settings.class_path, "loss")
    if isinstance(cls, type) and issubclass(cls, Loss):
        arguments = settings.get("init_args") or Namespace()
        cls.check_arguments(**arguments.as_dict())


def _quiet_lightning() -> None:
    """Drop Lightning's messages, which repeat settings or advertise, and warnings that do not apply."""
    for name in _LIGHTNING_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        r".*isinstance\(treespec, LeafSpec\).*",
        # Validation metrics are already means over all ranks when they are logged.
        r".*It is recommended to use `self\.log\('(val|test)/.*sync_dist=True.*",
        r"Checkpoint directory .* exists and is not empty.*",  # a resumed run
        r"The number of training batches .* is smaller than the logging interval.*",  # steps count across epochs
    ):
        warnings.filterwarnings("ignore", message=message)


def _command(*words: str) -> str:
    """Return a `smalti` command, with the modules that this process was asked to import, and with `--untrusted`."""
    general = [*import_options(), *([UNTRUSTED_OPTION] if is_untrusted() and words[0] == "fit" else [])]
    return " ".join(["smalti", words[0], *general, *words[1:]])


def _summarize_logger(logger: Any) -> tuple[Any, ...] | None:
    """Return what determines the folder of a TensorBoardLogger in a configuration; None for any other logger."""
    settings = logger.as_dict() if isinstance(logger, Namespace) else logger
    if not isinstance(settings, dict) or str(settings.get("class_path")).rpartition(".")[2] != "TensorBoardLogger":
        return None
    arguments = settings.get("init_args") or {}
    return tuple(arguments.get(name) for name in ("save_dir", "name", "version"))
