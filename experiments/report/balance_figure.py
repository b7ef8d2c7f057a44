"""The figure of expert load over training: MaxVio, the maximum over the mean expert load minus 1, at every update."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from ..harness.records import Json
from ..harness.style import BLUE, GREEN, GREY, VERMILION, own_style, png
from ..study.conditions import refuse_mixed
from ..study.rows import family_of

_COLOURS = {"AuxiliaryLoss": BLUE, "LossFree": GREEN, "Unbalanced": VERMILION}
_NAMES = {"AuxiliaryLoss": "auxiliary loss", "LossFree": "loss-free", "Unbalanced": "unbalanced"}
_LINES = {"autoregressive": "-", "masked diffusion": "--", "block diffusion": ":"}
_OVER = 20


def is_mixture(record: Json) -> bool:
    """Whether a training record holds expert loads."""
    return bool(record["result"].get("violations"))


@own_style()
def balance(training: Sequence[Json], sources: Sequence[str]) -> bytes:
    """A PNG with one panel per task: MaxVio averaged over layers and 20 updates. ValueError if conditions are mixed."""
    refuse_mixed(training)
    tasks = list(dict.fromkeys(record["point"]["name"] for record in training))
    figure = Figure(figsize=(max(3.1 * len(tasks), 6.4), 3.8), layout="constrained")
    for axes, task in zip(figure.subplots(1, len(tasks), squeeze=False, sharey=True)[0], tasks, strict=True):
        for record in (record for record in training if record["point"]["name"] == task):
            kind, family = record["point"]["recipe"]["balancing"]["kind"], family_of(record["point"])
            values = np.array(record["result"]["violations"])
            width = min(_OVER, len(values))
            smooth = np.convolve(values, np.ones(width) / width, "valid")
            axes.plot(np.arange(width, len(values) + 1), 100 * smooth, color=_COLOURS.get(kind, GREY),
                      linestyle=_LINES.get(family, "-"), linewidth=1.2, label=f"{family}, {_NAMES.get(kind, kind)}")
        axes.set_title(task, fontsize=10)
        axes.set_xlabel("update", fontsize=9)
        axes.set_ylim(bottom=0)
        axes.tick_params(labelsize=8)
        axes.grid(True, linewidth=0.4, alpha=0.5)
    figure.axes[0].set_ylabel("maximum expert load above mean, %", fontsize=8.5)
    return png(figure, sources, legend_columns=max(2, len(tasks)))
