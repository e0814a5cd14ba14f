"""The command ``average``: a run that answers with the mean of other runs' probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from actionfusion.errors import RunFolderError, SettingsError
from actionfusion.files import cannot_write, refuse_unwritable, replacing_folder
from actionfusion.hub import open_named_run
from actionfusion.models.average import Average, AverageSettings
from actionfusion.run_folder import SPLIT, RunFolder, create_run, refuse_taken
from actionfusion.settings import plain
from actionfusion.streams import STREAMS
from actionfusion.terminal import Console, Text
from actionfusion.training.start import start_doubts
from actionfusion.version import __version__
from actionfusion.video.clip import ClipSettings

_KEPT = ("data", "seed", "rates")


def average(runs: Sequence[str | Path], *, out: Path, weights: tuple[float, ...] | None = None) -> Path:
    """Make a run of several, whose probabilities are the mean of theirs: of RGB and flow, of several seeds.

    It holds the networks of all, and every command takes it like any other run.  One clip of a video is cut for all, so
    they must read the same frames; that a run reads RGB alone or flow alone is no difference.

    Args:
        runs: two or more run folders that ``train`` wrote, or their names on the hub, all of one split.
        out: the folder of the new run.
        weights: a share of each run, such as [1,1.5]; none takes all alike.

    Returns:
        The new run's folder.

    Raises:
        SettingsError: fewer than two runs, weights that do not fit, or runs that no network is in.
        RunFolderError: not a run folder, or runs of other classes, another split or other clips.
        WeightsError: weights that are missing or damaged.
        OutputError: the folder cannot be written.

    Source: Simonyan and Zisserman 2014, who average the scores of two streams.
    """
    if len(runs) < 2:
        raise SettingsError("runs", "one run has no average", "give two or more")
    shares = weights if weights is not None else (1.0,) * len(runs)
    if len(shares) != len(runs):
        raise SettingsError("weights", f"{len(shares)} for {len(runs)} runs", "give one for each run")
    refuse_taken(out)
    refuse_unwritable(out / SPLIT)
    folders = [open_named_run(Path(run)) for run in runs]
    for folder in folders[1:]:
        _refuse_other(folder, folders[0])
    clip = _common_clip(folders)
    members: list[dict[str, Any]] = [
        {"model": folder.model, "network": plain(folder.network), "weight": float(share)}
        for folder, share in zip(folders, shares, strict=True)
    ]
    settings = AverageSettings(
        num_classes=len(folders[0].labels),
        frames=clip.frames,
        image_size=clip.frame_size,
        flow_size=clip.flow.size,
        flow_channels=clip.flow_channels,
        members=tuple(members),
    )
    network = Average(settings)
    for member, folder in zip(network.members, folders, strict=True):
        member.load_state_dict(folder.load_network().state_dict())
    _write(out, folders, clip, network)
    names = ", ".join(map(str, runs))
    Console(stderr=True).print(Text(f"the average of {names} is written to {out}"), soft_wrap=True)
    return out


def _write(out: Path, folders: Sequence[RunFolder], clip: ClipSettings, network: Average) -> None:
    # What flatters one member flatters the average: test videos that ended a training, or that a start has seen.
    first = next((folder for folder in folders if _ended_by_test_videos(folder)), folders[0])
    further = {name: first.config[name] for name in _KEPT if name in first.config}
    further["start_doubts"] = list(dict.fromkeys(doubt for folder in folders for doubt in start_doubts(folder)))
    further["versions"] = {"actionfusion": __version__}
    try:
        with replacing_folder(out) as temporary:
            run = create_run(
                temporary,
                model="average",
                clip=clip,
                network=network.settings,
                labels=folders[0].labels,
                further=further,
            )
            if "data" in further:
                (temporary / SPLIT).write_bytes((first.path / SPLIT).read_bytes())
            run.save_weights(network)
    except OSError as error:
        raise cannot_write(out, error, "free some space, or choose another --out") from error


def _ended_by_test_videos(folder: RunFolder) -> bool:
    return not folder.model_class.solved and folder.config.get("data", {}).get("validation") == "test"


def _refuse_other(folder: RunFolder, first: RunFolder) -> None:
    """See that two runs answer the same question about videos that neither has learned from."""
    if folder.labels != first.labels:
        only = sorted(set(folder.labels) ^ set(first.labels))
        reason = f"has other classes than {first.path} ({', '.join(only[:3]) or 'in another order'})"
        raise RunFolderError(folder.path, reason, "average runs of one data set")
    ours, theirs = (_split_of(each) for each in (folder, first))
    if ours != theirs:
        reason = f"was trained on another split than {first.path}: it may have learned what the other is tested on"
        raise RunFolderError(folder.path, reason, "train both with the same --data.split and --data.seed")
    if folder.rates != first.rates:
        reason = f"knows other frame rates of its training videos than {first.path}"
        raise RunFolderError(folder.path, reason, "train both on the same videos by the same version")


def _split_of(folder: RunFolder) -> object:
    data = folder.config.get("data")
    return None if data is None else (data.get("dataset"), data.get("digest"))


def _common_clip(folders: Sequence[RunFolder]) -> ClipSettings:
    """Find the clip settings of which each run reads its own part unchanged.

    Raises:
        RunFolderError: there are none.
    """
    streams = tuple(stream for stream in STREAMS if any(stream in folder.clip.streams for folder in folders))
    of_rgb = next((folder.clip for folder in folders if "rgb" in folder.clip.streams), folders[0].clip)
    of_flow = next((folder.clip for folder in folders if folder.clip.reads_flow), folders[0].clip)
    size = of_rgb.frame_size if of_rgb.frame_size != of_flow.flow.size else None
    clip = replace(of_rgb, streams=streams, flow=of_flow.flow, flow_frames=of_flow.flow_frames, size=size)
    for folder in folders:
        # Frames of another size would have been decoded at another, and be others by a digit.
        ours, own = (_facts(each, folder.clip) for each in (clip, folder.clip))
        if unlike := [f"{name} {own[name]}, not {ours[name]}" for name in own if own[name] != ours[name]]:
            others = next(each.path for each in folders if each.clip in (of_rgb, of_flow) and each is not folder)
            reason = f"reads other clips than {others}: {', '.join(unlike)}"
            raise RunFolderError(folder.path, reason, "average runs of one recipe, of one stream or both")
    return clip


def _facts(clip: ClipSettings, reader: ClipSettings) -> dict[str, object]:
    """What decides the pictures that a run reads of a clip."""
    facts: dict[str, object] = {
        "frames": clip.frames,
        "sampling": clip.sampling,
        "stride": clip.stride if clip.sampling == "dense" else None,
        "decoded at": clip.decoded_size,
    }
    if "rgb" in reader.streams:
        facts["size"] = clip.frame_size
    if reader.reads_flow:
        facts |= {"flow_frames": clip.flow_frames, "flow": clip.flow}
    return facts
