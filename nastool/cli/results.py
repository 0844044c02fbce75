"""Where a run's results are, and what to do with them."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool.cli.common import say

if TYPE_CHECKING:
    from nastool.engine.results import Product


def say_where(folder: Path, product: Product, *, retrained: bool = False, unfinished: bool = False) -> None:
    """Name each file, and the commands that take it further.

    Args:
        folder: The run's.
        product: What it left.
        retrained: It is the last that there is to train.
        unfinished: The search can be resumed.
    """
    from nastool.deploy.models import task_in
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
        following = [
            f"nastool predict {run} {task_in(folder / 'best.safetensors').file}...",
            f"nastool export {run} --to {form}",
        ]
        following += [] if retrained else [f"nastool retrain {run}"]
    else:
        following = [f"nastool show {run}"]
    following += [f"nastool resume {run}"] if unfinished else []
    following.append(f"nastool top {run} -k 3")
    say("next:")
    for line in following:
        say(f"  {line}")


def judged_by(line: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics by which a line is compared with others: the mean where there were several seeds."""
    for key in ("mean", "metrics"):
        if isinstance(found := line.get(key), dict):
            return found
    return {}
