"""What the package says of itself agrees, and importing it opens no connection."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import actionfusion
from actionfusion.errors import RunFolderError
from actionfusion.version import __version__

ROOT = Path(__file__).parent.parent
# Ends the process at any connection or look-up of a name; Python's own hook sees those of C code that use its sockets.
BLOCKED = """
import os, sys
def refuse(event, _):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"}:
        os.write(2, event.encode()); os._exit(7)
sys.addaudithook(refuse)
"""


def python(code):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED + code], check=False, capture_output=True, text=True, timeout=120
    )


def test_importing_every_public_name_opens_no_connection():
    done = python("import actionfusion\nfor name in actionfusion.__all__: getattr(actionfusion, name)")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("code", ["socket.create_connection(('127.0.0.1', 9))", "socket.gethostbyname('localhost')"])
def test_a_connection_would_be_seen(code):
    assert python(f"import socket; {code}").returncode == 7


def test_the_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert citation["version"] == __version__
    assert changes.split("\n## ")[1].split(",")[0] == __version__


def test_a_command_takes_text_for_a_path(tmp_path):
    with pytest.raises(RunFolderError, match="run: "):
        actionfusion.export(str(tmp_path / "run"), out=str(tmp_path / "model"))
    with pytest.raises(RunFolderError, match="one: "):
        actionfusion.versus(str(tmp_path / "one"), second=str(tmp_path / "two"))
    made = actionfusion.demo.__wrapped__
    assert actionfusion.demo.__doc__ == made.__doc__
    assert inspect.signature(actionfusion.demo) == inspect.signature(made)
