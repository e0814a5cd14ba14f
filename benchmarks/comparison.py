"""Compare the systems of the paper's tables on real clips and on generated ones, by the command ``compare``.

    python benchmarks/comparison.py DATA [--sets ucf101 ...] [--seeds 0 1 2] [--shared] [--work DIR]

DATA holds ``UCF-101``, ``ucfTrainTestlist``, ``ut-interaction`` and ``weizmann``.  Each model is trained by its recipe
for comparisons, which was fixed before the first look at a test part, and tested once on every clip and seed; a model
that no gradient trains, on the first seed.  Folds that are there are not trained again; a set is written down when all
its models are done, with those that failed.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actionfusion.data.shapes_files import make_shapes
from actionfusion.evaluation.compared import ComparedModel, with_pairs
from actionfusion.evaluation.folds import ProtocolName
from actionfusion.files import write_atomically
from actionfusion.reporting.compare import TABLE, compare, folder_of
from measuring import made_by

RESULTS = Path(__file__).parent / "results" / "comparison.json"
PAPER = "fusion:paper"
SOLVED = "dense_trajectories,dense_trajectories:improved,sgsh,cho,learning_to_track,c3d_idt_svm"
TRAINED = (
    "fusion,fusion:paper,probe,single_frame,early_fusion,late_fusion,slow_fusion,multiresolution,c3d,fstcn,two_stream,"
    "two_stream:svm,two_stream_fusion,lrcn,lrcn:rgb,lrcn:flow,composite_lstm,soft_attention,conv_pooling,deep_lstm,"
    "adascan,two_stream_lstm,snippets,fusion:rgb,fusion:flow,fusion:paper_rgb,fusion:paper_conv,fusion:paper_fc,"
    "fusion:paper_both,fusion:paper_single,fusion:paper_no_norm,fusion:paper_literal"
)


@dataclass(frozen=True)
class ClipSet:
    """Videos and how they are split."""

    folder: str
    dataset: str
    protocol: ProtocolName
    group_pattern: str | None = None


SETS = {
    "ucf101": ClipSet("UCF-101", "ucf101", "official"),
    "ut-interaction": ClipSet("ut-interaction/set1", "folder", "leave-one-group-out", r"^\d+_(?P<group>\d+)_"),
    "weizmann": ClipSet("weizmann", "folder", "leave-one-group-out", r"(?P<group>[a-z]+)_"),
    "generated": ClipSet("", "folder", "folders"),
}


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--trained", default=TRAINED, help="models of all seeds")
    parser.add_argument("--solved", default=SOLVED, help="models of the first seed alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--shared", action="store_true", help="other work ran beside it: leave training times out")
    parser.add_argument("--work", type=Path, default=Path("runs/comparison"))
    arguments = parser.parse_args()
    for name in arguments.sets:
        clips, out = SETS[name], arguments.work / name
        root = _generated(arguments.work / "clips") if name == "generated" else arguments.data / clips.folder
        found: dict[str, ComparedModel] = {}
        for chosen, seeds in ((arguments.solved, arguments.seeds[:1]), (arguments.trained, arguments.seeds)):
            made = compare(
                clips.dataset,
                root,
                models=chosen,
                protocol=clips.protocol,
                reference=PAPER,
                seeds=tuple(seeds),
                group_pattern=clips.group_pattern,
                out=out,
            )
            found |= {row.name: row for row in made.models}
        # Once more for all of them, since p is corrected for their number.
        rows = with_pairs(list(found.values()), {row: out / folder_of(row) for row in found}, PAPER)
        if arguments.shared:
            rows = [replace(row, seconds=None) for row in rows]
        table = json.loads((out / TABLE).read_text(encoding="utf-8"))
        _record(name, table | {"models": [row.as_json() for row in rows]})


def _generated(folder: Path) -> Path:
    return make_shapes(folder, train_per_class=24, val_per_class=0, test_per_class=25, seed=7)


def _record(name: str, figures: dict[str, Any]) -> None:
    sets = json.loads(RESULTS.read_text(encoding="utf-8"))["sets"] if RESULTS.is_file() else {}
    result = {**made_by("python benchmarks/comparison.py DATA"), "sets": sets | {name: figures}}
    write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
