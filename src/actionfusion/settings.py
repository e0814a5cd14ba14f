"""Settings that come from a file: plain values within bounds, and known dataclasses built of them.

A run folder, an export or a recipe may come from a stranger.  So nothing in it chooses what is imported or which other
file is read: YAML and JSON are read into mappings, lists, texts, numbers, true, false and null and nothing else, and
``build`` makes of them only the dataclass that the caller names, with the fields that it has.
"""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from actionfusion.errors import ActionFusionError, SettingsError

Kind = TypeVar("Kind")

YAML_BYTES = 256 << 10
JSON_BYTES = 4 << 20
EVALUATION_BYTES = 512 << 20
"""Of JSON with a probability of each class for each video."""
DEEPEST = 32
"""Levels of mappings and lists within each other."""
LONGEST_INTEGER = 20
"""Digits, which hold all 64 bits."""

CORRECT_IT = "correct the file"
CORRECT_LINE = "correct that line"


class _Fault(Exception):
    """What is wrong, before it is known in which file."""

    def __init__(self, reason: str, remedy: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


def read_yaml(
    path: Path, error: type[ActionFusionError] = SettingsError, remedy: str = CORRECT_IT, *, largest: int = YAML_BYTES
) -> dict[str, Any]:
    """Read the mapping that a YAML file holds.

    Args:
        path: the file.
        error: what is raised.
        remedy: what to do about a file that cannot be read.
        largest: bytes that it may have.

    Raises:
        ActionFusionError: ``error``; no file, too large, not UTF-8, no YAML, no mapping, or more than plain values.
    """
    value = parse_yaml(_bytes(path, error, remedy, largest), path, error, remedy, largest=largest)
    if not isinstance(value, dict):
        raise error(path, f"holds {_shown(value)} where names with values are wanted", remedy)
    return value


def read_json(
    path: Path,
    error: type[ActionFusionError] = SettingsError,
    remedy: str = CORRECT_IT,
    *,
    largest: int = JSON_BYTES,
    finite: bool = True,
) -> dict[str, Any]:
    """Read the mapping that a JSON file holds; arguments and errors are those of ``read_yaml`` and ``parse_json``."""
    value = parse_json(_bytes(path, error, remedy, largest), path, error, remedy, largest=largest, finite=finite)
    if not isinstance(value, dict):
        raise error(path, f"is damaged ({_shown(value)} where names with values are wanted)", remedy)
    return value


def parse_yaml(
    text: str | bytes,
    subject: object,
    error: type[ActionFusionError] = SettingsError,
    remedy: str = CORRECT_IT,
    *,
    largest: int = YAML_BYTES,
) -> Any:
    """Parse the plain value that a YAML text holds; ``subject`` is what the error names.

    Numbers are those of YAML 1.2 (``1e-5`` is one), and dates are texts.
    """
    try:
        loader = _Loader(_text(text, largest))
        try:
            node = loader.get_single_node()
            return None if node is None else _of_node(node)
        finally:
            loader.dispose()
    except (_Fault, yaml.YAMLError, RecursionError, ValueError) as fault:
        raise error(subject, f"cannot be read as plain YAML ({_line(fault)})", remedy) from fault


def parse_json(
    text: str | bytes,
    subject: object,
    error: type[ActionFusionError] = SettingsError,
    remedy: str = CORRECT_IT,
    *,
    largest: int = JSON_BYTES,
    finite: bool = True,
) -> Any:
    """Parse the plain value that a JSON text holds; ``subject`` is what the error names.

    Args:
        text: as read.
        subject: what it is from.
        error: what is raised.
        remedy: what to do about it.
        largest: bytes that it may have.
        finite: refuse ``NaN`` and ``Infinity``, which Python writes and JSON does not know.
    """
    try:
        value = json.loads(
            _text(text, largest),
            parse_int=_whole,
            parse_float=_number,
            parse_constant=_no_constant if finite else float,
            object_pairs_hook=_unlike,
        )
        _refuse_deep(value)
    except (_Fault, RecursionError, ValueError) as fault:
        raise error(subject, f"is damaged ({_line(fault)})", remedy) from fault
    return value


def _bytes(path: Path, error: type[ActionFusionError], remedy: str, largest: int) -> bytes:
    try:
        # A pipe or a device would give no end, or wait for one.
        if path.exists() and not path.is_file():
            raise error(path, "cannot be read (it is no file)", remedy)
        with path.open("rb") as file:
            return file.read(largest + 1)
    except (OSError, ValueError) as fault:
        reason = getattr(fault, "strerror", None) or _line(fault)
        raise error(path, f"cannot be read ({reason})", remedy) from fault


def _text(text: str | bytes, largest: int) -> str:
    if len(text) > largest:
        raise _Fault(f"more than {largest} bytes")
    try:
        return text.decode("utf-8-sig") if isinstance(text, bytes) else text
    except UnicodeDecodeError as fault:
        raise _Fault(f"no UTF-8 at byte {fault.start}") from fault


def _line(fault: BaseException) -> str:
    mark = getattr(fault, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}: {getattr(fault, 'problem', None) or getattr(fault, 'context', '')}"
    return " ".join(str(fault).split())[:200] or type(fault).__name__


class _Loader(yaml.SafeLoader):
    """YAML without aliases, anchors and tags, to a bounded depth."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML wants it so
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        at = f"line {event.start_mark.line + 1}"
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise _Fault(f"{at}: anchors and aliases (& and *) are not read")
        if getattr(event, "tag", None) is not None:
            raise _Fault(f"{at}: tags (!) are not read")
        if self.depth >= DEEPEST:
            raise _Fault(f"{at}: more than {DEEPEST} levels within each other")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


# A text that PyYAML writes without quotes stays a text: its own patterns but those of dates and of numbers to other
# bases, and ``1e-5``, which people write.
_NULL, _BOOL, _INT, _FLOAT = "null", "bool", "int", "float"
_TRUE = "true|True|TRUE|yes|Yes|YES|on|On|ON"
_PATTERNS = {
    _NULL: ("~|null|Null|NULL|", ["~", "n", "N", ""]),
    _BOOL: (f"{_TRUE}|false|False|FALSE|no|No|NO|off|Off|OFF", list("tTfFyYnNoO")),
    _INT: ("[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    _FLOAT: (
        r"([-+]?[0-9]+\.[0-9]*|\.[0-9]+|[-+]?[0-9]+(?=[eE]))([eE][-+][0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
}
for _tag, (_pattern, _first) in _PATTERNS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"(?:{_pattern})\Z"), _first)
_EXPONENT = re.compile(r"[-+]?([0-9]+\.?|[0-9]*\.[0-9]+)[eE][0-9]+")


def _of_node(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_of_node(item) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        if any(not isinstance(key, yaml.ScalarNode) for key, _ in node.value):
            raise _Fault(f"line {node.start_mark.line + 1}: a name is no text")
        return _unlike([(key.value, _of_node(item)) for key, item in node.value])
    return _MADE.get(node.tag, str)(node.value)


def _unlike(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise _Fault(f"{_shown(twice)} is there twice")
    return values


def _whole(text: str) -> int:
    if len(text.lstrip("-+")) > LONGEST_INTEGER:
        raise _Fault(f"an integer of more than {LONGEST_INTEGER} digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _Fault(f"a number that is too large ({text[:20]})")
    return value


def _spelled_out(text: str) -> float:
    return float(text.replace(".", "", 1)) if text[-1] in "fFnN" else _number(text)


_MADE: Mapping[str, Callable[[str], Any]] = {
    _NULL: lambda _: None,
    _BOOL: _TRUE.split("|").__contains__,
    _INT: _whole,
    _FLOAT: _spelled_out,
}


def _no_constant(text: str) -> NoReturn:
    raise _Fault(f"{text} is no number")


def _refuse_deep(value: Any) -> None:
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            part
            for item in level
            if isinstance(item, list | dict)
            for part in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return
    raise _Fault(f"more than {DEEPEST} levels within each other")


def build(
    kind: type[Kind],
    values: object,
    subject: object,
    error: type[ActionFusionError] = SettingsError,
    remedy: str = CORRECT_LINE,
    *,
    within: str = "",
) -> Kind:
    """Build a dataclass of plain values.

    An integer is taken for a float and a list for a tuple; nothing else is turned into another type.  A field that is
    not there takes its default.

    Args:
        kind: a dataclass, or any other type that a field of one may have.
        values: as ``read_yaml``, ``read_json`` and ``plain`` give them.
        subject: the file that they are from.
        error: what is raised.
        remedy: what to do where the fault itself does not say.
        within: the name of these settings, such as ``clip``.

    Raises:
        ActionFusionError: ``error``; an unknown field (with the nearest known one), one that is missing, a value of
            another type, or one that the dataclass itself refuses.
    """
    try:
        return _value(kind, values, within)  # type: ignore[no-any-return]
    except _Fault as fault:
        raise error(subject, fault.reason, fault.remedy or remedy) from fault


def build_each(
    kinds: Mapping[str, Any],
    values: object,
    subject: object,
    error: type[ActionFusionError] = SettingsError,
    remedy: str = CORRECT_LINE,
) -> dict[str, Any]:
    """Build settings by name, such as a function's arguments, as ``build`` does; only those given, without defaults."""
    try:
        return _each(kinds, values, "")
    except _Fault as fault:
        raise error(subject, fault.reason, fault.remedy or remedy) from fault


def plain(value: Any) -> Any:
    """Turn dataclasses, tuples and paths into the mappings, lists and strings that YAML holds."""
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value


def field_kinds(kind: type[Any]) -> Mapping[str, Any]:
    """Return the fields of a dataclass that can be set, with their types."""
    hints = _hints(kind)  # type: ignore[arg-type]
    return {part.name: hints[part.name] for part in fields(kind) if part.init}


def setting_names(kinds: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every single setting by its full name, such as ``clip.flow.engine``, with its type; sections are left out.

    Args:
        kinds: by name, as for ``build_each``.
        above: what their names begin with.
    """
    for name, kind in kinds.items():
        if is_dataclass(kind):
            yield from setting_names(field_kinds(kind), f"{above}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{above}{name}", kind


def single_settings(kinds: Mapping[str, Any], values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values that ``build_each`` has taken, each by its full name as ``setting_names`` gives it."""
    for name, value in values.items():
        if is_dataclass(kinds[name]):
            yield from single_settings(field_kinds(kinds[name]), value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Find the known name nearest to an unknown one, whatever its section; None where none is near."""
    names = list(known)
    if near := get_close_matches(name, names, 1):
        return near[0]
    # Given without its section, or with another one.
    last = {full.rsplit(".", 1)[-1]: full for full in reversed(names)}
    close = get_close_matches(name.rsplit(".", 1)[-1], last, 1)
    return last[close[0]] if close else None


_hints = cache(get_type_hints)


def _each(kinds: Mapping[str, Any], values: object, where: str) -> dict[str, Any]:
    if not isinstance(values, Mapping):
        named = f"{where} is" if where else "it holds"
        raise _Fault(f"{named} {_shown(values)} where settings by name are wanted")
    above = f"{where}." if where else ""
    for name, value in values.items():
        if name not in kinds:
            _unknown(kinds, name, value, above)
    return {name: _value(kinds[name], value, f"{above}{name}") for name, value in values.items()}


def _unknown(kinds: Mapping[str, Any], name: str, value: object, above: str) -> NoReturn:
    # Of a section that is not known, the first setting says best what is meant.
    while isinstance(value, Mapping) and value:
        part, value = next(iter(value.items()))
        name = f"{name}.{part}"
    # Items of a list are named without it.
    start = "" if above.endswith("].") else above
    near = nearest(start + name, (known for known, _ in setting_names(kinds, start)))
    remedy = f"did you mean {near}?" if near else f"known are {', '.join(kinds)}"
    raise _Fault(f"there is no setting {above + name!r:.80}", remedy)


def _value(kind: Any, value: object, where: str) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, where)
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(parts, kind, value, where)
    if origin is tuple and isinstance(value, list | tuple):
        return _tuple(parts, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {name: _value(parts[1], part, f"{where}.{name}") for name, part in value.items()}
    if kind is Path and _fits(str, value):
        return Path(str(value))
    single = _as_float(value) if kind is float else value
    if not _fits(kind, single):
        raise _Fault(f"{where} is {_shown(value)}, not {_wanted(kind)}")
    return single


def _as_float(value: object) -> float | None:
    """Convert an integer, or ``1e5``, which is a text to YAML; None for anything else that is no number."""
    if isinstance(value, str) and len(value) < 40 and _EXPONENT.fullmatch(value):
        value = _number(value)
    usable = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
    return float(value) if usable else None  # type: ignore[arg-type]


def _fits(kind: Any, value: object) -> bool:
    if get_origin(kind) is Literal:
        return any(type(value) is type(choice) and value == choice for choice in get_args(kind))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if kind is types.NoneType:
        return value is None
    if kind is str:
        return isinstance(value, str) and "\0" not in value  # a name of a file with it makes Python's calls fail
    return kind is Any or (kind in (bool, float, Path) and isinstance(value, kind))


def _dataclass(kind: type[Any], value: object, where: str) -> Any:
    if isinstance(value, kind):
        return value
    found = _each(field_kinds(kind), value, where)
    for part in fields(kind):
        if part.init and part.name not in found and part.default is MISSING and part.default_factory is MISSING:
            raise _Fault(f"{where}.{part.name} is missing".lstrip("."))
    try:
        return kind(**found)
    except SettingsError as refused:
        raise _Fault(f"{refused.subject}: {refused.reason}", refused.remedy) from refused


def _union(kinds: tuple[Any, ...], whole: Any, value: object, where: str) -> Any:
    faults = []
    for kind in kinds:
        try:
            return _value(kind, value, where)
        except _Fault as fault:
            faults.append(fault)
    others = [fault for kind, fault in zip(kinds, faults, strict=True) if kind is not types.NoneType]
    if len(others) == 1 and isinstance(value, Mapping | list):
        raise others[0]  # it says more than that neither fits
    raise _Fault(f"{where} is {_shown(value)}, not {_wanted(whole)}")


def _tuple(kinds: tuple[Any, ...], values: Sequence[Any], where: str) -> tuple[Any, ...]:
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(values)
    if len(kinds) != len(values):
        raise _Fault(f"{where} has {len(values)} values, not {len(kinds)}")
    pairs = zip(kinds, values, strict=True)
    return tuple(_value(kind, value, f"{where}[{number}]") for number, (kind, value) in enumerate(pairs))


_WORDS: Mapping[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    types.NoneType: "null",
    Path: "a path",
    Mapping: "values by name",
    tuple: "a list",
}


def _wanted(kind: Any) -> str:
    """Name a type in words."""
    origin = get_origin(kind)
    if origin is Literal:
        return " or ".join(map(repr, get_args(kind)))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(_wanted, get_args(kind))))
    return _WORDS.get(kind) or _WORDS.get(origin) or "settings by name"


def _shown(value: object) -> str:
    """Shorten a value for an error."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "settings by name"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
