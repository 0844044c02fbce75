"""Where a run's results are, and what to do with them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool.cli.common import say

if TYPE_CHECKING:
    from nastool.engine.results import Product


def say_where(folder: Path, product: Product, *, retrained: bool = False) -> None:
    """Name each file, and the commands that take it further. retrained: it is the last that there is to train."""
    from nastool.engine.written import RESULTS

    say("written:")
    width = max((len(str(path)) for path in product.paths.values()), default=0)
    for name in RESULTS:
        if name in product.paths:
            say(f"  {product.paths[name]!s:<{width}}  {RESULTS[name]}")
    for problem in product.problems:
        say(f"note: {problem}")
    run = shlex.quote(str(folder))
    if "best.safetensors" in product.paths:
        form = "onnx" if find_spec("onnxruntime") and find_spec("onnxscript") else "pt2"
        following = [f"nastool predict {run} IMAGE...", f"nastool export {run} --to {form}"]
        following += [] if retrained else [f"nastool retrain {run}"]
    else:
        following = [f"nastool show {run}"]
    following.append(f"nastool top {run} -k 3")
    say("next:")
    for line in following:
        say(f"  {line}")


def _mean(values: Sequence[float]) -> float:
    """Of counts that are all the same, such as parameters, that count."""
    return values[0] if len(set(values)) == 1 else math.fsum(values) / len(values)


def of_seeds(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a line says of one training with each of several seeds; {} where all failed.

    "metrics" are those of one network, whose "weights" the line names if they are kept: of the first seed that worked.
    "mean" and, of two or more, "std" (n - 1) are those of each metric that all seeds have that worked. runs: "seed" and
    "metrics" or "error" of each, perhaps "weights" and their digest.
    """
    worked = [run for run in runs if "metrics" in run]
    if not worked:
        return {}
    rows = [run["metrics"] for run in worked]
    found = {key: worked[0][key] for key in ("metrics", "weights", "weights_digest") if key in worked[0]}
    shared = [name for name in rows[0] if all(name in row for row in rows)]  # "micro_batches" only some may have
    mean = found["mean"] = {name: _mean([row[name] for row in rows]) for name in shared}
    if len(rows) > 1:
        squares = {name: math.fsum((row[name] - mean[name]) ** 2 for row in rows) for name in mean}
        found["std"] = {name: math.sqrt(total / (len(rows) - 1)) for name, total in squares.items()}
    return found


def judged_by(line: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics by which a line is compared with others: the mean where there were several seeds."""
    for key in ("mean", "metrics"):
        if isinstance(found := line.get(key), dict):
            return found
    return {}
