"""Names with accented letters, which disks store in two forms, and names that look alike."""

from __future__ import annotations

import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from actionfusion import check, evaluate, prepare, report, train, versus
from actionfusion.data.dataset import DataSettings, open_data
from actionfusion.data.layouts import open_dataset
from actionfusion.data.loading import LabelledSource
from actionfusion.data.recorded_split import reopen_data
from actionfusion.data.splits import make_split
from actionfusion.errors import SettingsError
from actionfusion.explanation.target import find_label
from actionfusion.run_folder import open_run

# In the other form the second would come first, which must not give its scores the first one's name.
CLASSES = ("Zähneputzen", "Äpfel pflücken")
FORMS = ("NFC", "NFD")


@pytest.fixture(scope="module")
def both(tmp_path_factory, make_frames, make_video) -> dict[str, Path]:
    """The same clips on a disk of each kind."""
    first = tmp_path_factory.mktemp("NFC")
    for first_seed, label in enumerate(CLASSES):
        for number in range(6):
            name = f"{'test' if number > 3 else 'train'}/{label}/Jürgen_{number}.mp4"
            seed = 10 * first_seed + number
            make_video(first / unicodedata.normalize("NFC", name), make_frames(seed, seed, 8 + number))
    second = tmp_path_factory.mktemp("NFD")
    for path in first.rglob("*.mp4"):
        target = second / unicodedata.normalize("NFD", str(path.relative_to(first)))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    if len(list(first.rglob("Ä*"))) != len(list(second.rglob(unicodedata.normalize("NFD", "Ä*")))):
        pytest.skip("this disk stores names in one form")
    return {"NFC": first, "NFD": second}


@pytest.mark.parametrize("made", FORMS)
def test_run_manifest_store_and_data_may_be_of_either_form(made, both, train_arguments, tmp_path):
    here, there = both[made], both[FORMS[1 - FORMS.index(made)]]
    check("folder", here, out=tmp_path / "m.csv", workers=0)
    recipe = train_arguments["recipe"]
    prepare("folder", here, store=tmp_path / "store", flow=recipe.clip.flow, workers=0)
    given = DataSettings(root=there, validation="none", manifest=tmp_path / "m.csv", store=tmp_path / "store")
    videos = open_data(given)
    assert not [note for note in videos.listing.notes if "have no video here" in note]
    videos.check_store(recipe.clip)
    assert {entry.frames for entry in videos.listing.entries} == set(range(8, 14))
    data = replace(given, root=here)
    assert open_data(data).digest() == videos.digest()
    run = train(recipe.changed(data=data), out=tmp_path / "run")
    labels = open_run(run).labels
    assert labels == tuple(unicodedata.normalize(made, label) for label in CLASSES)
    again = reopen_data(open_run(run), there, None)
    assert again.listing.labels == labels
    before = evaluate(run, here, out=tmp_path / "here.json")
    after = evaluate(run, there, store=tmp_path / "store", out=tmp_path / "there.json")
    assert (after.figures.top1, after.targets.tolist()) == (before.figures.top1, before.targets.tolist())
    assert versus(tmp_path / "here.json", tmp_path / "there.json").unmatched == {"first": 0, "second": 0}
    evaluate(run, here)
    assert "is not there as" not in report(run, there, out=tmp_path / "page.html").read_text(encoding="utf-8")
    assert find_label(labels, unicodedata.normalize("NFC", CLASSES[1])) == 1
    with pytest.raises(SettingsError):
        find_label(labels, "Zahneputzen")


def test_edits_of_a_manifest_are_kept_on_the_other_disk(both, tmp_path):
    out = tmp_path / "m.csv"
    check("folder", both["NFD"], out=out, workers=0)
    lines = out.read_text(encoding="utf-8").splitlines()
    lines[1] = lines[1].replace(",,", ",anna,", 1)
    out.write_text("\n".join(lines), encoding="utf-8")
    rows = check("folder", both["NFC"], out=out, workers=0).rows
    assert [row.group for row in rows].count("anna") == 1
    assert rows[0].group == "anna"


def test_tables_splits_and_groups_are_found_in_either_form(both, tmp_path):
    for root in both.values():
        for form in FORMS:
            names = [path.relative_to(root) for path in sorted(root.rglob("*.mp4"))]
            rows = [f"{root / unicodedata.normalize(form, str(name))},{name.parts[1]}\n" for name in names]
            (tmp_path / "l.csv").write_text("path,label\n" + "".join(rows), encoding="utf-8")
            assert not open_dataset("csv", tmp_path / "l.csv").missing
            pattern = unicodedata.normalize(form, "(?P<group>ü)")
            assert open_dataset("folder", root, group_pattern=pattern).groups == ("ü",)
        listing = open_dataset("folder", root, group_pattern=r"(?P<group>\w+)\.mp4")
        other = unicodedata.normalize("NFD", "Jürgen_5")
        assert len(make_split(listing, f"leave-one-group-out:{other}").test) == 2
        path = unicodedata.normalize("NFD", listing.entries[3].path)
        assert make_split(listing, f"leave-one-out:{path}").test == (3,)


def test_random_clips_do_not_depend_on_the_form():
    numbers = {LabelledSource(unicodedata.normalize(form, "ü/ä.mp4"), lambda: None, 0).number for form in FORMS}
    assert len(numbers) == 1


@pytest.mark.parametrize("layout", ["folder", "csv"])
def test_classes_and_groups_that_look_alike_are_said(layout, tmp_path):
    spelled = ["jump", "Jump", "high  jump", "high jump", "caf\u00e9", "cafe\u0301", "run\u200b", "run", "swim"]
    for number, label in enumerate(spelled):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{('Anna', 'anna')[number % 2]}_{number}.mp4").write_text(label)
    if len(list(tmp_path.iterdir())) < len(spelled):
        pytest.skip("this disk does not tell such names apart")
    rows = [f"{path.relative_to(tmp_path)},{path.parent.name} ,\n" for path in sorted(tmp_path.rglob("*.mp4"))]
    (tmp_path / "l.csv").write_text("path,label,group\n" + "".join(rows), encoding="utf-8")
    root = tmp_path / "l.csv" if layout == "csv" else tmp_path
    listing = open_dataset(layout, root, group_pattern="(?P<group>[A-Za-z]+)_")
    assert len(listing.labels) == len(spelled)
    assert [note for note in listing.notes if "differ only" in note] == [
        r"classes that differ only in how they are written: 'cafe\u0301', 'caf\xe9'",
        "classes that differ only in how they are written: 'high  jump', 'high jump'",
        "classes that differ only in how they are written: 'Jump', 'jump'",
        r"classes that differ only in how they are written: 'run', 'run\u200b'",
        "groups that differ only in how they are written: 'Anna', 'anna'",
    ]
