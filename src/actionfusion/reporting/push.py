"""The command ``push``: a run on the Hugging Face hub, with a card that says what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from actionfusion.errors import HubError, OutputError, RunFolderError, SettingsError, printable
from actionfusion.files import cannot_write, refuse_foreign, refuse_unwritable, write_atomically
from actionfusion.hub import (
    CARD,
    FILES,
    NEEDED,
    Listing,
    asking_hub,
    hub_api,
    hub_endpoint,
    hub_library,
    hub_name,
    read_listing,
)
from actionfusion.inference.exports.exported import is_export
from actionfusion.reporting.hub_card import CardFacts, is_card, render_card
from actionfusion.run_folder import SPLIT, is_there, is_unfinished, open_run
from actionfusion.terminal import Console, Text

_MOST_CARD_BYTES = 1 << 20
# What the hub itself puts into a repository, or its owner may before the first push.
_NO_CONTENT = {".gitattributes", CARD, "LICENSE"}


@dataclass(frozen=True)
class PushedRun:
    """What ``push`` did.

    Attributes:
        repository: user/name.
        files: names with their bytes, the card's too.
        address: of the repository on the hub.
        revision: the commit; None where nothing was uploaded.
    """

    repository: str
    files: Mapping[str, int]
    address: str
    revision: str | None


def push(
    run: Path,
    repository: str,
    *,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    license: str | None = None,  # noqa: A002  the hub's own word
    message: str | None = None,
    card: Path | None = None,
    split: bool = False,
    dry_run: bool = False,
    out: Path | None = None,
) -> PushedRun:
    """Put a run on the Hugging Face hub: its weights, settings and labels, and a card of what is known of it.

    Nothing else of the run folder is uploaded: no log, no checkpoint, no evaluation of single videos.  The repository
    is made if need be, and one that holds something else than a run is refused.

    Args:
        run: the run folder that ``train`` wrote.
        repository: user/name on the hub.
        private: make the repository a private one; one that is there already and is public is refused.
        revision: branch, which is made if need be; none is the main branch.
        token: with the right to write; none takes that of ``HF_TOKEN`` or ``hf auth login``, which no list of
            processes shows.
        license: of the run, by its name on the hub, such as apache-2.0; without it the card says that none was stated.
        message: of the commit.
        card: a card of your own to upload; none makes one.
        split: upload split.csv too, which names every video. Then whoever has the data set can evaluate the run, and
            prepare it in 8 bits.
        dry_run: write the card and list the files, and upload nothing.
        out: with --dry_run, the card; none writes README.md into the run folder.

    Returns:
        What was uploaded, or would be.

    Raises:
        RunFolderError: not a run folder, or one with the evaluation of another run.
        WeightsError: weights missing, damaged, or of another network.
        HubError: the hub cannot be reached or says no, or the repository holds something else.
        SettingsError: a name or a licence that is none, a file that is too large, or ``out`` is a file of another kind.
        OutputError: the card cannot be written.
    """
    name = hub_name(repository)
    if name is None or name.revision is not None:
        raise SettingsError("repository", f"{repository!r} is no name on the hub", "write user/name")
    if out is not None and not dry_run:
        raise SettingsError("out", "is where --dry_run writes the card", "give --dry_run too, or leave it out")
    if is_export(run):
        raise SettingsError(run, "is an export, which the hub's users cannot load by name", "push the run itself")
    folder = open_run(run)
    if is_unfinished(folder.path):
        raise RunFolderError(run, "its training has not come to its end", f"train --resume --out {run} goes on with it")
    target = out or folder.path / CARD
    if dry_run:
        refuse_foreign(target, is_card)
        refuse_unwritable(target)
    text = _own_card(card) if card is not None else render_card(CardFacts.of(folder, name.repository, license))
    if (
        card is None
        and not dry_run
        and is_there(folder.path / CARD, OutputError)
        and _differs(folder.path / CARD, text)
    ):
        note = f"note: {folder.path / CARD} is another card than the one that is uploaded; --card uploads it"
        Console(stderr=True).print(Text(printable(note)), soft_wrap=True)
    folder.load_network()  # what cannot be loaded is not worth an upload
    files = _files(folder.path, split=split)
    sizes = {file: path.stat().st_size for file, path in files.items()} | {CARD: len(text.encode())}
    _show(sizes)
    address = f"{hub_endpoint()}/{name.repository}"
    console = Console(stderr=True)
    if dry_run:
        try:
            write_atomically(target, text)
        except OSError as error:
            raise cannot_write(target, error, "choose another --out") from error
        said = f"nothing was uploaded to {address}; the card is {target}; changed by hand, give it with --card"
        console.print(Text(said), soft_wrap=True)
        return PushedRun(name.repository, sizes, address, None)
    commit = _Upload(name.repository, revision, token, private=private)
    oid = commit.send(files, text, message or f"Push a run of {folder.model} with {len(folder.labels)} classes")
    console.print(Text(f"pushed to {address}, revision {oid}"), soft_wrap=True)
    return PushedRun(name.repository, sizes, address, oid)


def _differs(path: Path, text: str) -> bool:
    with path.open("rb") as file:
        return file.read(_MOST_CARD_BYTES) != text.encode()


def _own_card(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_CARD_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(path, f"cannot be read ({error})", "give a Markdown file with --card") from error
    if len(text) > _MOST_CARD_BYTES:
        raise SettingsError(path, "is over 1 MiB", "give a shorter card")
    return text


def _files(run: Path, *, split: bool) -> dict[str, Path]:
    """Find the files of a run to upload.

    Raises:
        SettingsError: one is larger than what ``Recognizer.load`` takes.
    """
    found = {name: run / name for name in FILES if (run / name).is_file() and (split or name != SPLIT)}
    for name, path in found.items():
        if path.stat().st_size > FILES[name]:
            raise SettingsError(path, f"has over {FILES[name]:,} bytes", "no run of the hub is read with more")
    return found


def _show(sizes: Mapping[str, int]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("file")
    table.add_column("bytes", justify="right")
    for name, size in sizes.items():
        table.add_row(name, f"{size:,}")
    Console().print(table)


class _Upload:
    """One commit to a repository.

    Args:
        repository: user/name.
        revision: a branch, or None.
        token: as given.
        private: as given.
    """

    def __init__(self, repository: str, revision: str | None, token: str | None, *, private: bool) -> None:
        self._repository, self._revision, self._token = repository, revision, token
        self._private = private
        self._api: Any = hub_api(token)

    def send(self, files: Mapping[str, Path], card: str, message: str) -> str:
        """Make the repository and the branch if need be, upload, and return the commit.

        Raises:
            HubError: the hub says no, or the repository holds something else.
        """
        with asking_hub(self._repository, self._token, self._revision, writes=True):
            self._api.create_repo(self._repository, private=self._private or None, exist_ok=True)
        listing = read_listing(self._repository, revision=None, token=self._token)
        self._refuse(listing)
        if self._revision is not None and self._revision != "main":
            with asking_hub(self._repository, self._token, self._revision, writes=True):
                self._api.create_branch(self._repository, branch=self._revision, exist_ok=True)
            listing = read_listing(self._repository, revision=self._revision, token=self._token)
            self._refuse(listing)
        return self._commit(files, card, message, listing)

    def _commit(self, files: Mapping[str, Path], card: str, message: str, listing: Listing) -> str:
        library = hub_library()
        operations: list[Any] = [
            library.CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=card.encode()),
            *(library.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()),
            # Of an earlier run, such as its probe.
            *(library.CommitOperationDelete(path_in_repo=name) for name in listing.run_files if name not in files),
        ]
        with (
            Console(stderr=True).status(Text(f"uploading to {self._repository}")),
            asking_hub(self._repository, self._token, self._revision, writes=True),
        ):
            shown = not library.utils.are_progress_bars_disabled()
            if shown:
                library.utils.disable_progress_bars()
            try:
                made = self._api.create_commit(
                    self._repository, operations, commit_message=message, revision=self._revision
                )
            finally:
                if shown:
                    library.utils.enable_progress_bars()
        return str(made.oid)

    def _refuse(self, listing: Listing) -> None:
        if self._private and not listing.private:
            reason = "is there already and is public, and --private was asked for"
            raise HubError(self._repository, reason, "make it private on its page, or choose another name")
        others = [name for name in listing.files if name not in {*FILES, *_NO_CONTENT}]
        if others and not {*NEEDED} <= listing.files.keys():
            reason = f"holds something else than a run, such as {others[0]!r:.80}"
            raise HubError(self._repository, reason, "choose another name")
        if {*NEEDED} <= listing.files.keys():
            listing.refuse_unsafe()
