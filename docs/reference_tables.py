"""Make the pages of reference/: commands, settings and recipes from the code, extras from pyproject.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from docstring_parser import parse

from actionfusion.command_line import _parser
from actionfusion.commands import COMMANDS, RECIPE_COMMANDS
from actionfusion.models import MODELS, model_class
from actionfusion.models.model_settings import ModelSettings
from actionfusion.recipes import recipe_names, recipe_path
from actionfusion.training.recipe import Recipe, recipe_kinds
from actionfusion.training.stages import Stage
from actionfusion.training.train import train

ROOT = Path(__file__).parent.parent
EXTRAS = {
    "int8": "`--precision int8`, calibrated on a run's own clips",
    "lite": "ImageNet weights of EfficientNet-Lite0 for the recipe `small`, 17 MB, from a package",
    "onnx": "`export --format onnx`, `--runtime onnx`",
    "openvino": "`export --format openvino`, `--runtime openvino`: the fastest on CPUs here",
    "parquet": "tables of videos and manifests as Parquet",
    "ray": "`check --ray` and `prepare --ray` on a cluster",
    "remote": "videos and stores at addresses, with the package of each kind, such as `s3fs`",
    "serve": "a web page and an HTTP API",
    "tensorboard": "`--training.tensorboard true`",
    "timm": "any backbone of timm as `timm:NAME`; brings torchvision",
    "docs": "builds these pages",
    "dev": "all of the above but `timm`, and what tests need",
}


def commands() -> str:
    """Show every command with its arguments."""
    return "\n\n".join(map(_command, COMMANDS))


def _command(name: str) -> str:
    function = getattr(import_module(COMMANDS[name].module), name)
    docstring = parse(function.__doc__ or "")
    parser = _parser(name, function, recipe_kinds(Recipe.model) if name in RECIPE_COMMANDS else {})
    own = [action for action in parser._actions if _is_value(action)]
    settings = _recipe_settings() if name in RECIPE_COMMANDS else set()
    arguments = [action for action in own if action.dest not in settings]
    described = {part.arg_name: part.description for part in docstring.params}
    words = [_usage(action) for action in arguments if not action.option_strings]
    lines = [
        f"## {name}",
        "",
        _prose(docstring.short_description or ""),
        "",
        f"    actionfusion {' '.join([name, *words])} [OPTIONS]",
        "",
    ]
    if docstring.long_description:
        lines += [_prose(docstring.long_description), ""]
    lines += ["| argument | takes | default | meaning |", "|---|---|---|---|"]
    for action in arguments:
        if action.dest == "help":
            continue
        flag = action.option_strings[0] if action.option_strings else _usage(action)
        is_switch = type(action).__name__ == "ActionYesNo"
        takes = "" if is_switch else _kind(getattr(action, "_typehint", action.type))
        default = "" if is_switch or action.required else _value(action.default)
        if name in RECIPE_COMMANDS and action.dest == "config":
            default = ""
        lines.append(f"| `{flag}` | {takes} | {default} | {_prose(action.help or described.get(action.dest) or '')} |")
    if name in RECIPE_COMMANDS:
        lines += ["", "Every [setting of a recipe](settings.md) is a flag too, such as `--training.batch_size 4`."]
    return "\n".join(lines)


def _usage(action: Any) -> str:
    word = action.dest.upper()
    return {"?": f"[{word}]", "+": f"{word}..."}.get(action.nargs, word)


@cache
def _recipe_settings() -> set[str]:
    parser = _parser("train", train, recipe_kinds(Recipe.model))
    names = {action.dest for action in parser._actions}
    return {name for name in names if name.split(".")[0] in {field.name for field in fields(Recipe)}}


def settings() -> str:
    """Show every setting of a recipe, but for those of the models."""
    parser = _parser("train", train, recipe_kinds(Recipe.model))
    shown: dict[str, list[str]] = {"": []}
    for action in parser._actions:
        section = action.dest.partition(".")[0] if "." in action.dest else ""
        if action.dest in _recipe_settings() and section != "network" and _is_value(action):
            shown.setdefault(section, []).append(_setting(action.dest, action))
    blocks = [_table(f"## {section or 'Top level'}", rows) for section, rows in shown.items()]
    meanings = {part.arg_name: part.description or "" for part in parse(Stage.__doc__ or "").params}
    default = Stage(learning_rate=0.001, max_epochs=1)
    lines = ["### An entry of training.stages", "", "| setting | default | meaning |", "|---|---|---|"]
    for field in fields(Stage):
        value = "" if field.name in {"learning_rate", "max_epochs"} else _value(getattr(default, field.name))
        lines.append(f"| `{field.name}` | {value} | {_prose(meanings[field.name])} |")
    return "\n\n".join([*blocks, "\n".join(lines)])


def model_settings() -> str:
    """Show the settings of each model that are its own."""
    common = {field.name for field in fields(ModelSettings)}
    meanings = {part.arg_name: part.description or "" for part in parse(ModelSettings.__doc__ or "").params}
    rows = [f"| `network.{name}` | {_prose(text)} |" for name, text in meanings.items() if name in common]
    blocks = ["\n".join(["| setting of every model | meaning |", "|---|---|", *rows])]
    for model in MODELS:
        parser = _parser("train", train, recipe_kinds(model))
        default = model_class(model).Settings()
        own = [
            action
            for action in parser._actions
            if action.dest.startswith("network.") and _is_value(action) and action.dest.split(".")[1] not in common
        ]
        for action in own:
            action.default = getattr(default, action.dest.split(".")[1])
        blocks.append(_table(f"### {model}", [_setting(action.dest, action) for action in own]))
    return "\n\n".join(blocks)


def _table(title: str, rows: list[str]) -> str:
    return "\n".join([title, "", "| setting | takes | default | meaning |", "|---|---|---|---|", *rows])


def _is_value(action: Any) -> bool:
    return type(action).__name__ not in {"_ActionConfigLoad", "_ActionHelpClassPath"}


def _setting(name: str, action: Any) -> str:
    kind = getattr(action, "_typehint", action.type)
    if name == "training.stages":
        return f"| `{name}` | a list, see below | the paper's two | {_prose(action.help)} |"
    return f"| `{name}` | {_kind(kind)} | {_value(action.default)} | {_prose(action.help or '')} |"


def _kind(kind: Any) -> str:
    """Name what a type takes, in words."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inside)
    if origin in (Union, UnionType):
        words = list(dict.fromkeys(_kind(part) for part in inside if part is not NoneType))
        return " or ".join(words)
    if origin is tuple:
        return f"a list: {_kind(inside[0])}"
    names = {str: "text", int: "integer", float: "number", bool: "`true`, `false`", Path: "path"}
    return names.get(kind, "text") if not is_dataclass(kind) else "a section"


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`" if str(value) else ""


def _prose(text: str) -> str:
    """Put a docstring's text on one line of Markdown."""
    line = " ".join(text.replace("``", "`").split()).replace("|", "\\|")
    parts = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([*<])", r"\\\1", part) for part in parts)


def recipes() -> str:
    """Show every recipe, with the meaning of each line."""
    return "\n\n".join(map(_recipe, recipe_names()))


def _recipe(name: str) -> str:
    lines = recipe_path(name).read_text(encoding="utf-8").splitlines()
    head = [line.removeprefix("#").strip() for line in lines if line.startswith("#")]
    about = " ".join(head).partition(": ")[2]
    rows = [f"| `{key}` | `{value}` | {_prose(meaning)} |" for key, value, meaning in _lines_of_recipe(lines)]
    return "\n".join(
        [
            f"## {name}",
            "",
            _prose(about[0].upper() + about[1:]),
            "",
            "| setting | value | meaning |",
            "|---|---|---|",
            *rows,
        ]
    )


def _lines_of_recipe(lines: list[str]) -> Iterator[tuple[str, str, str]]:
    """Read each line that sets a value: its full key, the value, and the comment behind it."""
    above: list[tuple[int, str]] = []
    entry = -1
    for line in lines:
        found = re.match(
            r"(?P<space>\s*(?P<dash>- )?)(?P<key>\w+):\s*(?P<value>[^#]*?)\s*(?:# (?P<meaning>.*))?$", line
        )
        if not found or line.startswith("#"):
            continue
        depth = len(found["space"])
        above = [(at, key) for at, key in above if at < depth]
        if found["dash"]:
            entry += 1
        if not found["value"]:
            above.append((depth, found["key"]))
            continue
        keys = [key for _, key in above]
        if keys and keys[-1] == "stages":
            keys[-1] = f"stages[{entry}]"
        yield ".".join([*keys, found["key"]]), found["value"], found["meaning"] or ""


def extras() -> str:
    """Show what each extra brings, and for what.

    Raises:
        KeyError: an extra of pyproject.toml has no meaning in ``EXTRAS``.
    """
    brought = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    lines = ["| extra | for | brings |", "|---|---|---|"]
    for extra in sorted(brought, key=list(EXTRAS).index):
        names = ", ".join(f"`{package}`" for package in brought[extra])
        lines.append(f"| `{extra}` | {EXTRAS[extra]} | {names} |")
    return "\n".join(lines)


def python_commands() -> str:
    """Name the function of each command, whose docstring the site shows in its place."""
    return "\n\n".join(f"::: {command.module}.{name}" for name, command in COMMANDS.items())


TABLES = {
    "commands": commands,
    "extras": extras,
    "model_settings": model_settings,
    "python_commands": python_commands,
    "recipes": recipes,
    "settings": settings,
}
