"""The folds of a protocol: which splits, with which seeds, each in a folder of its own."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from actionfusion.data.dataset import DataSettings
from actionfusion.data.listing import Listing, some
from actionfusion.data.splits import folds_of, split_names
from actionfusion.errors import DatasetError, SettingsError

ProtocolName = Literal[
    "official",
    "random-7:3",
    "stratified-7:3",
    "grouped-7:3",
    "leave-one-group-out",
    "leave-one-out",
    "column",
    "folders",
]
DRAWN = {"random-7:3", "stratified-7:3", "grouped-7:3"}
_LONGEST_NAME = 80


@dataclass(frozen=True)
class Fold:
    """One training and one test of a protocol.

    Attributes:
        split: as ``make_split`` takes it.
        split_seed: of the draw of a random split and of the validation part.
        seed: of the training.
        drawn: whether the split is a random one.
    """

    split: str
    split_seed: int
    seed: int
    drawn: bool

    @property
    def split_name(self) -> str:
        """The split with its draw, such as ``random-7:3-draw-0``."""
        return f"{self.split}-draw-{self.split_seed}" if self.drawn else self.split

    @property
    def name(self) -> str:
        """Name of the fold, such as ``official-1-seed-0``."""
        return f"{self.split_name}-seed-{self.seed}"

    @property
    def folder(self) -> str:
        """Name of its folder, the same on every file system."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", self.name)
        if plain != self.name or len(plain) > _LONGEST_NAME:
            digest = hashlib.sha256(self.name.encode(errors="surrogatepass")).hexdigest()[:8]
            plain = f"{plain[:_LONGEST_NAME]}-{digest}"
        return f"fold-{plain}"

    def data(self, settings: DataSettings) -> DataSettings:
        """Give its training the split and the seed."""
        return replace(settings, split=self.split, seed=self.split_seed)


def make_folds(
    listing: Listing, protocol: ProtocolName, split_seed: int, repeats: int, seeds: Sequence[int]
) -> tuple[Fold, ...]:
    """List all folds of a protocol, seed by seed.

    Args:
        listing: the videos.
        protocol: its name.
        split_seed: of the first draw; the others follow it one by one.
        repeats: draws of a random split.
        seeds: of the trainings, each over all splits.

    Raises:
        SettingsError: no repeats, repeats of a split that is not drawn, or no seed, a seed twice or below 0.
        DatasetError: the data set does not have such splits.
    """
    if repeats < 1 or (repeats > 1 and protocol not in DRAWN):
        reason = f"{repeats} repeats of {protocol}" + (" are none" if repeats < 1 else ", which is not drawn")
        raise SettingsError("repeats", reason, "take 1, or several --seeds")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise SettingsError("seeds", f"{list(seeds)}", "take one or more, each once, from 0")
    splits = list(_splits(listing, protocol, split_seed, repeats))
    if not splits:
        reason = f"makes no split {protocol!r}"
        raise DatasetError(listing.root, reason, f"its splits are {some(split_names(listing), most=12)}")
    return tuple(Fold(split, draw, seed, protocol in DRAWN) for seed in seeds for split, draw in splits)


def _splits(listing: Listing, protocol: ProtocolName, seed: int, repeats: int) -> Iterator[tuple[str, int]]:
    if protocol == "official":
        names = sorted(name for name in listing.official if name.startswith("official-"))
    elif protocol == "leave-one-group-out":
        names = [f"{protocol}:{group}" for group in folds_of(listing)]
    elif protocol == "leave-one-out":
        names = [f"{protocol}:{path}" for path in dict.fromkeys(entry.file_path for entry in listing.entries)]
    elif protocol in DRAWN:
        names = [protocol]
    else:
        names = [protocol] if protocol in listing.official else []
    return ((name, seed + repeat) for repeat in range(repeats) for name in names)
