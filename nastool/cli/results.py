"""Where a run's results are, and what to do with them."""

from __future__ import annotations

import shlex
from pathlib import Path

from nastool.cli.common import say
from nastool.config import RESULTS
from nastool.product import Product


def say_where(folder: Path, product: Product) -> None:
    """Name each file, and the commands that take it further."""
    say(f"in {folder}:")
    width = max(map(len, product.paths))
    for name in RESULTS:
        if name in product.paths:
            say(f"  {name:<{width}}  {RESULTS[name]}")
    for problem in product.problems:
        say(f"note: {problem}")
    run = shlex.quote(str(folder))
    following = [f"nastool top {run} -k 3", f"nastool show {run}"]
    if "best.safetensors" in product.paths:
        following = [f"nastool predict {run} IMAGE...", f"nastool export {run} --to onnx", f"nastool retrain {run}"]
    say("next:")
    for line in following:
        say(f"  {line}")
