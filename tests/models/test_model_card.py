"""The model card says what the network is."""

from __future__ import annotations

import importlib.util
import math
import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def drawing() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("draw_model_card", DOCS / "draw_model_card.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclass looks for its own annotations
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def card() -> str:
    return (DOCS / "model_card.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_code(drawing: ModuleType, card: str) -> None:
    assert drawing.with_tables(card) == card


def test_the_picture_is_that_of_the_code(drawing: ModuleType) -> None:
    text = (DOCS / "model_card.svg").read_text(encoding="utf-8")

    assert text == drawing.picture()
    assert "188,757,130" in "".join(ET.fromstring(text).itertext())


def test_a_stale_table_would_be_seen(drawing: ModuleType, card: str) -> None:
    stale = card.replace("188,757,130", "188,757,131")

    assert stale != card
    assert drawing.with_tables(stale) == card


def test_the_stages_make_up_the_whole(drawing: ModuleType) -> None:
    settings = drawing.FusionNetworkSettings.faithful(101)
    stages = drawing.measure(drawing._meta(settings), 17)
    total = stages.pop("all")

    assert total.parameters == sum(stage.parameters for stage in stages.values()) == 188_757_130
    assert total.macs == sum(stage.macs for stage in stages.values())
    assert round(total.macs / 1e9, 3) == 573.877


def test_the_limits_of_the_literal_head_are_right(card: str) -> None:
    largest = {classes: 100 / (1 + (classes - 1) * math.exp(-2)) for classes in (101, 11)}

    assert f"{largest[101]:.1f} % of 101 classes, {largest[11]:.1f} % of 11" in card
    floors = [math.log1p((classes - 1) * math.exp(-2)) for classes in (101, 11)]
    said = re.search(r"fall below (\d\.\d+) and (\d\.\d+)", card)
    assert said is not None
    assert [float(number) for number in said.groups()] == [round(floor, 3) for floor in floors]
