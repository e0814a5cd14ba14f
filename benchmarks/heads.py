"""The paper's head and normalisation beside the practical ones, on each group of the generated clips.

    python benchmarks/heads.py [--seeds 0 1 2] [--work DIR] [--train_only]

One setting of the recipe ``tiny`` is changed at a time: its head (``literal`` is the paper's), the normalisation in its
LSTMs (``tf`` is how the model card reads the paper), and what the conv branch sees of the map (``flatten`` is the
paper's).  Runs that are there are not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from actionfusion.files import write_atomically
from generated import Generated, header, variant_row

RESULTS = Path(__file__).parent / "results" / "heads.json"
EPOCHS = 6
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "linear head, tf norm, max": {},
    "literal head": {"head": "literal"},
    "scaled head": {"head": "scaled"},
    "gates norm": {"norm": "gates"},
    "ba norm": {"norm": "ba"},
    "batch norm": {"norm": "batch"},
    "no norm": {"norm": "none"},
    "flattened map": {"conv_reduce": "flatten"},
    "pooled map": {"conv_reduce": "pool"},
}


def main() -> None:
    """Run what is missing, then write all down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--work", type=Path, default=Path("runs/generated"))
    parser.add_argument("--train_only", action="store_true", help="write nothing down, for several calls side by side")
    arguments = parser.parse_args()
    clips = Generated(arguments.work, EPOCHS)
    clips.prepare()
    rows = []
    for name, changes in VARIANTS.items():
        runs = [clips.train(changes, seed) for seed in arguments.seeds]
        rows.append(variant_row(name, arguments.seeds, runs) | {"changes": dict(changes)})
    if not arguments.train_only:
        result = header("python benchmarks/heads.py", EPOCHS) | {"rows": rows}
        write_atomically(RESULTS, json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
