"""What is solved and not trained: the model `probe`, and a linear probe beside each run on cached features.

It is done before the run folder is made, so that the same command starts again where it was stopped.  It draws no
random number, so that a network learns the same with a probe beside it and without.

``probe.safetensors`` in the run holds the probe's weights and, in its header, what it was made of.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from actionfusion.data.loading import KeyedDataset
from actionfusion.errors import SettingsError, WeightsError
from actionfusion.files import replacing
from actionfusion.intervals import wilson
from actionfusion.models.model import VideoModel
from actionfusion.models.probe import PoolingName, ProbeHead
from actionfusion.models.solving import DescribedClips, SolveReport
from actionfusion.run_folder import PROBE, RunFolder, misfitting_tensors, writing
from actionfusion.settings import build, parse_json, plain
from actionfusion.training.checkpoint import TrainingState
from actionfusion.training.checkpointing import RunWriter
from actionfusion.training.described import KnownDescriptions, describe_clips
from actionfusion.training.learner import Learner
from actionfusion.training.measuring import totals_of
from actionfusion.training.plan import Plan
from actionfusion.training.progress import features_progress

_ABOUT = "probe"
_DESCRIBED = KnownDescriptions()
_REMEDY = "copy the whole run folder again, or remove the file: the run is then evaluated without a probe"


@dataclass(frozen=True)
class ProbeFacts:
    """What a probe beside a run was made of, and how it does; the header of its file holds it.

    Args:
        pooling: of the head.
        changes: of the head.
        views: augmented views of each training video that it was solved on; 0 for the plain clip.
        report: of solving.
        validation_correct: videos of the validation part that it classifies correctly; None without such a part.
        validation_count: videos there.

    Raises:
        SettingsError: more correct videos than there are.
    """

    pooling: PoolingName
    changes: bool
    views: int
    report: SolveReport
    validation_correct: int | None = None
    validation_count: int = 0

    def __post_init__(self) -> None:
        if self.validation_correct is not None and not 0 <= self.validation_correct <= self.validation_count > 0:
            reason = f"{self.validation_correct} correct of {self.validation_count}"
            raise SettingsError("validation", reason, "take no more than there are")


@dataclass(frozen=True)
class BesideRun:
    """The probe beside a run, or why there is none.

    Attributes:
        line: to print; empty for a probe that the run holds already.
        facts: of the probe.
        head: to be written; None where the run holds it, or there is none.
    """

    line: str
    facts: ProbeFacts | None = None
    head: ProbeHead | None = None

    def write(self, run: RunFolder) -> None:
        """Write the probe into the run, if there is one to write.

        Raises:
            RunFolderError: it cannot be written.
        """
        if self.head is None:
            return
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        with writing(run.path / PROBE), replacing(run.path / PROBE) as temporary:
            save_file(tensors, temporary, {_ABOUT: json.dumps(plain(self.facts), sort_keys=True)})

    def against(self, run: RunFolder) -> str:
        """Compare the probe with the network's best epoch on the validation part; empty where that cannot be done."""
        accuracies = [value for row in run.read_metrics() if (value := row["val_accuracy"]) is not None]
        if self.facts is None or self.facts.validation_correct is None or not accuracies:
            return ""
        own = self.facts.validation_correct / self.facts.validation_count
        better = "; the linear probe is better" if own > max(accuracies) else ""
        share = _share(self.facts.validation_correct, self.facts.validation_count)
        return f"on the validation part: best epoch {100 * max(accuracies):.1f} %, linear probe {share}{better}"


def solve_beside(
    plan: Plan, network: VideoModel, learn: KeyedDataset, check: KeyedDataset | None, run: RunFolder | None = None
) -> BesideRun:
    """Solve a linear probe on the very features that the network learns from: all kept views of each video.

    Args:
        plan: of the training.
        network: whose backbones made the features.
        learn: cached features of the training part.
        check: of the validation part.
        run: that is gone on with; a probe that it holds stays.

    Raises:
        DatasetError: features that cannot be read.
        WeightsError: the run's probe is damaged.
    """
    if reason := _why_none(plan):
        how = "actionfusion train --config probe trains one on the same --data, actionfusion versus compares both"
        return BesideRun(f"no linear probe beside this run, since {reason}; {how}")
    if run is not None and (found := load_probe(run, network)) is not None:
        return BesideRun("", found[1])
    head = _new_head(network)
    with features_progress(shown=True, title="linear probe", lines=False) as progress:
        report = head.solve(describe_clips(plan, network, head, learn, progress))
        facts = ProbeFacts(head.pooling, head.changes, getattr(learn, "views", 0), report)
        if check is not None:
            held = describe_clips(plan, network, head, check, progress)
            correct = int((head.answer_described(held.values).argmax(1) == held.targets).sum())
            facts = replace(facts, validation_correct=correct, validation_count=len(held.targets))
    of = f"{facts.views} augmented views of each clip" if facts.views else "the plain clips"
    return BesideRun(f"linear probe on the same features ({of}): {describe_report(report)}", facts, head)


def _why_none(plan: Plan) -> str:
    """Say why a linear probe would not see what the network sees; empty where it would."""
    if not plan.from_features:
        return "no features of frozen backbones are cached (--features.folder)"
    return "its backbones start at random" if plan.recipe.pretrained is None else ""


def describe_report(report: SolveReport) -> str:
    """Write how well a solved classifier does on held-out training videos, as a clause."""
    if not report.count:
        return f"too few training videos to hold any out, so C = {report.strength:g} is untested"
    how = "by group" if report.by_group else "by video, since their groups are not known,"
    share = _share(report.correct, report.count)
    return f"{share} in {report.folds} folds {how} within the training part, C = {report.strength:g}"


def _share(correct: int, count: int) -> str:
    low, high = wilson(correct, count)
    return f"{100 * correct / count:.1f} % ({correct} of {count}, {100 * low:.0f} to {100 * high:.0f} %)"


def load_probe(run: RunFolder, network: VideoModel) -> tuple[ProbeHead, ProbeFacts] | None:
    """Read the probe beside a run; None where the run has none, as those of version 0.1.

    Args:
        run: the run folder.
        network: the run's, whose backbones the probe reads.

    Raises:
        WeightsError: a damaged file, or a probe on other features.
    """
    path = run.path / PROBE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            about = (file.metadata() or {})[_ABOUT]
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError) as error:
        raise WeightsError(path, f"is damaged ({' '.join(str(error).split())})", _REMEDY) from error
    facts = build(ProbeFacts, parse_json(about, path, WeightsError, _REMEDY), path, WeightsError, _REMEDY)
    head = _new_head(network, facts.pooling, changes=facts.changes)
    if misfits := misfitting_tensors(tensors, head.state_dict()):
        raise WeightsError(path, f"does not fit the run: {misfits}", _REMEDY)
    if not all(bool(tensor.isfinite().all()) for tensor in tensors.values()):
        raise WeightsError(path, "holds values that are not finite", _REMEDY)
    head.load_state_dict(tensors)
    return head.eval(), facts


def _new_head(network: VideoModel, pooling: PoolingName = "max", *, changes: bool = True) -> ProbeHead:
    channels = {stream: backbone.out_channels for stream, backbone in network.all_backbones().items()}
    # The weights that it starts from are replaced, and the network's random numbers are not to depend on them.
    with torch.random.fork_rng(devices=()):
        return ProbeHead(channels, network.settings.num_classes, pooling, changes=changes)


@dataclass(frozen=True)
class SolvedRun:
    """A model that was solved, before its run folder is made.

    Attributes:
        line: to print.
        row: of ``metrics.csv``.
    """

    line: str
    row: dict[str, object]

    def write(self, plan: Plan, network: VideoModel, run: RunFolder) -> None:
        """Write metrics, curves, weights, and a checkpoint that says that the training is finished.

        Raises:
            RunFolderError: one of them cannot be written.
        """
        writer = RunWriter(run, Learner(network, plan.recipe.training, plan.processes))
        writer.save_epoch([self.row])
        writer.save_weights()
        writer.save_checkpoint(TrainingState(stage=len(plan.recipe.training.stages), rows=[self.row]))


def solve_model(plan: Plan, network: VideoModel, learn: KeyedDataset, check: KeyedDataset | None) -> SolvedRun:
    """Solve a model that no gradient trains.

    Args:
        plan: of the training.
        network: with the weights of its backbones, on its device.
        learn: clips, or cached features, of the training part.
        check: of the validation part.

    Raises:
        ActionFusionError: a video cannot be read, or nothing can be learned from the videos.
    """
    started = time.perf_counter()
    if network.backbones:
        network.freeze_backbones("all")
    with features_progress(shown=True) as progress:
        parts = [
            describe_clips(plan, network, network, part, progress, before=_DESCRIBED)
            for part in (learn, check)
            if part is not None
        ]
    report = network.solve(parts[0])
    (loss, accuracy), *checked = [_figures(network, part) for part in parts]
    seconds = time.perf_counter() - started
    row: dict[str, object] = {
        "epoch": 1,
        "session": 1,
        "learning_rate": "",
        "train_loss": loss,
        "train_accuracy": accuracy,
        "val_loss": checked[0][0] if checked else "",
        "val_accuracy": checked[0][1] if checked else "",
        "seconds": round(seconds, 3),
        **dict.fromkeys(("samples_per_second", "data_wait", "tflops", "peak_share"), ""),
    }
    line = f"solved in {seconds:.1f} s: {describe_report(report)}"
    if checked:
        line += (
            f"; {_share(round(checked[0][1] * len(parts[1].targets)), len(parts[1].targets))} on the validation part"
        )
    return SolvedRun(line, row)


@torch.inference_mode()
def _figures(network: VideoModel, part: DescribedClips) -> tuple[float, float]:
    """Find mean cross-entropy and accuracy of a solved model on described clips."""
    device = next(network.parameters()).device
    targets = part.targets.to(device)
    logits = network.answer_described(part.values.to(device))
    figures = totals_of(network, float(network.loss(logits, targets)), logits, targets).figures()
    return figures.loss, figures.accuracy
