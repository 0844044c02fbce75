"""Ensembles that searches find, at equal numbers of trainings: test figures by strategy, and paired tests.

usage: ensembles.py [--data digits] [--recipe digits] [--trials 40] [--members 3] [--seeds 5] [--out DIR]
                    [-- FURTHER OPTIONS OF nastool search]

For each seed a search by nes-re, nes-rs and deep-ensemble, each `trials` trainings, its pool's included; and by nesbs,
with both samplers, whose members alone are trained. Prints for each the mean and standard deviation over seeds of the
test NLL (nats), error (%), ECE (15 bins), disagreement, the ensemble's members and parameters, processor seconds, NLL
and error of the best single network of its pool, NLLs and ECE at the temperature that suits the examples that chose,
and exact sign-flip tests of both NLLs against those of deep-ensemble. Finished runs are taken up again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from nastool.engine import ensembling, pools

SEARCHES = {
    "nes-re": ["-s", "nes-re"],
    "nes-rs": ["-s", "nes-rs"],
    "deep-ensemble": ["-s", "deep-ensemble"],
    "nesbs mc": ["-s", "nesbs", "-S", "sampler=mc"],
    "nesbs svgd-rd": ["-s", "nesbs", "-S", "delta=1"],
}
REFERENCE = "deep-ensemble"
COLUMNS = (
    *("nll", "nll_calibrated", "error", "ece_15", "ece_15_calibrated", "disagreement", "members", "params", "cpu"),
    *("alone", "alone_calibrated", "alone_error"),
)


def seconds_of(*arguments: str) -> float:
    """Processor seconds of a nastool command. CalledProcessError: it failed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "nastool", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(name: str, seed: int, given: argparse.Namespace) -> dict[str, float]:
    """The columns of one search's ensemble, kept beside it."""
    run = Path(given.out) / f"{name.replace(' ', '-')}-{seed}"
    kept = run / "measured.json"
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    flags = [*SEARCHES[name], "-S", f"members={given.members}", "--seed", str(seed), "--no-report", "--out", str(run)]
    if name.startswith("nesbs"):
        flags += ["--no-baseline", "--retrain-recipe", given.recipe]
    else:
        flags += ["--trials", str(given.trials)]
    if name == REFERENCE:
        flags += ["-S", f"pool={given.trials - given.members + 1}"]
    cpu = seconds_of("search", "--data", given.data, *flags, *given.further)
    found = json.loads((run / "ensemble" / "best.json").read_text())
    row = {**columns(found["tested"]["ensemble"]), "members": len(found["members"]), "cpu": cpu}
    alone = columns(found["tested"]["best single network"])
    row |= {"params": found["metrics"]["params"], "alone": alone["nll"], "alone_error": alone["error"]}
    networks = pools.candidates([Path(each["weights"]) for each in found["members"]])
    after = ensembling.choose(networks, len(networks), "top", temperature="after", seed=seed, test=True)
    row |= {f"{name}_calibrated": after.tested["ensemble"][name] for name in ("nll", "ece_15")}
    row["alone_calibrated"] = after.tested["best single network"]["nll"]
    kept.write_text(json.dumps(row))
    return row


def columns(tested: dict[str, float]) -> dict[str, float]:
    kept = {name: tested[name] for name in ("nll", "ece_15", "disagreement")}
    return {**kept, "error": 100 * (1 - tested["accuracy"])}


def sign_flip(differences: np.ndarray[Any, Any]) -> float:
    """Exact two-sided p of the mean under random signs."""
    signs = np.array(list(product((-1, 1), repeat=len(differences))))
    return float((np.abs(signs @ differences) >= abs(differences.sum()) - 1e-12).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--recipe", default="digits", help="that trainings have by default, for the members of nesbs")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--members", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", default="runs/ensembles")
    parser.add_argument("further", nargs="*")
    given = parser.parse_args()
    rows = {name: [measured(name, seed, given) for seed in range(given.seeds)] for name in SEARCHES}
    print("| strategy | " + " | ".join(COLUMNS) + " | p of nll | p of nll_calibrated |")
    for name, own in rows.items():
        cells = []
        for column in COLUMNS:
            values = np.array([row[column] for row in own])
            cells.append(f"{values.mean():.4g} ({values.std(ddof=1):.2g})" if given.seeds > 1 else f"{values[0]:.4g}")
        for column in ("nll", "nll_calibrated"):
            pairs = zip(own, rows[REFERENCE], strict=True)
            p = sign_flip(np.array([row[column] - other[column] for row, other in pairs]))
            cells.append("" if name == REFERENCE else f"{p:.3g}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
