"""The command line: each command of the table is a typed function.

A function's signature and docstring are its flags and its help.  Nothing heavy is imported before a command is chosen.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from difflib import get_close_matches
from importlib import import_module
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from actionfusion.commands import COMMANDS, RECIPE_COMMANDS
from actionfusion.errors import ActionFusionError, WrongWord, printable
from actionfusion.process import was_stopped
from actionfusion.recipes import find_recipe, read_recipe
from actionfusion.settings import read_yaml, single_settings
from actionfusion.version import __version__
from actionfusion.words import checked_words

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_NO_VALUE_OF = {
    "int": "is no whole number",
    "float": "is no number",
    "bool": "is neither true nor false",
    "tuple": "is no list, which is written as [a,b]",
    "list": "is no list, which is written as [a,b]",
}


def run(words: Sequence[str]) -> int:
    """Run a command; the exit code is 0 if all went well, 1 if something failed, 2 for wrong usage."""
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if not words or words[0] not in COMMANDS:
        return _no_command(words)
    try:
        return _run(words[0], words[1:])
    except ActionFusionError as error:
        if debug or was_stopped():
            raise
        return _fail(f"error: {error}", 1)


def _no_command(words: list[str]) -> int:
    word = words[0] if words else ""
    if word in ("", "-h", "--help"):
        _out(_overview())
        return 0 if word else 2
    if word == "--version":
        _out(f"actionfusion {__version__}")
        return 0
    near = get_close_matches(word, COMMANDS, 1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(COMMANDS)}"
    return _fail(f"error: there is no command {word!r}; {hint}", 2)


def _run(name: str, words: list[str]) -> int:
    from jsonargparse import ArgumentError  # noqa: PLC0415

    function: Callable[..., Any] = getattr(import_module(COMMANDS[name].module), name)
    try:
        values = read_words(name, function, words)
    except (ArgumentError, WrongWord) as error:
        message = _in_plain_words(" ".join(str(error).split()))
        hint = "" if isinstance(error, WrongWord) else f"; see actionfusion {name} --help"
        return _fail(f"error: {message}{hint}", 2)
    result = function(**values)
    return 1 if getattr(result, "failed", False) is True else 0


def _in_plain_words(message: str) -> str:
    """Say what is wrong with a value, where jsonargparse names types of Python."""
    key, value = re.match(r'Parser key "(.+?)": ', message), re.search(r"(?:Got|Given) value: (.*)$", message)
    if not key or not value:
        return message
    choices = re.search(r"Literal\[(.+?)\]", message)
    kind = re.search(r"Expected a <class '(?!NoneType)(\w+)'>", message)
    if choices:
        wrong = f"is none of {choices[1].replace(chr(39), '')}"
    elif kind and kind[1] in _NO_VALUE_OF:
        wrong = _NO_VALUE_OF[kind[1]]
    else:
        return message
    return f"{key[1]}: {value[1]!r} {wrong}"


def read_words(name: str, function: Callable[..., Any], words: list[str]) -> dict[str, Any]:
    """Read the arguments of a command's function from its words, a recipe, and the run that is gone on with.

    Raises:
        ArgumentError: jsonargparse's; a value that an argument does not take, or one too many or too few.
        WrongWord: an argument that there is not.
        SettingsError: a recipe that cannot be read, or that sets what the command does not know.
    """
    kinds, given = _recipe_kinds(name, words), words
    parser, words, defaults = parser_and_words(name, function, words)
    parsed = parser.parse_args(words)
    if not kinds:
        return dict(vars(parser.instantiate(parsed)))
    from actionfusion.training.recipe import Recipe  # noqa: PLC0415

    if parsed.get("resume") and parsed.out is not None:
        # What the run records stands below the recipe and the words, so that those can be seen to contradict it.
        recorded = single_settings(kinds | {"device": str | None}, _recorded(parsed.out))
        parser.set_defaults(dict(recorded) | defaults)
        parsed = parser.parse_args(words)
    values = dict(vars(parser.instantiate(parsed)))
    values.pop("config")
    if root := values.get("root"):
        _refuse_other_root(root, _given(given, "data.root"))
    fields = {field: values.pop(field) for field in kinds}
    # What no recipe was named for is left to the command, which chooses the same one and says so.
    return values | (fields if _chosen_recipe(name, given) else {"recipe": Recipe(**fields)})


def _refuse_other_root(root: str, named: Sequence[str]) -> None:
    from actionfusion.training.chosen import differ  # noqa: PLC0415

    if others := [other for other in named if differ(root, other)]:
        raise WrongWord("--data.root", f"is {others[0]}, and {root} is given too", "give one of them")


def parser_and_words(
    name: str, function: Callable[..., Any], words: list[str]
) -> tuple[ArgumentParser, list[str], dict[str, Any]]:
    """Make a command's parser with the recipes among the words as defaults; give the other words, and what recipes set.

    Where no recipe is among them, that of the model is taken, or ``small``.  A later one stands above an earlier one,
    and a word above all, wherever it stands.
    """
    kinds, chosen = _recipe_kinds(name, words), _chosen_recipe(name, words)
    words, recipes = checked_words(name, words, kinds | _named(name, function), takes_recipes=bool(kinds))
    parser = _parser(name, function, kinds)
    recipes = [str(chosen)] if chosen else recipes
    model = _last_model(words) if chosen else None
    read = (read_recipe(recipe, kinds, model) for recipe in recipes)
    defaults = {key: value for values in read for key, value in single_settings(kinds, values)}
    parser.set_defaults(defaults)
    return parser, words, defaults


def _named(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """Find the arguments that are flags, with their types."""
    kinds = get_type_hints(function)
    return {
        part.name: kinds[part.name]
        for part in signature(function).parameters.values()
        if part.name != COMMANDS[name].optional
        and not (part.name == "recipe" and name in RECIPE_COMMANDS)
        and part.kind is not part.VAR_KEYWORD
        and (part.kind is part.KEYWORD_ONLY or part.default != part.empty)
    }


def _recipe_kinds(name: str, words: list[str]) -> dict[str, Any]:
    """Find the fields of a recipe with their types, by the model that a command line names; none of other commands.

    The model is named by a word, a recipe, or the run that is gone on with.
    """
    if name not in RECIPE_COMMANDS:
        return {}
    from actionfusion.training.recipe import Recipe, recipe_kinds  # noqa: PLC0415

    if models := _given(words, "model"):
        return recipe_kinds(models[-1])
    for recipe in reversed(_given(words, "config")):
        if model := read_yaml(find_recipe(recipe)).get("model"):
            return recipe_kinds(str(model))
    if "--resume" in words and (out := _given(words, "out")):
        return recipe_kinds(str(_recorded(out[-1])["model"]))
    return recipe_kinds(Recipe.model)


def _chosen_recipe(name: str, words: list[str]) -> Path | None:
    """Find the recipe for a command line that names none, and goes on with no run."""
    if name not in RECIPE_COMMANDS or "--resume" in words or _given(words, "config"):
        return None
    from actionfusion.training.chosen import recipe_of  # noqa: PLC0415

    return recipe_of(_last_model(words))


def _last_model(words: list[str]) -> str | None:
    return next(reversed(_given(words, "model")), None)


def _given(words: list[str], flag: str) -> list[str]:
    """List the values that a flag is given."""
    joined = [word.partition("=")[2] for word in words if word.startswith(f"--{flag}=")]
    return joined + [after for word, after in pairwise(words) if word == f"--{flag}"]


def _recorded(out: str) -> dict[str, Any]:
    from actionfusion.training.resume import recorded_values  # noqa: PLC0415

    return recorded_values(Path(out))


def _parser(name: str, function: Callable[..., Any], recipe: dict[str, Any]) -> ArgumentParser:
    """Make a command's parser: flags and help are the function's signature and docstring, with a recipe's fields."""
    from docstring_parser import parse as parse_docstring  # noqa: PLC0415
    from jsonargparse import ActionYesNo, ArgumentParser  # noqa: PLC0415

    command, docstring = COMMANDS[name], parse_docstring(function.__doc__ or "")
    meanings = {parameter.arg_name: parameter.description for parameter in docstring.params}
    kinds, parameters = get_type_hints(function), signature(function).parameters
    parser = ArgumentParser(
        prog=f"actionfusion {name}",
        description=docstring.short_description,
        exit_on_error=False,
        allow_abbrev=False,  # a misspelt name is answered with the right one, not taken for another
    )
    # jsonargparse would want `--json true` and a JSON list of files; a person types `--json` and `a.avi b.avi`.
    flags = [part for part, kind in kinds.items() if kind is bool and part in parameters]
    special: set[str | int] = {*flags, *([command.files] if command.files else [])}
    if command.optional:
        special.add(command.optional)
    if recipe:
        parser.add_argument("--config", type=str, help="a recipe: its name or a YAML file")
        special |= {"recipe", *(part for part, kind in parameters.items() if kind.kind is kind.VAR_KEYWORD)}
        _add_recipe(parser, recipe)
    parser.add_function_arguments(function, as_group=False, as_positional=True, skip=special)
    if command.optional:
        parser.add_argument(command.optional, nargs="?", type=str, help=meanings.get(command.optional))
    if command.files:
        parser.add_argument(command.files, nargs="+", type=str, help=meanings.get(command.files))
    for flag in flags:
        parser.add_argument(f"--{flag}", action=ActionYesNo, default=parameters[flag].default, help=meanings.get(flag))
    return parser


def _add_recipe(parser: ArgumentParser, kinds: dict[str, Any]) -> None:
    from docstring_parser import parse as parse_docstring  # noqa: PLC0415

    from actionfusion.training.recipe import Recipe  # noqa: PLC0415

    default = Recipe()
    meanings = {item.arg_name: item.description for item in parse_docstring(Recipe.__doc__ or "").params}
    for field, kind in kinds.items():
        if is_dataclass(kind):
            parser.add_class_arguments(kind, field)
        else:
            parser.add_argument(f"--{field}", type=kind, default=getattr(default, field), help=meanings.get(field))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    return (
        "usage: actionfusion COMMAND ...\n\nRecognise human actions in video.\n\n"
        f"{rows}\n\n`actionfusion COMMAND --help` shows a command's arguments; "
        "`--debug` shows where an error came from."
    )


def _out(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _fail(text: str, code: int) -> int:
    sys.stderr.write(f"{printable(text)}\n")
    return code
