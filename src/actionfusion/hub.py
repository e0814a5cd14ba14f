"""Runs on the Hugging Face hub: the names and bounds of their files there, and how a run is fetched into a folder here.

A repository may be a stranger's.  Of its files only those in ``FILES`` are fetched, each within its bound and with the
hash that the hub lists; one that also holds pickles or names that lead elsewhere is refused.  Nothing in it is run.
A fetched run is ``CACHE/user--name/COMMIT``, which appears when it is whole, with the hashes in ``hub.json``; they are
compared at every start.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from json import dumps
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import quote

from actionfusion.errors import ActionFusionError, HubError, printable
from actionfusion.files import cannot_write, replacing_folder, write_atomically
from actionfusion.models.weights import HUB_FAILURES, file_sha256, quiet_hub
from actionfusion.run_folder import CONFIG, LABELS, METRICS, PROBE, SPLIT, WEIGHTS, RunFolder, is_unfinished, open_run
from actionfusion.settings import YAML_BYTES, read_json
from actionfusion.terminal import Console, Text
from actionfusion.version import __version__

FILES: Mapping[str, int] = {
    CONFIG: YAML_BYTES,
    LABELS: 4 << 20,
    WEIGHTS: 8 << 30,
    METRICS: 16 << 20,
    SPLIT: 256 << 20,
    PROBE: 1 << 30,
}
"""What a run has on the hub, besides its card, with the most bytes that each may have."""
NEEDED = (CONFIG, LABELS, WEIGHTS)
CARD = "README.md"
RECORD = "hub.json"
LIBRARY = {"library_name": "actionfusion", "library_version": __version__}

_NAME = re.compile(r"(hf:/{1,2})?(\w[\w.-]{0,95}/\w[\w.-]{0,95})(?:@(\w[\w./-]{0,200}))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKEN = re.compile(r"[!-~]+")
# Formats that run code when they are read, by their usual endings.
_PICKLES = {".bin", ".ckpt", ".dill", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}
_CHUNK = 1 << 20
_SECONDS = 20.0


class HubName(NamedTuple):
    """A run's name on the hub.

    Attributes:
        repository: user/name.
        revision: branch, tag or commit after ``@``; None for the main branch.
        explicit: whether it was written with ``hf://``.
    """

    repository: str
    revision: str | None
    explicit: bool


@dataclass(frozen=True)
class FetchedRun:
    """A run of the hub in a folder here.

    Attributes:
        repository: user/name.
        revision: the commit, 40 hexadecimal digits.
        path: the folder.
        downloaded: bytes that were fetched now; 0 if all was there.
    """

    repository: str
    revision: str
    path: Path
    downloaded: int

    def __str__(self) -> str:
        how = f"downloaded {self.downloaded / 1e6:,.1f} MB to" if self.downloaded else "already in"
        return f"{self.repository}, revision {self.revision}, of the hub: {how} {self.path}"


def hub_name(run: str | Path) -> HubName | None:
    """Read ``user/name``, ``user/name@revision`` or ``hf://user/name``; None for what can be no name on the hub."""
    text = run.as_posix() if isinstance(run, Path) else run
    found = _NAME.fullmatch(text)
    if found is None or any(sign in text for sign in ("..", "--", ".git/")):
        return None
    return HubName(found[2], found[3], found[1] is not None)


def local_run(
    run: str | Path,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache: Path | None = None,
    offline: bool | None = None,
) -> Path:
    """Find the folder of a run, which is fetched where the run is a name on the hub and no folder here.

    A folder of that name always wins.  So does the folder ``user`` if there is one: then ``user/name`` is a path that
    was mistyped, and only ``hf://user/name`` is one on the hub.

    Args:
        run: a folder, ``user/name``, ``user/name@revision`` or ``hf://user/name``.
        revision: branch, tag or commit; none is that after the ``@``, or the main branch.
        token: for private repositories; none takes that of ``HF_TOKEN`` or ``hf auth login``.
        cache: folder for what is fetched; none takes ``actionfusion`` in the hub's own cache of assets.
        offline: take only what was fetched before; none is so where ``HF_HUB_OFFLINE`` is set.

    Returns:
        The folder; of a path that is no name on the hub, the path itself, whether it is there or not.

    Raises:
        HubError: as ``fetch_run``.
    """
    name, path = hub_name(run), Path(run)
    if str(run).startswith("hf:") and name is None:
        raise HubError(run, "is no name on the hub", "write hf://user/name or hf://user/name@revision")
    if name is None or (not name.explicit and (os.path.lexists(path) or path.parent.is_dir())):
        return path
    fetched = fetch_run(name.repository, revision=revision or name.revision, token=token, cache=cache, offline=offline)
    Console(stderr=True).print(Text(printable(str(fetched))), soft_wrap=True)
    return fetched.path


def open_named_run(run: str | Path) -> RunFolder:
    """Open a run folder, or a run of the hub by its name; it is said if its training was stopped.

    Raises:
        RunFolderError, HubError: as ``open_run`` and ``local_run``.
    """
    folder = open_run(local_run(run))
    say_if_unfinished(folder.path)
    return folder


def say_if_unfinished(run: Path) -> None:
    """Say it of a run whose training was stopped, or is still at work."""
    if is_unfinished(run):
        line = f"note: the training of {run} has not come to its end; train --resume --out {run} goes on with it"
        Console(stderr=True).print(Text(line), soft_wrap=True)


def fetch_run(
    repository: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    cache: Path | None = None,
    offline: bool | None = None,
) -> FetchedRun:
    """Fetch a run of the hub, or find it in the cache.

    A commit that is in the cache is asked for nowhere.  Of a branch or tag the hub is asked which commit it is; where
    the hub cannot be reached, that of the last time is taken, which is said.

    Args:
        repository: user/name.
        revision: branch, tag or commit; none is the main branch.
        token: as ``local_run``.
        cache: as ``local_run``.
        offline: as ``local_run``.

    Raises:
        HubError: no such repository or revision, no right to read it, not reachable and not in the cache, or a
            repository that is refused: without a run, with pickles, with too large files or other hashes.
        OutputError: the cache cannot be written.
    """
    hub, wanted = hub_library(), revision or "main"
    folder = cached_runs(cache) / repository.replace("/", "--")
    if _COMMIT.fullmatch(wanted) and (folder / wanted).is_dir():
        return FetchedRun(repository, wanted, _verified(folder / wanted), 0)
    commit = _last_commit(folder, wanted)
    if hub.constants.HF_HUB_OFFLINE if offline is None else offline:
        if commit is None:
            reason = f"revision {wanted} is not in {folder}, and the hub is not asked (offline)"
            raise HubError(repository, reason, "fetch it once while online, or copy that folder")
        return FetchedRun(repository, commit, _verified(folder / commit), 0)
    try:
        listing = read_listing(repository, revision=wanted, token=token)
    except HubUnreachable as error:
        if commit is None:
            raise
        note = f"note: {error.reason}; taken is what {wanted} was the last time"
        Console(stderr=True).print(Text(printable(note)), soft_wrap=True)
        return FetchedRun(repository, commit, _verified(folder / commit), 0)
    listing.refuse_unsafe()
    downloaded = 0
    if not (folder / listing.commit).is_dir():
        downloaded = _download(listing, folder / listing.commit, token)
    with suppress(OSError):  # a cache that cannot be written holds the run all the same
        write_atomically(_reference(folder, wanted), listing.commit)
    return FetchedRun(repository, listing.commit, _verified(folder / listing.commit), downloaded)


def cached_runs(cache: Path | None = None) -> Path:
    """Return the folder of the fetched runs."""
    return cache or Path(hub_library().constants.HF_ASSETS_CACHE) / "actionfusion" / "runs"


class HubUnreachable(HubError):
    """The hub gives no answer, as without a network."""


class HubFile(NamedTuple):
    """A file of a repository.

    Attributes:
        size: bytes.
        sha256: of its content where the hub keeps that, as of large files.
        git_sha1: git's hash of it, where it is kept as it is.
    """

    size: int
    sha256: str | None
    git_sha1: str | None


@dataclass(frozen=True)
class Listing:
    """What a repository holds at a commit.

    Attributes:
        repository: user/name.
        commit: 40 hexadecimal digits.
        private: whether only its owners see it.
        files: by name.
    """

    repository: str
    commit: str
    private: bool
    files: Mapping[str, HubFile]

    @property
    def run_files(self) -> dict[str, HubFile]:
        """Those of a run."""
        return {name: self.files[name] for name in FILES if name in self.files}

    def refuse_unsafe(self) -> None:
        """Refuse a repository that is no run, or that holds what a run on the hub must not.

        Raises:
            HubError: the file is named.
        """
        for name in self.files:
            parts = PurePosixPath(name).parts
            if ".." in parts or name.startswith("/") or any(sign in name for sign in "\\:\0") or not parts:
                self._refuse(f"names a file {name!r:.80}, which leads elsewhere")
            if PurePosixPath(name).suffix.lower() in _PICKLES:
                self._refuse(f"holds {name!r:.80}, a format that can run code when it is read")
        if missing := [name for name in NEEDED if name not in self.files]:
            self._refuse(f"holds no run of actionfusion: there is no {missing[0]}")
        for name, file in self.run_files.items():
            if not 0 <= file.size <= FILES[name]:
                self._refuse(f"says that {name} has {file.size:,} bytes, more than the {FILES[name]:,} that are read")
            if file.sha256 is None and file.git_sha1 is None:
                self._refuse(f"names no hash of {name}")

    def _refuse(self, reason: str) -> None:
        raise HubError(self.repository, reason, "ask its owner for a run pushed by actionfusion push")


def read_listing(repository: str, *, revision: str | None, token: str | None) -> Listing:
    """Ask the hub which commit a revision is, and which files it has.

    Raises:
        HubError: no such repository or revision, no right to read it, or an answer that makes no sense.
        HubUnreachable: no answer.
    """
    with asking_hub(repository, token, revision):
        info = hub_api(token).model_info(repository, revision=revision, files_metadata=True, timeout=_SECONDS)
        commit, files = str(info.sha), {}
        for each in info.siblings or ():
            large = each.lfs
            size = large.size if large is not None else each.size
            files[str(each.rfilename)] = HubFile(
                size if isinstance(size, int) else -1,
                str(large.sha256) if large is not None else None,
                str(each.blob_id) if large is None and each.blob_id else None,
            )
    if not _COMMIT.fullmatch(commit):
        raise HubError(repository, f"the hub names no commit of it, but {commit!r:.60}", "try again later")
    return Listing(repository, commit, bool(info.private), files)


def _download(listing: Listing, target: Path, token: str | None) -> int:
    """Fetch the files of a run into a folder that appears when it is whole, and return its bytes."""
    endpoint, total = hub_endpoint(), sum(file.size for file in listing.run_files.values())
    console, sizes = Console(stderr=True), []
    try:
        with replacing_folder(target) as folder, console.status("") as status:
            for name, file in listing.run_files.items():
                status.update(Text(printable(f"{listing.repository}: {name}, {file.size / 1e6:,.1f} MB")))
                with asking_hub(listing.repository, token, listing.commit):
                    hub_library().hf_hub_download(
                        listing.repository,
                        name,
                        revision=listing.commit,
                        local_dir=folder,
                        token=token,
                        endpoint=endpoint,
                        tqdm_class=_bounded(listing.repository, name, file.size),
                        **LIBRARY,
                    )
                sizes.append(_check_file(listing.repository, folder / name, file))
            shutil.rmtree(folder / ".cache", ignore_errors=True)  # the library's notes
            hashes = {name: file_sha256(folder / name) for name in listing.run_files}
            about = {"repository": listing.repository, "revision": listing.commit, "endpoint": endpoint}
            write_atomically(folder / RECORD, dumps(about | {"files": hashes}, indent=1) + "\n")
            if target.is_dir():  # another process was faster
                return total
    except ActionFusionError:
        raise
    except OSError as error:
        if target.is_dir():
            return total
        raise cannot_write(target, error, "free some space, or choose another cache (HF_HOME)") from error
    return sum(sizes)


def _bounded(repository: str, name: str, size: int) -> type[Any]:
    """Make a progress bar that shows nothing, and ends a download that is longer than the hub said."""
    bar: Any = hub_library().utils.tqdm

    class Bounded(bar):  # type: ignore[misc]
        def __init__(self, *_: Any, **__: Any) -> None:
            super().__init__(disable=True)
            self.got = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.got += int(n or 0)
            if self.got > size:
                reason = f"sends more of {name} than the {size:,} bytes that it says"
                raise HubError(repository, reason, "try again, or ask its owner")
            return None

    return Bounded


def _check_file(repository: str, path: Path, file: HubFile) -> int:
    """Compare a downloaded file with the listing, and return its size."""
    size = path.stat().st_size
    if file.sha256 is not None:
        right = file_sha256(path) == file.sha256
    else:
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        with path.open("rb") as opened:
            while chunk := opened.read(_CHUNK):
                digest.update(chunk)
        right = digest.hexdigest() == file.git_sha1
    if size != file.size or not right:
        reason = f"{path.name} is not what the hub lists: its size or its hash is another"
        raise HubError(repository, reason, "try again, or ask its owner; nothing of it is kept")
    return size


def _verified(folder: Path) -> Path:
    """Compare a fetched run with the hashes that it was fetched with."""
    remedy = f"remove the folder {folder}, and it is fetched again"
    files = read_json(folder / RECORD, HubError, remedy).get("files")
    if not isinstance(files, dict) or not {*NEEDED} <= files.keys() <= FILES.keys():
        raise HubError(folder / RECORD, "is no record of a fetched run", remedy)
    for name, sha256 in files.items():
        if not (folder / name).is_file() or file_sha256(folder / name) != sha256:
            raise HubError(folder / name, "is not what was downloaded: it is gone, or its hash is another", remedy)
    return folder


def _reference(folder: Path, revision: str) -> Path:
    return folder / "refs" / quote(revision, safe="")


def _last_commit(folder: Path, revision: str) -> str | None:
    """Find the commit that a revision was the last time, if that is in the cache."""
    try:
        with _reference(folder, revision).open(encoding="ascii") as file:
            commit = file.read(41)
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) and (folder / commit).is_dir() else None


def hub_library() -> ModuleType:
    """Import the hub's library, with the facts that it would send about this machine turned off."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub  # noqa: PLC0415

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True  # it may have been imported before
    return huggingface_hub


def hub_endpoint() -> str:
    """Return the hub's address: ``HF_ENDPOINT``, or huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or str(hub_library().constants.ENDPOINT)


def hub_api(token: str | None) -> Any:
    """Make the library's client.

    Raises:
        HubError: a token with signs that no header takes; it is not repeated.
    """
    if token is not None and not _TOKEN.fullmatch(token):
        raise HubError("token", "is empty, or holds spaces or signs that no token has", "copy it again from the hub")
    return hub_library().HfApi(endpoint=hub_endpoint(), token=token, **LIBRARY)


@contextmanager
def asking_hub(
    repository: str, token: str | None, revision: str | None = None, *, writes: bool = False
) -> Iterator[None]:
    """Turn what the hub's library raises into one line, without the token in it.

    Meanwhile it sends and fetches by plain HTTP: its faster way, Xet, waits for ever where the hub does not answer.

    Args:
        repository: user/name.
        token: as given.
        revision: as asked for.
        writes: whether something was to be written there.
    """
    constants, errors, where = hub_library().constants, hub_library().errors, hub_endpoint()
    without_xet, constants.HF_HUB_DISABLE_XET = constants.HF_HUB_DISABLE_XET, True
    log_in = "check the name, or give a token that may: HF_TOKEN, or hf auth login"
    try:
        with quiet_hub():
            yield
    except ActionFusionError:
        raise
    except errors.GatedRepoError as error:
        reason = f"its owner grants access at {where}/{repository}, and this token has none"
        raise HubError(repository, reason, "ask for it there") from error
    except errors.RepositoryNotFoundError as error:
        here = "" if writes else "is no folder here, and "
        raise HubError(repository, f"{here}{where} has no such repository, or it is private", log_in) from error
    except errors.RevisionNotFoundError as error:
        raise HubError(repository, f"has no revision {revision!r}", f"see {where}/{repository}/tree/main") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        said = _without(token, str(error.server_message or ""))
        reason = f"{where} answers {status}{f' ({said})' if said else ''}"
        wait = status >= 500 or status == 429
        raise HubError(repository, reason, "try again later" if wait else log_in) from error
    except errors.HFValidationError as error:
        raise HubError(repository, "is no name that the hub takes", "write user/name") from error
    except HUB_FAILURES as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise cannot_write(Path(error.filename or "the cache"), error, "free some space, or set HF_HOME") from error
        if not isinstance(error, _no_answer()):
            reason = f"{where} does not answer as the hub does ({_without(token, str(error)) or type(error).__name__})"
            raise HubError(repository, reason, "try again later") from error
        here = "" if writes else "is no folder here, and "
        reason = f"{here}{where} cannot be reached ({type(error).__name__})"
        raise HubUnreachable(repository, reason, "check the path, or the network") from error
    finally:
        constants.HF_HUB_DISABLE_XET = without_xet


def _no_answer() -> tuple[type[BaseException], ...]:
    """List what is raised where nobody answers."""
    errors = hub_library().errors
    http = tuple(base for base in errors.HfHubHTTPError.__bases__ if base is not OSError)
    return (ConnectionError, TimeoutError, errors.LocalEntryNotFoundError, *http)


_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def _without(token: str | None, text: str) -> str:
    """Shorten what the hub says to a line without a token."""
    for secret in filter(None, (token, hub_library().get_token())):
        text = text.replace(secret, "***")
    return " ".join(text.split())[:200]
