"""An address is told from a local name, is taken apart as a path is, and shows no password."""

import pickle
import subprocess
import sys
from pathlib import Path, PurePosixPath

import fsspec
import pytest
from fsspec.registry import known_implementations
from hypothesis import given
from hypothesis import strategies as st
from upath import UPath

from actionfusion.errors import SettingsError
from actionfusion.remote_path import RemotePath, without_credentials
from actionfusion.storage import (
    beside,
    common_folder,
    relative,
    to_path,
)


@pytest.mark.parametrize(
    "text", ["clips", "/a/b", "a::b", "http:x.avi", "C:\\clips", "x.tar::y", "~/clips", "", "a:/b", "s3:/b"]
)
def test_what_is_no_address_stays_a_local_path(text):
    assert to_path(text) == Path(text)


def test_a_local_file_that_is_called_like_an_address_stays_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("zip::a.avi", "memory://a.avi"):
        assert isinstance(to_path(name), RemotePath)
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
        assert to_path(name) == Path(name)


def test_whatever_a_python_user_gives():
    local, remote = Path("/a/b"), to_path("memory://a/b")
    assert to_path(local) is local
    assert to_path(remote) is remote
    assert to_path("file:///a/b") == to_path(UPath("file:///a/b")) == to_path(UPath("/a/b")) == local
    assert to_path(UPath("memory://a/b")) == remote == pickle.loads(pickle.dumps(remote))
    cached = to_path(UPath("simplecache::memory://a/b"))
    assert cached == to_path("simplecache::memory://a/b")
    assert str(cached.parent / "c") == "simplecache::memory:///a/c"
    assert str(to_path(UPath("zip://a/b::memory://x.zip")).parent) == "zip://a::memory:///x.zip"
    with pytest.raises(TypeError):
        Path(remote)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("foo://x", ["foo://x: 'foo' is no kind of address"]),
        ("zip://a::foo://x", ["'foo' is no kind of address"]),
        ("fancy://x", ["fancy://x: needs a package", "pip install fancy_missing"]),
        ("plain://x", ["plain://x: needs a package", "Install what plain needs"]),
        ("fancy://anna:secret@host/x", ["fancy://anna@host/x: needs"]),
    ],
)
def test_what_cannot_be_opened_here_is_said_in_one_line(text, parts, monkeypatch):
    known = known_implementations
    monkeypatch.setitem(known, "fancy", {"class": "fancy_missing.FS", "err": "Install fancy_missing to access it"})
    monkeypatch.setitem(known, "plain", {"class": "plain_missing.FS", "err": "Install what plain needs"})
    with pytest.raises(SettingsError) as caught:
        to_path(text)
    for part in parts:
        assert part in str(caught.value)
    assert "secret" not in str(caught.value)


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "upath", None)
    with pytest.raises(SettingsError, match=r"s3://b: .*pip install 'actionfusion\[remote\]'"):
        to_path("s3://b")


def test_who_gives_no_address_imports_no_fsspec():
    script = "import sys, actionfusion.data.prepare_dataset, actionfusion.storage as p; p.to_path('a/b'); "
    script += "sys.exit(any(name in sys.modules for name in ('fsspec', 'upath')))"
    subprocess.run([sys.executable, "-c", script], check=True)


names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).filter(
    lambda name: name not in {".", ".."}
)


@given(
    st.lists(names, min_size=1, max_size=4), st.sampled_from(["memory://", "zip://::/x.zip", "shelf://", "ftp://h/"])
)
def test_it_takes_names_apart_as_pathlib_does(shelf_package, parts, top):
    model = PurePosixPath("/", *parts)
    path = root = to_path(top)
    for part in parts:
        path /= part
    assert (path.name, path.stem, path.suffix) == (model.name, model.stem, model.suffix)
    assert [above.name for above in path.parents] == [above.name for above in model.parents]
    assert path.parents[-1] == root
    assert root / "/".join(parts) == path == path.parent / path.name == path.with_name("x").with_name(path.name)
    assert relative(path, root) == "/".join(parts)
    assert [relative(path, above) for above in path.parents] == [
        model.relative_to(above).as_posix() for above in model.parents
    ]
    assert pickle.loads(pickle.dumps(path)) == path
    head = top.partition("::")[0]
    scheme = "" if head.endswith("://") else head[head.index("://") + 3 :]
    assert str(path).startswith(head[: head.index("://") + 3] + scheme + parts[0])
    assert str(path.parents[-1]).rstrip("/") in {top.rstrip("/"), top.replace("::/", "::file:///").rstrip("/")}


def test_the_top_is_its_own_parent():
    for text in ("memory://", "zip://::/a.zip", "shelf://"):
        assert to_path(text).parent == to_path(text)
        assert to_path(text).parents == ()
    bucket = RemotePath("s3", {}, "bucket", shown="s3://bucket")
    assert bucket.parent == bucket
    assert str((bucket / "a" / "b").parent) == "s3://bucket/a"
    page = RemotePath("https", {}, "https://host/a/b", shown="https://host/a/b")
    assert [str(above) for above in page.parents] == ["https://host/a", "https://host"]
    assert [above.path for above in page.parents] == ["https://host/a", "https://host"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ftp://anna:secret@host:21/clips", "ftp://anna@host:21/clips"),
        ("ftp://anna:sec:r@et@host/clips", "ftp://anna@host/clips"),
        ("https://token@host/x?signature=secret&a=b", "https://host/x"),
        ("abfs://container@account.net/x", "abfs://container@account.net/x"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
        ("https://h/x;token=secret", "https://h/x"),
        ("'https://h/a;b/x#sig=secret' failed", "'https://h/a;b/x' failed"),
        ("http:/anna:secret@h/x", "http:/h/x"),
        ("ftp:/anna:secret@h/x", "ftp:/anna@h/x"),
        ("no at 'https://a:secret@h/x?secret=1': gone", "no at 'https://h/x': gone"),
    ],
)
def test_no_password_is_printed(text, shown):
    assert without_credentials(text) == shown


def test_an_address_with_a_password_shows_none_anywhere(monkeypatch):
    path = to_path("ftp://anna:secret@127.0.0.1:1/clips")
    assert str(path / "a.avi") == "ftp://anna@127.0.0.1:1/clips/a.avi"
    assert str(to_path(UPath("ftp://anna:secret@127.0.0.1:1/clips"))) == "ftp://127.0.0.1/clips"
    assert "secret" not in repr(path)
    # Nobody listens there, and the password still leads to the server.
    assert fsspec.get_filesystem_class("ftp")._get_kwargs_from_urls("ftp://anna:secret@h/")["password"] == "secret"
    with pytest.raises(OSError, match="refused") as caught:
        path.stat()
    assert "secret" not in str(caught.value)


def test_what_a_table_means_by_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = to_path("memory://data/tables")
    assert beside(table, "a/b.avi") == table / "a/b.avi"
    assert beside(table, "../clips/./b.avi") == to_path("memory://data/clips/b.avi")
    assert beside(table, "../../../../b.avi") == to_path("memory://b.avi")
    assert beside(table, "/clips/b.avi") == to_path("memory://clips/b.avi")
    assert beside(table, "file:///clips/b.avi") == Path("/clips/b.avi")
    assert (
        beside(table, "zip://b.avi::/x.zip")
        == beside(Path("/t"), "zip://b.avi::/x.zip")
        == to_path("zip://b.avi::/x.zip")
    )
    assert str(beside(table, "../clips/b.avi")) == "memory://data/clips/b.avi"
    assert beside(tmp_path, "../a.avi") == tmp_path.parent / "a.avi"
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "zip::a.avi").touch()
    assert beside(tmp_path / "t", "zip::a.avi") == tmp_path / "t" / "zip::a.avi"


def test_the_folder_that_holds_all():
    a, b = to_path("memory://x/a"), to_path("memory://x/b/c")
    assert common_folder([a, b]) == to_path("memory://x")
    assert common_folder([a]) == a
    assert common_folder([a, a.parent]) == a.parent
    assert common_folder([Path("/x/a"), Path("/x/b")]) == Path("/x")
    for others in ([a, Path("/x")], [Path("/x"), a], [a, to_path("zip://x/a::/x.zip")]):
        with pytest.raises(ValueError, match="no folder"):
            common_folder(others)
    with pytest.raises(ValueError, match="is not in"):
        relative(a, to_path("memory://x/a/b"))
    with pytest.raises(ValueError, match="is not in"):
        relative(a, Path("/x"))
