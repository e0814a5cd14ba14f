"""The command ``evaluate``: how good a run is on the videos that its split kept from it."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Literal, get_args

from actionfusion.data.dataset import DataSettings, LabelledVideos
from actionfusion.data.listing import Part
from actionfusion.data.other_videos import open_other
from actionfusion.data.recorded_split import reopen_data
from actionfusion.errors import DatasetError, RunFolderError, SettingsError
from actionfusion.evaluation.beside import compare_probe
from actionfusion.evaluation.calibration import fit_temperature
from actionfusion.evaluation.kept_features import predict_from_features
from actionfusion.evaluation.metrics import classification_figures
from actionfusion.evaluation.predictions import predict_videos
from actionfusion.evaluation.printing import print_evaluation
from actionfusion.evaluation.result import Evaluation, is_trained_on, read_evaluation
from actionfusion.evaluation.views import Views
from actionfusion.files import cannot_write, refuse_foreign, refuse_unwritable, write_atomically
from actionfusion.hub import open_named_run
from actionfusion.inference.recognizer import Recognizer
from actionfusion.inference.runtimes.prepared import weights_digest
from actionfusion.models.probe import ProbeHead
from actionfusion.run_folder import PROBE, RunFolder, evaluation_path, is_unfinished
from actionfusion.storage import PathLike, plain_name, to_path
from actionfusion.terminal import Console, Text
from actionfusion.training.features import FeatureSettings
from actionfusion.training.probe import load_probe
from actionfusion.training.start import start_doubts


def evaluate(
    run: Path,
    root: PathLike | None = None,
    *,
    dataset: str | None = None,
    split: str | None = None,
    part: Part = "test",
    store: PathLike | None = None,
    views: int = 1,
    flip: bool = False,
    temperature: Literal["val"] | None = None,
    force: bool = False,
    out: Path | None = None,
    device: str | None = None,
) -> Evaluation:
    """Measure a run on the videos that its split kept from it, or on others; print the figures, write them as JSON.

    A linear probe beside the run is measured with it, on the same features.

    Args:
        run: the run folder that ``train`` wrote, or its name on the hub.
        root: folder of the data set that the run was trained on (or of other videos), or its address.
        dataset: layout of other videos than the run's, all of them if no split is given.
        split: of other videos: all-test takes all of them, whose layout is recognised if not given.
        part: side of the split: test, val or train.
        store: folder of prepared clips, or its address; none reads the videos themselves.
        views: samples of each video's frames whose probabilities are averaged; the network works so many times as long.
        flip: average the mirror image of each sample too, which doubles the work; leave it off where left and right
            distinguish classes.
        temperature: ``val`` fits one on the validation part, and reports the calibration error before and after.
        force: measure on videos that the run was trained on; the result is marked.
        out: the JSON file; none writes ``evaluation_<part>.json`` into the run folder, of other videos
            ``evaluation_on_<their folder>.json``, which is for one folder of that name.
        device: cpu, cuda, cuda:1, mps; none takes a GPU where there is one.

    Returns:
        What was printed and written.

    Raises:
        OutputError: the JSON file cannot be written; figures that were measured by then are printed.
        RunFolderError: not a run folder, or one that was not trained on a data set.
        DatasetError: the folder is not the one that the run was split on, other videos have a class that the run does
            not know, or the part holds no video, or none that can be read.
        SettingsError: videos that the run was trained on, a temperature without a validation part, or the file is one
            that this command did not write, or wrote of another folder of the same name.
        WeightsError: weights missing, damaged, of another network, or such that scores are not finite.
    """
    chosen = Views(views, flip)
    folder = open_named_run(run)
    target = out or evaluation_path(folder.path, part)
    if out is not None:
        refuse_foreign(out, lambda path: bool(read_evaluation(path)))
    others = dataset is not None or split is not None
    digest = _address_digest(root) if others else None
    if others and out is None:
        target = folder.path / f"evaluation_on_{plain_name(root or '')}.json"
        _refuse_another_folders(target, digest)
    refuse_unwritable(target)
    if others:
        videos, part = open_other(folder, DataSettings(root, dataset, split, store=store), part), "test"
        _say(*videos.listing.describe_choice("--dataset"), videos.listing.describe(), *videos.listing.notes)
    else:
        videos = reopen_data(folder, root, store)
    evaluation = measure(
        folder, videos, part, views=chosen, temperature=temperature, force=force, device=device, others=others
    )
    evaluation = replace(evaluation, root_digest=digest)
    if not evaluation.videos:
        reason = f"not one of the {len(evaluation.failed)} videos of the {part} part can be read"
        raise DatasetError(videos.listing.root, f"{reason} ({evaluation.failed[0].message})", "repair or fetch them")
    try:
        write_evaluation(evaluation, target)
    finally:
        print_evaluation(evaluation)
    _say(f"written to {target}")
    return evaluation


def _address_digest(root: PathLike | None) -> str:
    """Tell folders apart without saying where they are."""
    return hashlib.sha256(str(to_path(root or "").expanduser().absolute()).encode(errors="surrogateescape")).hexdigest()


def _refuse_another_folders(path: Path, digest: str | None) -> None:
    written = None
    with suppress(RunFolderError):
        written = read_evaluation(path).get("root_digest")
    if written not in (None, digest):
        reason = "holds the figures of another folder of this name, or of this one in another place"
        raise SettingsError(path, reason, "name another file with --out, or remove it")


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write the figures as JSON, whole or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        write_atomically(path, dumps(evaluation.as_json(), indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise cannot_write(path, error, "free some space, or choose another --out") from error


def measure(
    folder: RunFolder,
    videos: LabelledVideos,
    part: Part = "test",
    *,
    views: Views = Views(),
    temperature: Literal["val"] | None = None,
    force: bool = False,
    device: str | None = None,
    features: FeatureSettings | None = None,
    others: bool = False,
) -> Evaluation:
    """Measure a run on one part of its split, or on ``others``; arguments and errors are those of ``evaluate``.

    Videos that cannot be read are set apart, even if they are all.  Of single clips the features that a training keeps
    in a folder are read there, and those of this part are added.
    """
    _check_parts(videos, part, force=force, fits_temperature=temperature is not None)
    parts: tuple[Part, ...] = (part, "val") if temperature is not None else (part,)
    videos.check_there(parts)
    videos.check_store(folder.clip, parts)
    recognizer, probe = _load(folder, device)
    sources = videos.sources(videos.part(part), folder.clip, folder.rates)
    kept = None
    if views.single and features is not None:
        kept = predict_from_features(recognizer, sources, features, probe, prepared=videos.store is not None)
    found = kept or predict_videos(recognizer, sources, views, part, probe)
    group_of = {entry.path: entry.group for entry in videos.listing.entries}
    groups = tuple(group_of[video] for video in found.videos)
    single = classification_figures(folder.labels, found.targets, found.single).top1
    return Evaluation(
        dataset=videos.listing.dataset,
        split=videos.split.name,
        part=part,
        seed=int(folder.config.get("seed", 0)),
        split_seed=videos.settings.seed,
        counts={name: len(videos.part(name)) for name in get_args(Part)},
        notes=(
            *videos.split.notes,
            *(start_doubts(folder) if part == "test" and not others else ()),
            *(["the training has not come to its end"] if is_unfinished(folder.path) else []),
            *found.notes,
        ),
        selected_on_part=not folder.model_class.solved
        and part == {"hold_out": "val", "test": "test"}.get(videos.settings.validation),
        leaks=videos.leaks(part),
        seen_in_training=videos.seen_in_training(part),
        figures=classification_figures(folder.labels, found.targets, found.probabilities),
        videos=found.videos,
        groups=groups,
        targets=found.targets,
        probabilities=found.probabilities,
        failed=found.failed,
        views=views,
        clips=found.clips,
        single=None if views.single else single,
        temperature=None if temperature is None else _fit_temperature(recognizer, folder, videos, views),
        weights=weights_digest(folder),
        probe=None
        if found.probe is None or not found.videos
        else compare_probe(found.videos, groups, found.targets, found.probabilities, found.probe),
    )


def _load(folder: RunFolder, device: str | None) -> tuple[Recognizer, ProbeHead | None]:
    """Load a run and the probe beside it; with a probe by PyTorch, since other runtimes give no features."""
    if not (folder.path / PROBE).is_file():
        return Recognizer.load(folder, device=device), None
    recognizer = Recognizer.load(folder, runtime="torch", device=device)
    found = load_probe(folder, recognizer.network)
    return recognizer, found[0].to(recognizer.runtime.device) if found else None


def _check_parts(videos: LabelledVideos, part: Part, *, force: bool, fits_temperature: bool) -> None:
    count = len(videos.part(part))
    if not count:
        reason = f"split {videos.split.name!r} has no {part} part"
        raise DatasetError(videos.listing.root, reason, "choose another --part")
    if not force and is_trained_on(videos.seen_in_training(part), count):
        how = "the run was trained on" + ("" if part == "train" else " duplicates of")
        how = "the run was trained on videos with the names of" if videos.named_as_trained else how
        reason = f"{how} these {count} videos, so the figures would say nothing about others"
        raise SettingsError(f"{part} part", reason, "choose another --part, or --force, which marks the result")
    if fits_temperature and not videos.part("val"):
        reason = f"split {videos.split.name!r} has no validation part to fit a temperature on"
        raise SettingsError("temperature", reason, "train with --data.validation hold_out, or leave it out")
    if fits_temperature and part == "val":
        reason = "would be fitted on the very videos that it is then judged by"
        raise SettingsError("temperature", reason, "choose --part test, or leave it out")


def _fit_temperature(recognizer: Recognizer, folder: RunFolder, videos: LabelledVideos, views: Views) -> float:
    found = predict_videos(recognizer, videos.sources(videos.part("val"), folder.clip, folder.rates), views, "val")
    if not found.videos:
        reason = f"not one of the {len(found.failed)} validation videos can be read"
        raise DatasetError(videos.listing.root, reason, "repair or fetch them, or leave --temperature out")
    if found.failed:
        _say(f"temperature: {len(found.failed)} validation videos could not be read and were left out")
    return fit_temperature(found.targets, found.probabilities)


def _say(*lines: str) -> None:
    for line in lines:
        Console(stderr=True).print(Text(line), soft_wrap=True)
