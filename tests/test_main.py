"""The command line: instant help, plain errors, exit codes."""

import json
import os
import re
import subprocess
import sys
from importlib import import_module

import pytest

from actionfusion.__main__ import main
from actionfusion.command_line import _named
from actionfusion.commands import COMMANDS, RECIPE_COMMANDS
from actionfusion.errors import ActionFusionError
from actionfusion.models.systems.c3d import C3D, C3DSettings


def run(*words, **options):
    return subprocess.run(
        [sys.executable, "-m", "actionfusion", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from actionfusion.__main__ import main; main(['--help']);"
        "print(sorted({'torch','cv2','av','numpy','jsonargparse','rich'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_every_argument(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    told = capsys.readouterr().out
    assert "usage: actionfusion" in told
    # An argument of the help that the words are not searched for is refused when it is given.
    if command not in RECIPE_COMMANDS:
        function = getattr(import_module(COMMANDS[command].module), command)
        assert set(re.findall(r"^ +--(\w+)", told, re.MULTILINE)) - {"version"} <= _named(command, function).keys()


def test_wrong_usage_exits_2(capsys):
    assert main([]) == 2
    assert main(["pedict"]) == 2
    assert "did you mean predict?" in capsys.readouterr().err
    assert main(["predict"]) == 2
    assert main(["predict", "run", "a.avi", "--no_such_flag"]) == 2
    assert "see actionfusion predict --help" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("train x --training.batch_size four", "training.batch_size: 'four' is no whole number"),
        ("train x --training.stages.0.learning_rate fast", "--training.stages.0.learning_rate: "),
        ("train x --augmentation.flip maybe", "augmentation.flip: 'maybe' is neither true nor false"),
        ("predict run a.mp4 --precision fp16", "precision: 'fp16' is none of fp32, bf16, int8"),
        ("average a b --out c --weights 1,1.5", "weights: '1,1.5' is no list, which is written as [a,b]"),
        ("protocol foo", "name: 'foo' is none of official, random-7:3, "),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(capsys, words, said):
    assert main(words.split()) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {said}")
    assert "class" not in told


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("--training.batchsize", "training.batch_size"),
        ("--batch_size", "training.batch_size"),
        ("--trainig.weight_decay", "training.weight_decay"),
        ("--clip.flow.engin", "clip.flow.engine"),
        ("--sed", "seed"),
    ],
)
def test_an_unknown_setting_names_the_nearest_right_one(capsys, wrong, right):
    assert main(["train", "--config", "tiny", wrong, "3"]) == 2
    told = capsys.readouterr().err
    assert wrong in told
    assert f"did you mean {right}?" in told
    assert told.count("\n") == 1


def test_a_wrong_value_is_named_with_its_setting(capsys):
    assert main(["train", "--config", "tiny", "--training.batch_size", "many"]) == 2
    assert "training.batch_size" in (told := capsys.readouterr().err)
    assert "many" in told


def test_an_unknown_recipe_names_those_there_are(capsys):
    assert main(["train", "--config", "smal"]) == 1
    assert "smal: is no recipe" in (told := capsys.readouterr().err)
    assert "small" in told


def test_a_folder_of_a_recipes_name_does_not_hide_it(tmp_path, monkeypatch, capsys):
    (tmp_path / "small").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "nowhere", "--config", "small"]) == 1
    assert "no recipe" not in capsys.readouterr().err


def test_empty_weights_are_no_run_folder(capsys):
    assert main(["train", "nowhere", "--pretrained", ""]) == 1
    assert "pretrained: is empty; give imagenet, a file" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["word", "recipe"])
def test_a_recipe_of_any_model_is_taken(how, shapes_root, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("model: c3d\nclip:\n  frames: 16\n  size: 32\n  sampling: dense\n")
    given = ["--model", "c3d", "--config", "c3d"] if how == "word" else ["--config", str(tmp_path / "mine.yaml")]
    words = ["--network.width", "4", "--network.fc_width", "16", "--data.root", str(shapes_root), "--dry_run"]
    settings = C3DSettings(8, 16, 32, 32, width=4, fc_width=16)
    parameters = sum(p.numel() for p in C3D(settings).parameters())
    assert main(["train", *given, *words, "--training.workers", "0", "--out", str(tmp_path / "run")]) == 0
    assert f"network: {parameters:,} parameters" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model", "c3"], "there is no model 'c3'; did you mean c3d?"),
        (["--model=lrnc"], "there is no model 'lrnc'; did you mean lrcn?"),
        (["--model", "c3d", "--network.hidden", "3"], "--network.hidden: train has no such argument"),
        (["--model", "c3d", "--config", "tiny"], "there is no setting 'network.backbone'"),
    ],
)
def test_what_does_not_fit_the_model_is_refused_in_one_line(words, said, capsys):
    assert main(["train", *words]) in {1, 2}
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "protocol"])
def test_help_shows_the_settings_of_the_model_that_is_named(command, capsys):
    for words, shown in (
        ([], "--network.fusion "),
        (["--model", "c3d"], "--network.width "),
        (["--config", "lrcn"], "--network.pool "),
    ):
        with pytest.raises(SystemExit):
            main([command, *words, "--help"])
        said = capsys.readouterr().out
        assert shown in said
        assert ("--network.fusion " in said) == (not words)


def test_a_failure_is_one_line_and_exits_1(tmp_path, capsys):
    assert main(["predict", str(tmp_path), "a.avi"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(tmp_path) in captured.err
    assert "no config.yaml" in captured.err
    with pytest.raises(ActionFusionError):
        main(["predict", str(tmp_path), "a.avi", "--debug"])


def test_predict_json_keeps_to_the_contract_and_reports_broken_videos_in_place(tiny_run, shapes_root, tmp_path, capsys):
    good = next((shapes_root / "test" / "motion_up").glob("*.mp4"))
    broken = tmp_path / "it's “broken”\n.avi"
    broken.write_bytes(b"no video at all")
    missing = tmp_path / b"absent \xe9.mp4".decode("utf-8", "surrogateescape")
    assert (
        main(["predict", str(tiny_run), str(good), str(broken), str(missing), str(good), "--json", "--top_k", "3"]) == 1
    )
    captured = capsys.readouterr()
    entries = json.loads(captured.out)
    assert [entry["video"] for entry in entries] == [str(good), str(broken), str(missing), str(good)]
    assert [entry["error"] and entry["error"]["kind"] for entry in entries] == [None, "not_a_video", "missing", None]
    for entry in (entries[0], entries[3]):
        shares = [item["probability"] for item in entry["predictions"]]
        assert len(shares) == 3
        assert shares == sorted(shares, reverse=True)
        assert all(0 <= share <= 1 for share in shares)
    assert entries[1]["predictions"] == []
    assert "absent" in entries[2]["error"]["message"]
    assert captured.err.count("error:") == 2


def test_predict_prints_a_table(tiny_run, shapes_root, capsys):
    good = next((shapes_root / "test" / "motion_up").glob("*.mp4"))
    assert main(["predict", str(tiny_run), str(good), "--top_k", "99"]) == 0
    told = capsys.readouterr().out
    assert all(label in told for label in ("motion_up", "order_left_right"))


def test_output_that_nobody_reads_is_no_crash(tiny_run, shapes_root):
    good = next((shapes_root / "test" / "motion_up").glob("*.mp4"))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "actionfusion", "predict", str(tiny_run), str(good)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    os.close(writer)
    assert "Traceback" not in done.stderr


def test_every_command_is_a_function_of_the_package_whatever_was_imported_before():
    code = """
import actionfusion
from importlib import import_module
from actionfusion.commands import COMMANDS
for name, command in COMMANDS.items():
    assert name in actionfusion.__all__, name
    function = getattr(import_module(command.module), name)
    assert getattr(actionfusion, name).__wrapped__ is function, name
for name in actionfusion.__all__:
    assert not repr(getattr(actionfusion, name)).startswith("<module"), name
"""
    subprocess.run([sys.executable, "-c", code], check=True)
