"""Run the command ``prepare``: decode a data set once into the prepared store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.progress import Progress

from actionfusion.data.estimate import Estimate
from actionfusion.data.layouts import open_dataset
from actionfusion.data.manifest import read_manifest
from actionfusion.data.outcomes import PrepareReport
from actionfusion.data.prepare import prepare as fill_store
from actionfusion.data.store import Contents
from actionfusion.errors import SettingsError
from actionfusion.models import model_class
from actionfusion.plain_progress import PlainProgress
from actionfusion.recipes import find_recipe
from actionfusion.remote_path import RemotePath
from actionfusion.settings import build, read_yaml
from actionfusion.storage import PathLike, to_path
from actionfusion.terminal import Console, Text
from actionfusion.upgrade import with_new_names
from actionfusion.video.clip import ClipSettings
from actionfusion.video.flow import FlowRecipe


def prepare(
    dataset: str,
    root: PathLike,
    *,
    store: PathLike,
    config: str | None = None,
    flow: FlowRecipe = FlowRecipe(),
    workers: int | None = None,
    ray: str | None = None,
    verify: bool = False,
    manifest: Path | None = None,
) -> PrepareReport:
    """Decode every video once, compute its flow, and keep both in a store for training.

    A second call makes only what is missing, damaged, or of another recipe or source; a call that was killed is taken
    up where it stopped.  A video that cannot be read is named and left out.

    Args:
        dataset: layout of the folder: ucf101, ucf11, ucfsports, hmdb51, folder (a folder a class), csv or shapes.
        root: folder of the data set, or its address (s3://bucket/clips and all else that fsspec opens).
        store: folder of the store, or its address; made if it is not there.
        config: a recipe, by name or as a YAML file, whose sizes, flow and model are taken instead of ``flow``; for a
            model that reads no flow none is computed.
        flow: size and flow.
        workers: processes; none takes one a core, 0 works in this process; on a cluster the most videos at once.
        ray: address of a Ray cluster to work on, whose machines see the data set and the store under the same paths:
            HOST:PORT if this machine belongs to it, ray://HOST:PORT if not, auto for the one running here.
        verify: check every byte of what is there, instead of a look at each entry's index.
        manifest: what ``check`` wrote; videos that are not ok in it are left out.

    Returns:
        What was made, kept and left out.

    Raises:
        DatasetError: the folder does not have its layout, or the store cannot be written or would fill the disk.
        SettingsError: an unknown layout, recipe or engine, an address that cannot be opened here, or the package ray is
            not installed.
        ClusterError: the cluster does not answer, is lost, or its machines differ.
    """
    contents = Contents.of_flow(flow) if config is None else _contents_of_recipe(config)
    kept_in = to_path(store)
    listing = open_dataset(dataset, root)
    if manifest is not None:
        listing = read_manifest(manifest).applied_to(listing)
    items = [(listing.path(index), entry.path, entry.segment) for index, entry in enumerate(listing.entries)]
    console = Console(stderr=True)
    console.print(Text(listing.describe()), soft_wrap=True)
    for note in listing.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    if isinstance(kept_in, RemotePath):
        console.print(Text(f"the room in {kept_in} is not known, so it was not checked"), soft_wrap=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task, lines = bar.add_task("preparing", total=len(items)), PlainProgress(console, "preparing")

        def begins(found: Estimate) -> None:
            lines.restart()
            for line in found.lines():
                console.print(Text(line), soft_wrap=True)

        def progress(done: int, total: int, _: str) -> None:
            bar.update(task, completed=done, total=total)
            lines(done, total)

        report = fill_store(
            items,
            kept_in,
            contents,
            workers=workers,
            ray=ray,
            verify=verify,
            progress=progress,
            begins=begins,
        )
    for failure in report.failures:
        console.print(Text(f"left out: {failure.message}"), soft_wrap=True)
    counts = f"{report.made} made, {report.kept} there already, {len(report.failures)} left out"
    console.print(Text(f"{counts}; {contents}; {report.seconds:.1f} s"), soft_wrap=True)
    return report


def _contents_of_recipe(name: str) -> Contents:
    """Return what the model of a recipe is trained from."""
    path = find_recipe(name)
    values = with_new_names(read_yaml(path))
    if not isinstance(values.get("clip"), Mapping) or "flow" not in values["clip"]:
        raise SettingsError(path, "says nothing of clip.flow", "give it engine, bound and size there")
    clip = build(ClipSettings, values["clip"], path, within="clip")
    kind = model_class(build(str, values.get("model", "fusion"), path, within="model"))
    settings = build(kind.Settings, values.get("network", {}), path, within="network")
    return Contents.of_clip(replace(clip, streams=kind.streams(settings)))
