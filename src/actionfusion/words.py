"""The words of a command line, looked at before the parser sees them.

The parser would take ``--clip FILE`` or a value with ``class_path`` for a whole section, and read or import what they
name.  So a flag that is not a single setting is refused, and a list of settings is built by our own reader first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, get_args

from actionfusion.errors import WrongWord
from actionfusion.settings import build, nearest, parse_yaml, plain, setting_names


def checked_words(
    command: str, words: list[str], kinds: Mapping[str, Any], *, takes_recipes: bool
) -> tuple[list[str], list[str]]:
    """Return the words that are left for the parser, and the recipes among them.

    Args:
        command: its name.
        words: all that follow it.
        kinds: the command's named arguments with their types.
        takes_recipes: whether there is ``--config RECIPE``.

    Raises:
        WrongWord: an unknown flag, a section as a whole, or a list of settings that is none.
    """
    known = dict(setting_names(kinds)) | {f"no_{name}": bool for name, kind in kinds.items() if kind is bool}
    known |= {"help": bool} | ({"config": str} if takes_recipes else {})
    options: list[str] = []
    named: list[str] = []
    recipes: list[str] = []
    rest = iter(words)
    for word in rest:
        flag, equals, value = word.removeprefix("--").partition("=")
        if word == "--":
            named += _after_the_dashes(command, list(rest), known)
            continue
        if not word.startswith("--"):
            (options if word.startswith("-") and word != "-" else named).append(word)
            continue
        if flag not in known:
            raise _unknown(command, flag, known)
        is_recipe = flag == "config" and takes_recipes
        given = value if equals or _is_switch(flag, kinds) else next(rest, None)
        if given is None or not (is_recipe or _holds_settings(known[flag])):
            # Where its value is missing, the parser says so.
            options += [word] if equals or given is None or _is_switch(flag, kinds) else [word, given]
        elif is_recipe:
            recipes.append(given)
        else:
            values = parse_yaml(given, f"--{flag}", WrongWord, "give a list as JSON has it")
            built = build(known[flag], values, f"--{flag}", WrongWord, "correct it", within=flag)
            options += [f"--{flag}", json.dumps(plain(built))]
    # The parser wants words without a flag in one place; behind the dashes one may begin with a dash too.
    return [*options, *(["--", *named] if named else [])], recipes


def _is_switch(flag: str, kinds: Mapping[str, Any]) -> bool:
    """Tell whether a flag stands for itself and takes no value."""
    return flag == "help" or kinds.get(flag.removeprefix("no_")) is bool


def _after_the_dashes(command: str, words: list[str], known: Mapping[str, Any]) -> list[str]:
    for word in words:
        if word.removeprefix("--").partition("=")[0] in known and word.startswith("--") and not os.path.lexists(word):
            reason = "stands behind --, where no word is an argument with a name"
            raise WrongWord(word, reason, f"write it before --; see actionfusion {command} --help")
    return words


def _unknown(command: str, flag: str, known: Mapping[str, Any]) -> WrongWord:
    if inner := next((name for name in known if name.startswith(f"{flag}.")), None):
        return WrongWord(f"--{flag}", "is a group of settings", f"give them one by one, such as --{inner}")
    near = nearest(flag, known)
    remedy = f"did you mean {near}?" if near else f"see actionfusion {command} --help"
    return WrongWord(f"--{flag}", f"{command} has no such argument", remedy)


def _holds_settings(kind: Any) -> bool:
    return is_dataclass(kind) or any(map(_holds_settings, get_args(kind)))
