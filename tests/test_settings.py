"""The one reader of settings: plain values within bounds, known dataclasses, and one kind of error."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from actionfusion.errors import ExportError, RunFolderError, SettingsError
from actionfusion.settings import (
    DEEPEST,
    YAML_BYTES,
    build,
    build_each,
    nearest,
    parse_json,
    parse_yaml,
    plain,
    read_json,
    read_yaml,
)


@dataclass(frozen=True)
class Inner:
    engine: Literal["dis", "tvl1"] = "dis"
    bound: float = 20.0

    def __post_init__(self):
        if self.bound <= 0:
            raise SettingsError("inner.bound", f"{self.bound}", "take a positive one")


@dataclass(frozen=True)
class Outer:
    name: str
    count: int = 1
    inner: Inner = Inner()
    several: tuple[Inner, ...] = ()
    pair: tuple[int, int] = (1, 2)
    layout: Literal["narrow"] | tuple[int | Literal["M"], ...] = "narrow"
    place: Path | None = None
    rate: float | None = None
    on: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)
    made: int = field(init=False, default=3)


WHOLE = Outer(
    name="a",
    count=7,
    inner=Inner("tvl1", 1e-5),
    several=(Inner(bound=2.0), Inner("tvl1")),
    pair=(3, 4),
    layout=(8, "M", 16),
    place=Path("a/b"),
    rate=0.5,
    on=True,
    sizes={"a": 1},
)


def test_what_plain_gives_is_built_again_from_yaml_and_json():
    values = {name: value for name, value in plain(WHOLE).items() if name != "made"}
    assert build(Outer, values, "x") == WHOLE
    assert build(Outer, parse_yaml(yaml.safe_dump(values), "x"), "x") == WHOLE
    assert build(Outer, parse_json(json.dumps(values), "x"), "x") == WHOLE
    assert build(Outer, {"name": "b"}, "x") == Outer("b")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "name is missing"),
        ({"name": 5}, "name is 5, not a text"),
        ({"name": "a\0b"}, "name is 'a.x00b', not a text"),
        ({"name": "a", "count": "5"}, "count is '5', not a whole number"),
        ({"name": "a", "count": 5.0}, "count is 5.0, not a whole number"),
        ({"name": "a", "count": True}, "count is true, not a whole number"),
        ({"name": "a", "rate": True}, "rate is true, not a number or null"),
        ({"name": "a", "rate": math.nan}, "rate is nan, not a number or null"),
        ({"name": "a", "rate": "1e999"}, "rate is '1e999', not a number or null"),
        ({"name": "a", "on": 1}, "on is 1, not true or false"),
        ({"name": "a", "on": "yes"}, "on is 'yes', not true or false"),
        ({"name": "a", "pair": [1]}, "pair has 1 values, not 2"),
        ({"name": "a", "pair": "12"}, "pair is '12', not a list"),
        ({"name": "a", "layout": "wide"}, "layout is 'wide', not 'narrow' or a list"),
        ({"name": "a", "layout": [8, "N"]}, r"layout is \[8, 'N'\]|layout\[1\] is 'N'"),
        ({"name": "a", "sizes": {"a": "b"}}, "sizes.a is 'b', not a whole number"),
        ({"name": "a", "made": 3}, "there is no setting 'made'"),
        ({"name": "a", "inner": "/etc/other.yaml"}, "inner is '/etc/other.yaml' where settings by name are wanted"),
        ({"name": "a", "inner": ["dis"]}, "where settings by name are wanted"),
        ({"name": "a", "inner": None}, "inner is null where settings by name are wanted"),
        ({"name": "a", "inner": {"class_path": "this.X"}}, "there is no setting 'inner.class_path'"),
        ({"name": "a", "inner": {"init_args": {"bound": 1}}}, r"init_args\.bound'.*did you mean inner\.bound\?"),
        ({"name": "a", "inner": {"bond": 1}}, r"no setting 'inner\.bond'; did you mean inner\.bound\?"),
        ({"name": "a", "inner": {"engine": "magic"}}, "inner.engine is 'magic', not 'dis' or 'tvl1'"),
        ({"name": "a", "several": [{"bond": 1}]}, r"no setting 'several\[0\]\.bond'; did you mean bound\?"),
        ({"name": "a", "several": [{"class_path": "this.X"}]}, r"no setting 'several\[0\]\.class_path'"),
        ({"name": "a", "inner": {"bound": -1}}, r"inner\.bound: -1\.0; take a positive one"),
        ("text", "it holds 'text' where settings by name are wanted"),
        (None, "it holds null"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(values, said):
    with pytest.raises(RunFolderError, match=rf"^file\.yaml: .*{said}"):
        build(Outer, values, "file.yaml", RunFolderError)


def test_an_integer_is_a_float_and_a_number_with_an_exponent_too():
    assert repr(build(float, 3, "x")) == "3.0"
    assert build(float, parse_yaml("1e5", "x"), "x") == 1e5
    assert parse_yaml("1e-5", "x") == 1e-5


def test_settings_by_name_are_those_that_are_there():
    assert build_each({"a": int, "b": Inner}, {"b": {}}, "x") == {"b": Inner()}
    with pytest.raises(SettingsError, match=r"did you mean b\.bound\?"):
        build_each({"a": int, "b": Inner}, {"boundd": 3}, "x")


def test_the_nearest_name_is_found_in_another_section():
    assert nearest("batch_size", ["a.rate", "training.batch_size"]) == "training.batch_size"
    assert nearest("qqq", ["a.rate"]) is None


HOSTILE_YAML = {
    "alias": "a: &x [1]\nb: *x",
    "alias bomb": "a: &a [x]\n" + "".join(f"{b}: &{b} [{f'*{a},' * 9}]\n" for a, b in pairwise("abcdefghi")),
    "tag": "a: !!python/object/apply:os.system ['touch hacked']",
    "tag of a text": "a: !!str 5",
    "local tag": "a: !other 5",
    "lists": "[" * 20_000,
    "nested": "- " * 20_000,
    "mappings": "{a: " * 20_000,
    "keys": "? " * 20_000,
    "one too deep": "[" * (DEEPEST + 1) + "]" * (DEEPEST + 1),
    "digits": "a: " + "1" * 100_000,
    "overflow": "a: 1.0e+999",
    "twice": "a: 1\nb: 2\na: 3",
    "two documents": "a: 1\n---\nb: 2",
    "list as a name": "[1]: 2",
    "control": "a: \x07",
    "newer": "%YAML 9.9\n---\na: 1",
    "open": "a: [",
    "UTF-16": "a: 1".encode("utf-16"),
    "UTF-16 without mark": "a: 1".encode("utf-16-le"),
    "Latin-1": b"a: \xe9",
    "large": "a: " + "x" * YAML_BYTES,
    "text": "this.X",
    "list": "- 1",
    "empty": "",
}  # fmt: skip
HOSTILE_JSON = {
    "deep": "[" * 100_000,
    "deep names": '{"a":' * 20_000,
    "deep and whole": '{"a":' + "[" * 900 + "]" * 900 + "}",
    "digits": '{"a": ' + "1" * 100_000 + "}",
    "overflow": '{"a": 1e999}',
    "NaN": '{"a": NaN}',
    "infinity": '{"a": -Infinity}',
    "twice": '{"a": 1, "a": 2}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "open": "{",
    "list": "[]",
    "null": "null",
}


@pytest.mark.parametrize("name", HOSTILE_YAML)
def test_hostile_yaml_is_refused_at_once(name, tmp_path):
    _refused(tmp_path / "file.yaml", HOSTILE_YAML[name], read_yaml)


@pytest.mark.parametrize("name", HOSTILE_JSON)
def test_hostile_json_is_refused_at_once(name, tmp_path):
    _refused(tmp_path / "file.json", HOSTILE_JSON[name], read_json)


def _refused(path, content, read):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    start = time.process_time()
    with pytest.raises(ExportError, match=rf"^{path}: .*; again\.$") as refused:
        read(path, ExportError, "again")
    assert time.process_time() - start < 5
    assert len(str(refused.value)) < 500 + len(str(path))


@pytest.mark.parametrize("read", [read_yaml, read_json])
def test_what_is_no_file_is_refused(read, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("", "missing", "pipe", "a\0b", "x" * 300):
        with pytest.raises(ExportError, match="cannot be read"):
            read(tmp_path / name, ExportError)
    with pytest.raises(ExportError, match="cannot be read"):
        read(Path(os.devnull), ExportError)


def test_a_file_may_be_as_large_as_it_is_told(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"a": 1}')
    assert read_json(path, largest=8) == {"a": 1}
    with pytest.raises(SettingsError, match="more than 7 bytes"):
        read_json(path, largest=7)


def test_numbers_and_texts_are_those_of_the_file():
    text = "a: [1e-5, 1.5, .inf, -3, ~, yes, False, 2001-01-01, 0x1F, 010, 1_0, '5', 12e4567]\nb:\n<<: {c: 1}\n1: x\n"
    assert parse_yaml(text, "x") == {
        "a": [1e-5, 1.5, math.inf, -3, None, True, False, "2001-01-01", "0x1F", "010", "1_0", "5", "12e4567"],
        "b": None,
        "<<": {"c": 1},
        "1": "x",
    }
    assert math.isnan(parse_json('{"a": NaN}', "x", finite=False)["a"])


# But for a number with a signed exponent and no point, which PyYAML takes for a text and people for a number.
TEXTS = st.text(st.characters(codec="utf-8")) | st.from_regex(r"[-+]?[0-9._:]{1,9}([eE][0-9]{1,4})?", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | TEXTS,
    lambda part: st.lists(part, max_size=4) | st.dictionaries(TEXTS, part, max_size=4),
    max_leaves=20,
)


@given(values=st.dictionaries(TEXTS, VALUES))
def test_what_pyyaml_and_json_write_is_read_as_it_was(values):
    for unicode in (False, True):
        text = yaml.safe_dump(values, allow_unicode=unicode)
        assert parse_yaml(text, "x") == yaml.safe_load(text)
    assert parse_json(json.dumps(values), "x", finite=False) == values


@given(content=st.binary(max_size=200) | st.text("ab:-[]{}?!&*%#|>'\" \n\t1.e~\\\0", max_size=200))
def test_any_bytes_are_values_or_our_error(content):
    for parse in (parse_yaml, parse_json):
        with suppress(SettingsError):
            json.dumps(parse(content, "file"))


@given(values=VALUES | st.fixed_dictionaries({"name": TEXTS}, optional={
    "count": VALUES, "inner": VALUES, "several": VALUES, "layout": VALUES, "place": VALUES, "sizes": VALUES,
}))  # fmt: skip
def test_any_values_are_settings_or_our_error(values: Any):
    with suppress(SettingsError):
        assert isinstance(build(Outer, values, "file"), Outer)
