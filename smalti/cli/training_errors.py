"""One sentence for each mistake in the settings of a training run, with the nearest valid name.

jsonargparse reports every type that it has tried, with the complete value. Most people misspelled one word.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module

from jsonargparse import ArgumentParser
from jsonargparse._typehints import get_all_subclass_paths

from smalti.errors import MissingExtraError
from smalti.extensions import is_untrusted, refuse_code, trusted_packages

_KEY = re.compile(r'Parser key "([^"]+)"')
_CLASS = re.compile(r"class_path(?: |=|': )'([\w.]+)'")
_EXTRAS = {"bitsandbytes": "Optimizers with a state in 8 bits"}
"""Optional packages whose classes a recipe may name, which are also the names of their extras, and what needs them."""
_TYPES = {"int": "an integer", "float": "a number", "bool": "true or false", "str": "a text", "list": "a list"}


def explain_error(message: str, parser: ArgumentParser) -> str:
    """Return one sentence for an error of jsonargparse.

    Args:
        message: message of the error.
        parser: parser of the command, which knows the valid names.
    """
    text = " ".join(message.split())
    for explain in (
        _explain_untrusted,
        _explain_base_class,
        _explain_option,
        _explain_missing_value,
        _explain_argument,
        _explain_required,
        _explain_value,
        _explain_extra,
        _explain_class,
    ):
        sentence = explain(text, parser)
        if sentence is not None:
            return sentence
    return text


def _explain_untrusted(text: str, parser: ArgumentParser) -> str | None:
    """Explain a class that `--untrusted` refuses."""
    match = re.search(r"Importing '([^']+)' is not allowed", text)
    if match is None or not is_untrusted():
        return None
    return str(refuse_code(f"{_place(text)}: the class {match[1]}", f"classes of {', '.join(trusted_packages())}"))


def _explain_base_class(text: str, parser: ArgumentParser) -> str | None:
    """Explain a class that does not derive from the base class of its setting."""
    match = re.search(r"Import path (?:(\S+) )?does not correspond to a subclass of (\w+)", text)
    if match is None:
        return None
    given = re.search(r"Given value: (\S+)", text[match.end() :])  # has the class if the match omits it
    name = match[1] or (given[1] if given else "the class")
    packages = ("smalti.trainers", "smalti.tokenizers.bottlenecks", "smalti.tokenizers", "smalti.data")
    exporters = [package for package in packages if match[2] in import_module(package).__all__]
    base = ".".join([*exporters[:1], match[2]])
    return f"{_place(text)}: {name} is not a {match[2]}. Derive it from {base}."


def _explain_option(text: str, parser: ArgumentParser) -> str | None:
    """Explain an option, or a section or setting of a recipe, that does not exist."""
    match = re.search(r"unrecognized arguments: (\S+)", text) or re.search(r"does not accept option '([^']+)'", text)
    if match is None:
        return None
    wrong = match[1].partition("=")[0]
    names = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
    names = [name for name in names if not name.endswith((".help", "+"))]
    if wrong.startswith("-"):
        # The options of a class are parsed without their prefix.
        typed = next((a.partition("=")[0] for a in sys.argv if a.partition("=")[0].endswith(wrong.lstrip("-"))), wrong)
        return f"There is no option {typed}{_suggest(typed, names)}."
    # A wrong section of a recipe is reported with all that it contains.
    settings = {name.removeprefix("--") for name in names}
    sections = {name.partition(".")[0] for name in settings}
    section = wrong.partition(".")[0]
    if section not in sections:
        return f"There is no section '{section}' in a recipe{_suggest(section, sections)}."
    parts = wrong.split(".")
    while len(parts) > 2 and ".".join(parts[:-1]) not in settings:
        parts.pop()
    return f"There is no setting '{'.'.join(parts)}'{_suggest('.'.join(parts), settings)}."


def _explain_missing_value(text: str, parser: ArgumentParser) -> str | None:
    """Explain an option without a value."""
    match = re.search(r"argument (\S+): expected (?:one|at least one) argument", text)
    if match is None:
        return None
    option = sys.argv[-1] if sys.argv[-1].startswith(match[1]) else match[1]
    return f"{option} has no value: add {'the name of a class' if option.endswith('.help') else 'one'} after it."


def _explain_argument(text: str, parser: ArgumentParser) -> str | None:
    """Explain an argument that a class does not have."""
    match = re.search(r"Option '([^']+)' is not accepted", text)
    if match is None:
        return None
    path = _last(_CLASS.findall(text[: match.start()])) or _last(_CLASS.findall(text))
    names = _argument_names(path)
    where = _place(text[: match.start()])
    owner = f"{path.rpartition('.')[2]} " if path else "It "
    return f"{where} has no argument '{match[1]}'{_suggest(match[1], names)}." + (
        f" {owner}has {', '.join(names)}." if names else ""
    )


def _explain_required(text: str, parser: ArgumentParser) -> str | None:
    """Explain an argument that is missing."""
    match = re.search(r"the following arguments are required: ([\w., ]*\w)", text)
    if match is None:
        return None
    place = _place(text[: match.start()], otherwise="")
    names = [name.strip().removeprefix(f"{parser.prog.split()[-1]}.") for name in match[1].split(",")]
    options = [f"--{place}.{name}" if place else f"--{name}" for name in names]
    verb, pronoun = ("is", "it") if len(options) == 1 else ("are", "them")
    return f"{' and '.join(options)} {verb} missing: set {pronoun} in a recipe or on the command line."


def _explain_value(text: str, parser: ArgumentParser) -> str | None:
    """Explain a value of a wrong type."""
    value = re.search(r"(?:Given value: |Got value: )(?!Namespace|NestedArg|\{)(\S+?)\.?(?: |$)", text)
    if value is None:
        return None
    choices = [choice for kind in re.findall(r"Literal\[([^\]]*)\]", text) for choice in re.findall(r"'([^']*)'", kind)]
    place = _place(text, otherwise="A setting")
    if choices:
        choices = list(dict.fromkeys(choices))
        return f"{place} is '{value[1]}'{_suggest(value[1], choices)}. Valid values are {', '.join(choices)}."
    kinds = [_TYPES[name] for name in dict.fromkeys(re.findall(r"Expected a <class '(\w+)'>", text)) if name in _TYPES]
    return f"{place} is '{value[1]}': give {' or '.join(kinds)}." if kinds else None


def _explain_extra(text: str, parser: ArgumentParser) -> str | None:
    """Explain an optimizer of a package that is not installed."""
    match = re.search(rf"No module named '({'|'.join(_EXTRAS)})'", text)
    return None if match is None else str(MissingExtraError(match[1], match[1], _EXTRAS[match[1]]))


def _explain_class(text: str, parser: ArgumentParser) -> str | None:
    """Explain the name of a class that does not exist."""
    match = re.search(r"Expected a dot import path string: ([\w.]+)", text) or re.search(
        r"(?:No module named|has no attribute|Unable to import|cannot import name) .*?'?([\w.]+)'?", text
    )
    if match is None:
        return None
    names = {path.rpartition(".")[2] for action in parser._actions for path in _subclasses(action)}
    for package in ("tokenizers", "tokenizers.bottlenecks", "trainers", "data"):
        names |= set(import_module(f"smalti.{package}").__all__)
    wrong = match[1].rpartition(".")[2]
    return (
        f"{_place(text)}: there is no class '{match[1]}'{_suggest(wrong, names)}. Import your own class with --import."
    )


def _place(text: str, otherwise: str = "The recipe") -> str:
    """Return the path of the setting that a message is about: "model.tokenizer.bottleneck"."""
    nested = re.search(r"NestedArg\(key='(\w+)', val='[A-Z]", text)
    return ".".join([*_KEY.findall(text), *([nested[1]] if nested else [])]) or otherwise


def _suggest(wrong: str, names: Iterable[str]) -> str:
    """Return ": did you mean ...?" without the question mark if a name is similar, else an empty string."""
    candidates = {name.lower(): name for name in names if not wrong.startswith(f"{name}.")}
    close = get_close_matches(wrong.lower(), candidates, n=1, cutoff=0.6)
    return f" (did you mean {candidates[close[0]]}?)" if close else ""


def _argument_names(path: str | None) -> list[str]:
    """Return the names of the arguments of a class or function that Smalti or torch defines; empty if it is unknown."""
    if path is None or "." not in path:
        return []
    module, _, name = path.rpartition(".")
    try:
        parameters = inspect.signature(getattr(import_module(module), name)).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
    filled_in = ("params", "optimizer")  # by the training
    return [
        name
        for name, p in parameters.items()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and name not in filled_in
    ]


def _subclasses(action: object) -> list[str]:
    typehint = getattr(action, "_typehint", None)
    is_lightnings = getattr(action, "dest", "").startswith("trainer.")
    return [] if typehint is None or is_lightnings else get_all_subclass_paths(typehint)


def _last(items: list[str]) -> str | None:
    return items[-1] if items else None
