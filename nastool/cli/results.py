"""Where a run's results are, and what to do with them."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nastool.cli.common import say

if TYPE_CHECKING:
    from nastool.product import Product


def say_where(folder: Path, product: Product, *, retrained: bool = False) -> None:
    """Name each file, and the commands that take it further. retrained: it is the last that there is to train."""
    from nastool.config import RESULTS

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


def mean_and_std(rows: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and standard deviation (n - 1) of each metric, such as over seeds."""
    names = rows[0] if rows else {}
    mean = {name: _mean([row[name] for row in rows]) for name in names}
    spread = max(1, len(rows) - 1)
    std = {name: math.sqrt(math.fsum((row[name] - mean[name]) ** 2 for row in rows) / spread) for name in names}
    return mean, std
