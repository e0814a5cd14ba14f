"""A stand-in of the Hugging Face hub's HTTP API, as far as runs are pushed and loaded, in a thread of the tests.

It is written after the requests that huggingface_hub sends, and keeps each of them.  ``served`` and ``listed`` of a
repository let it lie.
"""

import base64
import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_right0123456789"


@dataclass
class Repository:
    private: bool = False
    commits: dict = field(default_factory=dict)  # commit: {name: bytes}
    branches: dict = field(default_factory=dict)  # name: commit
    served: dict = field(default_factory=dict)  # name: bytes that are sent in place of its own
    listed: dict = field(default_factory=dict)  # name: changes of its entry

    def commit(self, files, branch="main"):
        """Put a commit of these files, all of them, on a branch, and give it back."""
        named = hashlib.sha1(repr((sorted(files.items()), len(self.commits))).encode()).hexdigest()
        self.commits[named] = dict(files)
        self.branches[branch] = named
        return named

    def files(self, revision="main"):
        return self.commits[self.branches.get(revision, revision)]


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class StandIn:
    def __init__(self):
        self.repositories, self.large, self.requests = {}, {}, []
        self.answer = None  # (status, message) in place of every answer
        hub = self

        class Handler(_Handler):
            def __init__(self, *arguments):
                self.hub = hub
                super().__init__(*arguments)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def add(self, name, files=None, **more):
        made = self.repositories[name] = Repository(**more)
        if files is not None:
            made.commit(files)
        return made


@contextmanager
def stand_in():
    hub = StandIn()
    try:
        yield hub
    finally:
        hub.close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def _send(self, status, body=b"", **headers):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, status, code="", message=""):
        self._send(status, {"error": message}, **{"X-Error-Code": code, "X-Error-Message": message})

    def _handle(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, self.path, dict(self.headers), body))
        if self.hub.answer is not None:
            return self._refuse(self.hub.answer[0], "", self.hub.answer[1])
        given = self.headers.get("Authorization")
        if given is not None and given != f"Bearer {TOKEN}":
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        self.known = given is not None
        return self._write(path, body) if self.command in ("POST", "PUT") else self._read(path)

    do_GET = do_HEAD = do_POST = do_PUT = _handle  # noqa: N815

    def _find(self, name):
        found = self.hub.repositories.get(name)
        if found is None or (found.private and not self.known):
            self._refuse(404 if self.known else 401, "RepoNotFound", "Repository not found")
            return None
        return found

    def _read(self, path):
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            repository, revision = self._find("/".join(parts[2:4])), "/".join(parts[5:]) or "main"
        else:
            repository, revision = self._find("/".join(parts[:2])), parts[3]
        if repository is None:
            return None
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            if revision == "main" and parts[0] == "api":
                return self._send(200, {"id": path, "sha": None, "private": repository.private, "siblings": []})
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        files = repository.commits[commit]
        if parts[0] == "api":
            listed = [_entry(name, content, repository.listed.get(name)) for name, content in files.items()]
            listed += [
                {"rfilename": name, "size": 1, "blobId": "0" * 40} for name in repository.listed if name not in files
            ]
            return self._send(
                200, {"id": "/".join(parts[2:4]), "sha": commit, "private": repository.private, "siblings": listed}
            )
        name = "/".join(parts[4:])
        content = repository.served.get(name, files.get(name))
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        return self._send(200, content, ETag=f'"{hashlib.sha256(files[name]).hexdigest()}"', X_Repo_Commit=commit)

    def _write(self, path, body):
        parts = path.strip("/").split("/")
        if self.command == "PUT":
            self.hub.large[parts[1]] = body
            self._send(200)
        elif not self.known:
            self._refuse(401, "", "Invalid username or password.")
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith("/info/lfs/objects/batch"):
            self._take_large(json.loads(body)["objects"])
        elif (repository := self._find("/".join(parts[2:4]))) is not None:
            verb, revision = parts[4], "/".join(parts[5:])
            if verb != "branch" and revision not in repository.branches:
                self._refuse(404, "RevisionNotFound", "Invalid rev id")
            else:
                {"branch": self._branch, "preupload": self._choose_modes, "commit": self._commit}[verb](
                    repository, revision, body
                )

    def _create(self, given):
        name = f"{given['organization']}/{given['name']}"
        if not name.startswith("me/"):
            self._refuse(403, "", f"You don't have the rights to create a model under {name}")
        elif name in self.hub.repositories:
            self._send(409, {"url": f"{self.hub.address}/{name}", "error": "You already created this model repo"})
        else:
            private = given.get("visibility") == "private" or bool(given.get("private"))
            self.hub.add(name, {".gitattributes": b""}, private=private)
            self._send(200, {"url": f"{self.hub.address}/{name}", "id": name})

    def _take_large(self, objects):
        where = f"{self.hub.address}/lfs/"
        taken = [{**each, "actions": {"upload": {"href": where + each["oid"], "header": {}}}} for each in objects]
        self._send(200, {"transfer": "basic", "objects": taken})

    def _branch(self, repository, revision, _):
        repository.branches[revision] = repository.branches["main"]
        self._send(200, {})

    def _choose_modes(self, _, __, body):
        names = [each["path"] for each in json.loads(body)["files"]]
        large = {True: "lfs", False: "regular"}
        modes = [
            {"path": name, "uploadMode": large[name.endswith(".safetensors")], "shouldIgnore": False} for name in names
        ]
        self._send(200, {"files": modes})

    def _commit(self, repository, revision, body):
        files = dict(repository.files(revision))
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        commit = repository.commit(files, revision)
        name = next(name for name, each in self.hub.repositories.items() if each is repository)
        self._send(200, {"commitUrl": f"{self.hub.address}/{name}/commit/{commit}", "commitOid": commit})


def _entry(name, content, changes):
    entry = {"rfilename": name, "size": len(content), "blobId": git_sha1(content)}
    if name.endswith(".safetensors"):
        entry["lfs"] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest(), "pointerSize": 134}
    return entry | (changes or {})
