"""How well trainings are ordered early: by last values, and by what a power law says their curves will come to.

usage: curves.py run DATA TRAININGS SCHEDULE > curves.jsonl; curves.py look < curves.jsonl

run: random nasbench201 networks (channels=4,cells=1) on 300 images of --data DATA (digits or shapes), 27 epochs by its
recipe with schedule=SCHEDULE (cosine or constant), one thread, a line each.
look: after 5, 7, 9, 13 and 18 epochs, Spearman's correlation with the values after 27, and the share of the best third
then that is among the best third now; for val_acc and val_loss, with 95% intervals of the differences (2,000 bootstrap
samples of the networks).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

import nastool
from nastool.learners.curves import power_law
from nastool.training.recipes import recipe_text

EPOCHS, MOMENTS, SAMPLES = 27, (5, 7, 9, 13, 18), 2000
Floats = NDArray[np.float64]


def run(data: str, trainings: int, schedule: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        recipe.write_text(recipe_text(data).replace("schedule: cosine", f"schedule: {schedule}"), encoding="utf-8")
        nastool.search(
            strategy="random", seed=0, trials=trainings, space="nasbench201", data=data, scale="channels=4,cells=1",
            evaluator_options={"epochs": EPOCHS, "train_size": 300, "recipe": str(recipe)}, device="cpu",
            executor="inline", out=f"{folder}/run", report=False,
        )  # fmt: skip
        for trial in nastool.Study.read(f"{folder}/run").trials:
            print(json.dumps([metrics for _, metrics in trial.curve]), flush=True)


def correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(rankdata(a), rankdata(b))[0, 1])


def found(a: Floats, b: Floats) -> float:
    """Share of the best third by b that is among the best third by a."""
    third = len(a) // 3
    return len({*np.argsort(a, kind="stable")[:third]} & {*np.argsort(b, kind="stable")[:third]}) / third


def look() -> None:
    lines = [json.loads(line) for line in sys.stdin]
    rng = np.random.default_rng(0)
    print("| metric | epochs | fitted | Spearman: last | law | law - last | best third: last | law | law - last |")
    print("|---|---:|---:|---:|---:|---|---:|---:|---|")
    for metric, sign in (("val_acc", -1), ("val_loss", 1)):
        curves = sign * np.array([[epoch[metric] for epoch in line] for line in lines])
        end = curves[:, -1]
        for count in MOMENTS:
            laws = [power_law(range(1, count + 1), curve[:count].tolist(), EPOCHS) for curve in curves]
            last = curves[:, count - 1]
            law = np.array([one if other is None else other for one, other in zip(last, laws, strict=True)])
            cells = [metric, str(count), f"{np.mean([each is not None for each in laws]):.0%}"]
            for measure in (correlation, found):
                samples = rng.integers(len(end), size=(SAMPLES, len(end)))
                more = [measure(law[each], end[each]) - measure(last[each], end[each]) for each in samples]
                low, high = np.quantile(more, [0.025, 0.975])
                cells += [f"{measure(last, end):.3f}", f"{measure(law, end):.3f}"]
                cells += [f"{measure(law, end) - measure(last, end):+.3f} [{low:+.3f}, {high:+.3f}]"]
            print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    run(sys.argv[2], int(sys.argv[3]), sys.argv[4]) if sys.argv[1] == "run" else look()
