"""The page of a comparison of models: accuracies with their intervals, differences, costs, and what is published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from actionfusion.data.listing import Listing
from actionfusion.evaluation.compared import ComparedModel
from actionfusion.reporting.orders import by_name, by_value, orders
from actionfusion.reporting.rendering import NOTHING, environment, plural
from actionfusion.reporting.tables import Bar
from actionfusion.storage import plain_name


def render_compared(models: Sequence[ComparedModel], listing: Listing, protocol: str, reference: str) -> str:
    """Render the page.

    Args:
        models: the rows, the reference among them.
        listing: the videos.
        protocol: its name.
        reference: the model that the others are compared with.
    """
    rows = [_row(model, listing) for model in models]
    done = [model for model in models if model.pooled]
    seeds = sorted({seed for model in done for seed in (model.figures or {})["seeds"]})
    return (
        environment()
        .get_template("compare.html.j2")
        .render(
            title="Comparison of models",
            summary=(
                f"{plural(len(models), 'model')} trained and tested on the same folds of {plain_name(listing.root)} "
                f"({listing.dataset}): {plural(len(listing.entries), 'video')} of {len(listing.labels)} classes, "
                f"{protocol}, {plural(len(seeds), 'seed')}."
            ),
            sections=[
                ("accuracy", "Accuracy"),
                ("classes", "Classes"),
                ("differences", "Differences"),
                ("costs", "Costs"),
                ("facts", "Published"),
            ],
            rows=rows,
            labels=listing.labels,
            failures=[row for row in rows if row["model"].failure],
            doubted=[row for row in rows if row["model"].start_doubts],
            machines=list(dict.fromkeys(row["machine"] for row in rows if row["machine"])),
            leaks=next((model.figures["leaks"] for model in done if model.figures), None),
            reference=reference,
            grouped=bool(listing.groups),
            orders=orders(
                "as given",
                len(rows),
                ("by name", by_name([model.name for model in models])),
                ("best first", by_value([model.pooled.get("top1") for model in models], falling=True)),
            ),
        )
    )


def _row(model: ComparedModel, listing: Listing) -> dict[str, Any]:
    pooled = model.pooled
    bar = None
    if pooled:
        bar = Bar(model.name, pooled["correct"], pooled["count"], model.interval, 1 / len(listing.labels))
    cost, seconds = model.cost, model.seconds
    return {
        "model": model,
        "bar": bar,
        "parameters": NOTHING if cost is None or cost.parameters is None else f"{cost.parameters:,}",
        "flops": NOTHING if cost is None or cost.flops is None else f"{cost.flops / 1e9:.3g}",
        "machine": cost and f"{cost.device} with {plural(cost.threads, 'thread')}",
        "milliseconds": NOTHING if cost is None else f"{cost.milliseconds:.1f}",
        "seconds": NOTHING if seconds is None else f"{seconds:,.0f}",
    }
