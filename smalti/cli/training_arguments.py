"""The arguments of the training commands before Lightning parses them: recipes, and checks that are fast.

Importing Lightning takes seconds. What can be checked without it is checked here first.
"""

from __future__ import annotations

from pathlib import Path

from smalti.cli.last_good import KEYWORD, find_last_good, find_requeued
from smalti.cli.precision import AUTO, fastest_precision
from smalti.cli.recipes import BUILDERS, OPTIMIZERS, TORCH_OPTIMIZERS, Recipe, format_recipe, load_recipes
from smalti.cli.run_folder import CONFIG, find_run
from smalti.errors import SmaltiError

_CONFIG_OPTIONS = ("-c", "--config")
_OPTIMIZER_OPTIONS = ("--model.optimizer", "--model.optimizer.class_path")
_ADAM_ARGUMENTS = ("lr", "betas", "eps", "weight_decay")
"""Arguments that mean the same in Adam and in its variants with 8 bits."""
_SHORT_NAMES = {
    **dict.fromkeys(("--model.tokenizer", "--model.tokenizer.class_path"), BUILDERS),
    **dict.fromkeys(_OPTIMIZER_OPTIONS, TORCH_OPTIMIZERS),
    "--model.optimizer.help": {**TORCH_OPTIMIZERS, **OPTIMIZERS},
}
"""Options whose values may be short names that jsonargparse does not know, and the paths of these names."""
_INFORMATIVE_OPTIONS = ("-h", "--help", "--print_config")
_KEYWORDS = ("last", "best", "hpc", "registry")
"""What Lightning accepts as a checkpoint besides a path."""


def prepare_arguments(command: str, arguments: list[str]) -> list[str]:
    """Replace all recipes with one merged recipe, written inline as the first option: other options override recipes.

    Without a recipe, the settings of the run that wrote the checkpoint are used. The result can be prepared again. The
    processes that DDP launches do so.

    Args:
        command: fit, check, validate or test.
        arguments: the arguments after the command's name.

    Raises:
        SmaltiError: a recipe or the checkpoint does not exist, or model or data is missing.
    """
    names, options = split_options(arguments, *_CONFIG_OPTIONS)
    recipes = [name or "" for name in names]
    options = _expand_names(options)
    checkpoint, options = _resolve_checkpoint(command, recipes, options)
    run = find_run(checkpoint)
    if not recipes and run is not None:
        recipes = [str(run / CONFIG)]
    recipe = load_recipes(*recipes)
    optimizer, options = _split_optimizer(options, recipe)
    if optimizer is not None:
        recipes.append(optimizer)
        recipe = load_recipes(*recipes)
    set_options = [option.partition("=")[0] for option in options if option.startswith("-")]
    if not any(option in _INFORMATIVE_OPTIONS or option.endswith(".help") for option in set_options):
        _check_checkpoint(command, checkpoint)
        _check_sections(recipe, set_options)
    options = _resolve_precision(recipe, options)
    return ["-c", format_recipe(recipe), *options] if recipes else options


def _resolve_precision(recipe: Recipe, options: list[str]) -> list[str]:
    """Replace the precision auto, in the recipe and the options, with the one that is fastest here.

    The configuration of the run then contains the precision itself, with which it is resumed anywhere.

    Returns:
        The options.
    """
    given, others = split_options(options, "--trainer.precision")
    trainer = recipe.get("trainer") or {}
    precision = given[-1] if given else trainer.get("precision")
    if precision is None:
        return options
    if precision == AUTO:
        accelerators, _ = split_options(options, "--trainer.accelerator")
        accelerator = accelerators[-1] if accelerators else trainer.get("accelerator")
        precision = fastest_precision(accelerator or "auto")
    if "precision" in trainer:
        trainer["precision"] = precision
    return [*others, "--trainer.precision", precision] if given else options


def split_options(arguments: list[str], *names: str) -> tuple[list[str | None], list[str]]:
    """Split arguments into the values of some options, given as "--name value" or "--name=value", and all others.

    Args:
        arguments: the arguments after the command's name.
        names: names of the options.

    Returns:
        The values in order, None for an option at the end without a value; and the other arguments.
    """
    values: list[str | None] = []
    others: list[str] = []
    iterator = iter(arguments)
    for argument in iterator:
        option, equals, value = argument.partition("=")
        if option in names:
            values.append(value if equals else next(iterator, None))
        else:
            others.append(argument)
    return values, others


def _resolve_checkpoint(command: str, recipes: list[str], options: list[str]) -> tuple[str | None, list[str]]:
    """Return the checkpoint, with the path that the keyword "last-good" stands for, and the options with this path.

    A SLURM job that was requeued resumes its own run if no checkpoint is given.
    """
    checkpoints, others = split_options(options, "--ckpt_path")
    given = checkpoints[-1] if checkpoints else None
    if given is not None and Path(given).name == KEYWORD:
        folder = Path(given).parent if Path(given) != Path(KEYWORD) else _runs_folder(recipes, options)
        resolved = find_last_good(folder)
    elif given is None and command == "fit":
        resolved = find_requeued(_runs_folder(recipes, options))
    else:
        resolved = None
    return (given, options) if resolved is None else (str(resolved), [*others, "--ckpt_path", str(resolved)])


def _runs_folder(recipes: list[str], options: list[str]) -> Path:
    """Return the folder in which the logger creates the folders of runs: `runs` unless the recipe or an option sets it."""
    values, _ = split_options(options, "--trainer.logger.save_dir", "--trainer.logger.init_args.save_dir")
    recipe = load_recipes(*recipes)
    logger = (recipe.get("trainer") or {}).get("logger")
    arguments = logger.get("init_args") or {} if isinstance(logger, dict) else {}
    return Path((values[-1] if values else None) or arguments.get("save_dir") or "runs")


def _expand_names(options: list[str]) -> list[str]:
    """Replace the short names of functions that build tokenizers with their paths, as in recipes."""
    expanded = list(options)
    for index, (previous, word) in enumerate(zip(["", *options], options, strict=False)):
        option, equals, value = word.partition("=")
        if option in _SHORT_NAMES and equals:
            expanded[index] = f"{option}={_SHORT_NAMES[option].get(value, value)}"
        elif previous in _SHORT_NAMES:
            expanded[index] = _SHORT_NAMES[previous].get(word, word)
    return expanded


def _split_optimizer(options: list[str], recipe: Recipe) -> tuple[str | None, list[str]]:
    """Return an optimizer of `OPTIMIZERS` as a recipe, which replaces that of the recipe with all its arguments.

    Otherwise, jsonargparse would keep arguments of the same name: the learning rate of Muon is no learning rate of Adam.
    Adam with its state in 8 bits keeps the arguments of Adam.

    Returns:
        A recipe, None without such an option; and the other options.
    """
    names, others = split_options(options, *_OPTIMIZER_OPTIONS)
    name = names[-1] if names else None
    if name is None or name not in OPTIMIZERS:
        return None, options
    optimizer: Recipe = {"class_path": name}
    previous = (recipe.get("model") or {}).get("optimizer") or {}
    if name.endswith("8bit") and str(previous.get("class_path")).rpartition(".")[2] in ("Adam", "AdamW"):
        arguments = previous.get("init_args") or {}
        optimizer["init_args"] = {key: arguments[key] for key in _ADAM_ARGUMENTS if key in arguments}
    return format_recipe({"model": {"optimizer": optimizer}}), others


def _check_checkpoint(command: str, checkpoint: str | None) -> None:
    """Check that the checkpoint exists, and that a command that measures has one.

    Raises:
        SmaltiError: it does not.
    """
    if checkpoint is None and command in ("validate", "test"):
        raise SmaltiError(f"`smalti {command}` measures trained weights: pass --ckpt_path.")
    if checkpoint is not None and checkpoint not in _KEYWORDS and not Path(checkpoint).is_file():
        raise SmaltiError(f"There is no checkpoint {checkpoint}: check the path of --ckpt_path.")


def _check_sections(recipe: Recipe, options: list[str]) -> None:
    """Check that there is a model, and that there is data.

    Raises:
        SmaltiError: the sentence says how to add it.
    """
    if "model" not in recipe and not _is_set("model", options):
        raise SmaltiError(
            "No model is given: pass a recipe, such as -c wetok/f16.yaml (`smalti recipes` lists the installed ones), or "
            "resume a run with --ckpt_path."
        )
    if recipe.get("data") is None and not _is_set("data", options):
        raise SmaltiError(
            "No data is given: pass --data.train PATH --data.validation PATH with a model recipe, or your own recipe with "
            "a data section."
        )


def _is_set(name: str, options: list[str]) -> bool:
    """Return whether an option sets a setting or a part of it."""
    return any(option == f"--{name}" or option.startswith(f"--{name}.") for option in options)
