"""A run is loaded by its name on the hub: held to a stand-in of the hub, since tests reach no other."""

import json
import pickle
import subprocess

import pytest

from actionfusion import Recognizer, predict
from actionfusion.errors import HubError, RunFolderError, SettingsError, VideoMissing
from actionfusion.hub import FILES, NEEDED, fetch_run, hub_name, local_run
from hub_stand_in import TOKEN


@pytest.fixture
def files(tiny_run):
    return {name: (tiny_run / name).read_bytes() for name in FILES if (tiny_run / name).is_file()}


@pytest.fixture(scope="session")
def clip(shapes_root):
    return sorted(shapes_root.glob("test/*/*.mp4"))[0]


def test_a_run_of_the_hub_answers_as_its_folder(hub, files, tiny_run, clip, capsys):
    commit = hub.add("somebody/run", files | {"README.md": b"x", "train.py": b"1/0", "notes.txt": b""}).branches["main"]
    here, there = Recognizer.load(tiny_run), Recognizer.load("somebody/run")
    assert there.predict(clip) == here.predict(clip)
    said = capsys.readouterr().err
    assert commit in said
    assert "downloaded" in said
    fetched = local_run("somebody/run")
    assert {path.name for path in fetched.iterdir()} == {*files, "hub.json"}, "what is no file of a run is not fetched"
    assert all((fetched / name).read_bytes() == content for name, content in files.items())
    assert "already in" in capsys.readouterr().err


def test_commands_take_the_name_of_a_run(hub, files, tiny_run, clip, tmp_path):
    hub.add("somebody/run", files)
    from actionfusion import evaluate, explain, export, report, serve, stream

    root = clip.parents[2]
    (result,) = predict("somebody/run", [clip])
    assert result.predictions
    (timeline,) = predict("somebody/run", [clip], segments=True)
    assert timeline.segments
    assert evaluate("somebody/run", root).figures.labels == Recognizer.load(tiny_run).labels
    assert stream("somebody/run", str(clip)).samples > 0
    assert report("somebody/run", out=tmp_path / "page.html").is_file()
    # What comes after the run was opened is enough of these three.
    with pytest.raises(SettingsError, match="no token is set"):
        serve("somebody/run", host="0.0.0.0", token=None)
    with pytest.raises(VideoMissing):
        export("somebody/run", out=tmp_path / "exported", video=tmp_path / "none.mp4")
    with pytest.raises(SettingsError, match="motion_up"):
        explain("somebody/run", clip, out=tmp_path / "explained", label="motion_upp")


def test_revisions_are_branches_tags_and_commits(hub, files):
    repository = hub.add("somebody/run", files)
    first = repository.branches["main"]
    later = repository.commit(files | {"labels.txt": files["labels.txt"].replace(b"motion_up", b"upwards")})
    repository.branches["v1"] = first
    assert "upwards" in Recognizer.load("somebody/run").labels
    for given in ({"run": "somebody/run@v1"}, {"run": "somebody/run", "revision": first}, {"run": "somebody/run@v1"}):
        assert "motion_up" in Recognizer.load(**given).labels
    assert fetch_run("somebody/run").revision == later
    with pytest.raises(HubError, match="has no revision 'v9'"):
        local_run("somebody/run@v9")
    hub.requests.clear()
    assert fetch_run("somebody/run", revision=first).downloaded == 0
    assert hub.requests == [], "a commit that is there is asked for nowhere"


def test_what_was_fetched_serves_without_a_network(hub, files, monkeypatch, tmp_path, capsys):
    repository = hub.add("somebody/run", files)
    cache = tmp_path / "own"
    with pytest.raises(HubError, match="the hub is not asked"):
        fetch_run("somebody/run", cache=cache, offline=True)
    fetched = fetch_run("somebody/run", cache=cache)
    assert fetched.path.is_relative_to(cache)
    repository.commit(files | {"labels.txt": b"other"})
    hub.requests.clear()
    assert fetch_run("somebody/run", cache=cache, offline=True).revision == fetched.revision
    assert hub.requests == []
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert fetch_run("somebody/run", cache=cache).revision == fetched.revision
    assert "cannot be reached" in capsys.readouterr().err
    with pytest.raises(HubError, match=r"cannot be reached"):
        fetch_run("somebody/other", cache=cache)


def test_private_runs_want_a_token_that_is_never_shown(hub, files, monkeypatch):
    hub.add("somebody/hidden", files, private=True)
    with pytest.raises(HubError, match="no such repository, or it is private"):
        local_run("somebody/hidden")
    assert local_run("somebody/hidden", token=TOKEN).is_dir()
    for token in ("hf_wrong", "hf_wrong\nsecret", ""):
        with pytest.raises(HubError) as error:
            fetch_run("somebody/hidden", token=token)
        assert "hf_wrong" not in str(error.value)
        assert "secret" not in str(error.value)
    hub.answer = (500, f"token {TOKEN} is at fault")
    with pytest.raises(HubError, match="answers 500") as error:
        fetch_run("somebody/hidden", token=TOKEN)
    assert TOKEN not in str(error.value)
    hub.answer = None
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert local_run("somebody/hidden").is_dir()


def test_a_name_that_is_nowhere_is_said(hub):
    with pytest.raises(HubError, match=r"somebody/none: is no folder here, and http\S+ has no such repository"):
        Recognizer.load("somebody/none")


REFUSED = {
    "a pickle": ({"pytorch_model.bin": pickle.dumps([])}, "pytorch_model.bin.*can run code"),
    "a pickle below": ({"old/x.PKL": b""}, "x.PKL.*can run code"),
    "a way up": ({"../../config.yaml": b""}, "leads elsewhere"),
    "a way from the root": ({"/etc/passwd": b""}, "leads elsewhere"),
    "a way of Windows": ({"..\\labels.txt": b""}, "leads elsewhere"),
    "a drive": ({"C:labels.txt": b""}, "leads elsewhere"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_repository_with_something_unsafe_is_refused_before_a_byte_of_it(hub, files, name, tmp_path):
    more, message = REFUSED[name]
    hub.add("somebody/run", files | more)
    with pytest.raises(HubError, match=message):
        fetch_run("somebody/run", cache=tmp_path / "cache")
    assert not [path for _, path, *_ in hub.requests if "/resolve/" in path]
    assert not list((tmp_path / "cache").rglob("*.*"))


@pytest.mark.parametrize("name", NEEDED)
def test_a_repository_without_a_run_is_refused(hub, files, name):
    hub.add("somebody/run", {other: content for other, content in files.items() if other != name})
    with pytest.raises(HubError, match=rf"holds no run of actionfusion: there is no {name}"):
        fetch_run("somebody/run")


def changed(content):
    return content[:-1] + bytes([content[-1] ^ 1])


LIES = {
    "other bytes": lambda r, name, content: r.served.update({name: changed(content)}),
    "less": lambda r, name, content: r.served.update({name: content[:-1]}),
    "more": lambda r, name, content: r.served.update({name: content + b"\0" * 100}),
    "endless": lambda r, name, content: r.served.update({name: content + b"\0" * 4_000_000}),
}


@pytest.mark.parametrize("name", ["model.safetensors", "config.yaml"])
@pytest.mark.parametrize("lie", LIES)
def test_bytes_that_are_not_those_listed_are_refused_and_not_kept(hub, files, lie, name, tmp_path):
    LIES[lie](hub.add("somebody/run", files), name, files[name])
    with pytest.raises(HubError, match=r"somebody/run: (is|sends|config|model|http)") as error:
        fetch_run("somebody/run", cache=tmp_path / "cache")
    assert "\n" not in str(error.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_file_that_is_said_to_be_too_large_is_not_fetched(hub, files):
    repository = hub.add("somebody/run", files)
    for name, bound in FILES.items():
        size = {"size": bound + 1} | ({"lfs": None} if name.endswith("safetensors") else {})
        repository.listed = {name: size}
        if name in files:
            with pytest.raises(HubError, match=rf"{name} has .* more than the"):
                fetch_run("somebody/run")
    repository.listed = {"config.yaml": {"size": None}}
    with pytest.raises(HubError, match=r"config\.yaml has"):
        fetch_run("somebody/run")
    repository.listed = {"config.yaml": {"blobId": None}}
    with pytest.raises(HubError, match=r"names no hash of config\.yaml"):
        fetch_run("somebody/run")


def test_a_fetched_run_that_was_changed_is_refused(hub, files):
    hub.add("somebody/run", files)
    folder = fetch_run("somebody/run").path
    for name in ("labels.txt", "model.safetensors"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(changed(content))
        for offline in (True, False):
            with pytest.raises(HubError, match=rf"{name}: is not what was downloaded.*remove the folder"):
                fetch_run("somebody/run", offline=offline)
        (folder / name).write_bytes(content)
    about = json.loads((folder / "hub.json").read_text())
    for wrong in ({}, {"files": []}, {"files": about["files"] | {"../x": "0"}}, {"files": {"config.yaml": "0"}}):
        (folder / "hub.json").write_text(json.dumps(wrong))
        with pytest.raises(HubError, match="is no record"):
            fetch_run("somebody/run", offline=True)


def test_a_folder_of_the_name_always_wins(hub, tiny_run, tmp_path):
    hub.add("somebody/run")
    (tmp_path / "here" / "somebody").mkdir()
    with pytest.raises(RunFolderError):
        Recognizer.load("somebody/mistyped")
    (tmp_path / "here" / "somebody" / "run").symlink_to(tiny_run)
    assert Recognizer.load("somebody/run").labels
    assert hub.requests == []
    with pytest.raises(HubError, match=r"holds no run|no commit"):
        local_run("hf://somebody/run")


@pytest.mark.parametrize("text", ["a", "a/b/c", "/a/b", "./a", "../a", "a/..b", "a/b@", "a /b", "a/b@../c", "~/b", ""])
def test_paths_are_no_names_on_the_hub(text):
    assert hub_name(text) is None


def test_names_on_the_hub():
    assert hub_name("me/run@refs/pr/1") == ("me/run", "refs/pr/1", False)
    assert hub_name("hf://me/run") == hub_name("hf:/me/run") == ("me/run", None, True)


def test_nothing_is_told_of_this_machine(hub, files):
    hub.add("somebody/run", files)
    fetch_run("somebody/run")
    for _, path, headers, _ in hub.requests:
        sent = headers.get("user-agent") or headers.get("User-Agent")
        assert {part.split("/")[0].strip() for part in sent.split(";")} <= {"actionfusion", "hf_hub", "python"}
        assert "telemetry" not in path
        assert not any(name.lower() == "authorization" for name in headers)


def test_hashes_of_the_stand_in_are_gits_own(tmp_path):
    """The stand-in and the package compute git's hash; here git itself is asked."""
    from hub_stand_in import git_sha1

    done = subprocess.run(["git", "hash-object", "--stdin"], input=b"abc\n", capture_output=True, check=True)
    assert done.stdout.decode().strip() == git_sha1(b"abc\n")
