"""The help of the training commands: examples, our own options, and the most common ones of Lightning."""

from __future__ import annotations

import inspect
from argparse import SUPPRESS, Action
from typing import Any

from jsonargparse import DefaultHelpFormatter
from jsonargparse._actions import _ActionConfigLoad, _ActionHelpClassPath
from jsonargparse._typehints import get_all_subclass_paths
from jsonargparse._util import import_object
from lightning.pytorch.cli import LightningArgumentParser

from smalti.cli.recipes import BUILDERS, OPTIMIZERS
from smalti.tokenizers import bottlenecks

_FIT = """Train a tokenizer. A recipe (-c) is a YAML file with settings; `smalti recipes` lists the installed ones.
Options override recipes, and later recipes override earlier ones.

Examples:
  # on your own photos
  smalti fit -c quickstart.yaml --data.train my/photos --data.validation my/val
  # with another quantizer
  smalti fit -c my-recipe.yaml --model.tokenizer.bottleneck FSQ --model.tokenizer.bottleneck.levels [8,8,8,5,5,5]
  # on several GPUs
  smalti fit -c wetok/f16.yaml --data.train my/photos --data.validation my/val --trainer.devices 8
  # resume a run that was interrupted, and extend one that has finished
  smalti fit --ckpt_path runs/version_0/checkpoints/last.ckpt
  smalti fit --ckpt_path runs/version_0/checkpoints/last.ckpt --trainer.max_steps 500000
  # resume the run that saved last, from its newest checkpoint that can be read
  smalti fit --ckpt_path last-good
  # with a tokenizer that uses classes of your own
  smalti fit -c my-recipe.yaml --import my_package.my_module
  # with a recipe that you do not trust: refuse shards that are commands (pipe:) and classes of other packages
  smalti fit -c their-recipe.yaml --untrusted
  # show all settings, and the options of a class
  smalti fit -c wetok/f16.yaml --print_config
  smalti fit --model.tokenizer.help wetok"""
_CHECK = """Check a recipe before a long run: run its first steps, with the GAN losses from the start, and write nothing.

Checks that every weighted loss trains the networks that it should and no others, that the optimizer changes every
network, that frozen parts do not change, and that all processes have the same weights and data. Prints a table of the
losses and an estimate of the memory. Takes the options of `smalti fit`, which does the same checks in its first steps.

Examples:
  smalti check -c quickstart.yaml
  smalti check -c wetok/f16.yaml --data.train my/photos --data.validation my/val --trainer.devices 8"""
_FIND = """Try learning rates for a recipe: train a few dozen steps with each, from the same start and on the same batches.

Prints the PSNR of the training batches in the last steps of each learning rate, and a suggestion as the option to paste.
Takes the options of `smalti fit`, and:
  --steps N    optimizer steps of each learning rate (default: 60)
  --rates A,B  the learning rates (default: eight, from 1/16 to 8 times that of the recipe)
Nothing is written. The schedule of the recipe is replaced by a short warm-up and a constant learning rate.

Examples:
  smalti find-lr -c quickstart.yaml
  smalti find-lr -c my-recipe.yaml --model.tokenizer.channels 16 --steps 100 --rates 3e-4,1e-3,3e-3"""
_MEASURE = """Measure a checkpoint on the {data} data of its run, and print the metrics. `smalti evaluate` measures more.

Examples:
  # as in training
  smalti {command} --ckpt_path runs/version_0/checkpoints/last.ckpt
  # on other data
  smalti {command} --ckpt_path runs/version_0/checkpoints/last.ckpt --data.validation my/val"""
_DESCRIPTIONS = {
    "fit": _FIT,
    "check": _CHECK,
    "find-lr": _FIND,
    "validate": _MEASURE.format(command="validate", data="validation"),
    "test": _MEASURE.format(command="test", data="test"),
}
_TITLES = {
    "model": "model: tokenizer, losses, optimizer (--model.NAME.help lists classes, --model.NAME.help CLASS its options)",
    "data": "data: where the images or videos are",
    "ema": "ema: moving average of the tokenizer's weights, which validation and export use",
    "checkpoint": "checkpoint: when to save",
    "visualization": "visualization: reconstructions that are written at each validation",
    "health": "health: baselines at each validation, and a sentence for each problem of a run",
    "statistics": "statistics: mean and standard deviation of each latent channel",
    "start": "start: how the weights of a new run are initialized",
    "warm_start": "warm_start: start from the weights of another tokenizer",
    "watch": "watch: end all processes if one of them fails or dies",
    "trainer": "trainer: Lightning's Trainer; its other options work too, see "
    "https://lightning.ai/docs/pytorch/stable/common/trainer.html",
}
_HELP = {
    "ckpt_path": "checkpoint to resume from, or to measure; without -c, the settings of its run are used. last-good or "
    "FOLDER/last-good: the newest checkpoint that can be read, of the run in FOLDER (default: runs) that saved last",
    "config": "recipe: a YAML file, or the name of an installed recipe; repeat the option to combine recipes",
    "print_config": "print all settings and exit",
    "seed_everything": "seed for weights, data order, crops and noise",
    "data": "class of the data module; most recipes set it. Its most common options are --data.train and --data.validation "
    "(a folder, shards such as 'photos-{000..099}.tar', or a URL), --data.size, --data.batch_size, --data.workers and "
    "--data.repeats.",
    "model.tokenizer": "the tokenizer: wetok, uniwetok, onevae, ltx, cosmos, or a class path. Common options: "
    "--model.tokenizer.stride and --model.tokenizer.bottleneck.",
    "model.weights": "weights of the losses by name, such as --model.weights.l1 1.0: l1, mse, the names in losses, "
    "adversarial, lecam, and the losses of the bottleneck (kl, commitment, token_entropy, codebook_entropy).",
    "model.losses": "further losses by name, such as --model.losses.perceptual PerceptualLoss.",
    "model.latent_augmentations": "augmentations of latents by name",
    "model.gan": "the discriminator and its losses, such as --model.gan GANLoss --model.gan.start 1000; null: no GAN loss.",
    "model.optimizer": "the optimizer, such as --model.optimizer AdamW --model.optimizer.lr 1e-4.",
    "model.scheduler": "the learning rate schedule, stepped once per optimizer step; null: a constant learning rate.",
    "model.frozen": "parts that are not trained: encoder, bottleneck, decoder, or modules in them, such as decoder.conv_in",
    "model.gradient_checkpointing": "recompute activations in the backward pass: less memory, a third more time",
    "model.compile": "compile encoder, decoder and discriminator with torch.compile",
    "health.samples": "training samples for the linear codec; 0: none",
    "health.diagnose": "whether to look for problems",
    "start.samples": "training samples of each kind to fit to",
    "warm_start.transfer": "load the weights that fit from another architecture of the OneVAE family, and log a summary",
    "watch.timeout": "seconds without a sign of life after which a rank is dead",
    "trainer.accelerator": "cpu, gpu, mps or auto",
    "trainer.devices": "number of devices, or a list of indices such as [0,2]",
    "trainer.num_nodes": "number of machines",
    "trainer.strategy": "ddp for several devices; fsdp2 shards the weights over them",
    "trainer.precision": "32-true, bf16-mixed, 16-mixed, or auto (the fastest)",
    "trainer.max_steps": "optimizer steps of the run; -1: no limit",
    "trainer.max_time": "stop after this time, as DD:HH:MM:SS",
    "trainer.accumulate_grad_batches": "batches per optimizer step",
    "trainer.gradient_clip_val": "maximum norm of the gradients of each network",
    "trainer.val_check_interval": "batches between validations",
    "trainer.check_val_every_n_epoch": "epochs between validations; null: count batches across epochs",
    "trainer.log_every_n_steps": "steps between points of the curves",
    "trainer.logger": "class of the logger; TensorBoardLogger writes to runs/version_N; false: no logger and no folder",
    "trainer.callbacks": "further callbacks",
    "trainer.enable_progress_bar": "print lines with the progress",
}
"""Texts that replace those of Lightning and longer ones of ours. Other options of the trainer are not listed."""
_MAX_CLASSES = 15
"""Longer lists of classes are not part of the help."""
_BASE_CLASSES = (
    *("Bottleneck", "Decoder", "Encoder", "LibraryAdapter", "Quantizer", "SignQuantizer"),
    *("LightningDataModule", "SourceData", "TrainingData"),
    *("DummyLogger", "LRScheduler", "Optimizer"),
)


class _Formatter(DefaultHelpFormatter):
    """Keeps the lines of the description, and shows types only where they say something."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "".join(indent + line for line in text.splitlines(keepends=True))

    def _get_help_string(self, action: Action) -> str:
        text = action.help or ""
        if action.default not in (None, SUPPRESS) and not _class_paths(action):
            text += " (default: %(default)s)"
        classes = [path.rpartition(".")[2] for path in _class_paths(action)]
        if 1 < len(classes) <= _MAX_CLASSES and not action.dest.startswith("trainer."):
            text += f" Classes: {', '.join(classes)}."
        return text


class TrainingParser(LightningArgumentParser):
    """Parser with a short help. It also prints the options of a class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"formatter_class": _Formatter, "usage": SUPPRESS} | kwargs)

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return the help without options that load a section from a file or show the options of a class.

        Options are hidden only now: jsonargparse leaves hidden options out of the settings that it saves.
        """
        for action in self._actions:
            is_technical = (
                isinstance(action, (_ActionHelpClassPath, _ActionConfigLoad)) or action.dest == "weights_only"
            )
            if is_technical or (action.dest.startswith("trainer.") and action.dest not in _HELP):
                action.help = SUPPRESS
        visible = [g for g in self._action_groups if any(a.help != SUPPRESS for a in g._group_actions)]
        self._action_groups = visible  # pyright: ignore[reportAttributeAccessIssue]
        return super().format_help(*args, **kwargs)


def arrange_help(parser: LightningArgumentParser, command: str) -> None:
    """Replace the description, the titles and the texts of a parser's help, and hide what few people need."""
    parser.usage = f"smalti {command} -c RECIPE [-c RECIPE ...] [options]"
    parser.description = _DESCRIPTIONS[command]
    for name, group in (parser.groups or {}).items():
        group.title = _TITLES.get(name, group.title)
    for action in parser._actions:
        if isinstance(action, _ActionHelpClassPath):
            _replace_class_help(action)
        elif action.dest in _HELP:
            action.help = _HELP[action.dest]
    # Lightning puts the arguments of Trainer.fit last, of which only the checkpoint is listed.
    general = parser._optionals
    order = list(_HELP)
    (trainer,) = (group for group in parser._action_groups if group.title == _TITLES["trainer"])
    trainer._group_actions.sort(key=lambda a: order.index(a.dest) if a.dest in order else -1)
    (checkpoint,) = (action for action in parser._actions if action.dest == "ckpt_path")
    general._group_actions.append(checkpoint)
    groups = [g for g in parser._action_groups if g is not general and checkpoint not in g._group_actions]
    parser._action_groups = [general, *groups]  # pyright: ignore[reportAttributeAccessIssue]


# Help of a class: --model.tokenizer.help, --data.help ImageData


def _replace_class_help(action: Any) -> None:
    """Make an option list the classes if no name is given, and accept the functions that build tokenizers."""
    action.nargs = "?"
    show_class = action.print_help

    def print_help(call: tuple[Any, ...]) -> None:
        parser, _, value, option = call
        for name in bottlenecks.__all__:
            getattr(bottlenecks, name)  # some are imported on first use, and only imported classes are listed
        builders = BUILDERS if action.dest == "model.tokenizer.help" else {}
        paths = [*builders.values(), *_class_paths(action)]
        if value is None and len(paths) > 1:
            print(_list_classes(option, paths))
            parser.exit()
        elif value in builders:
            shown = TrainingParser(description=f"Help for {option}={value}", add_help=False)
            shown.add_function_arguments(import_object(builders[value]), option[2:].removesuffix(".help"))
            shown.print_help()
            parser.exit()
        else:
            show_class(call)

    action.print_help = print_help


def _list_classes(option: str, paths: list[str]) -> str:
    """Return the names of classes, each with the first sentence of its docstring."""
    lines = []
    for path in dict.fromkeys(paths):
        try:
            summary = (inspect.getdoc(import_object(path)) or "").split("\n")[0]
        except (ImportError, AttributeError):  # its module has been removed or reloaded
            continue
        lines.append(f"  {path.rpartition('.')[2]:<24} {summary}".rstrip())
    return "\n".join([*lines, "", f"`smalti fit {option} NAME` shows the options of one of them."])


def _class_paths(action: Any) -> list[str]:
    """Return the paths of the classes that an option accepts, without base classes."""
    typehint = getattr(action, "_typehint", None)
    paths = [] if typehint is None else get_all_subclass_paths(typehint, closed_types=False)
    names = {path: path.rpartition(".")[2] for path in paths}
    return [path for path, name in names.items() if name not in _BASE_CLASSES and OPTIMIZERS.get(name, path) == path]
