"""Versions, machine and command of a comparison."""

from __future__ import annotations

import inspect
import os
import platform
import time
from hashlib import blake2s
from pathlib import Path

from nastool import __version__
from nastool.core import invocation, machine, registry

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch")


def call() -> dict[str, object]:
    """Facts about this call: command, versions, machine, time. JSON only; torch is not imported to ask for its own."""
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": ["nastool", *invocation.words()],
        "nastool": __version__,
        "python": platform.python_version(),
        "packages": machine.versions(PACKAGES),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": machine.processor(),
        "cores": os.cpu_count(),
    }


def source(strategy: str) -> str:
    """8 hexadecimal digits that name the content of the strategy's source file; "" where it has none."""
    try:
        path = inspect.getsourcefile(registry.load("strategy", strategy))
        return blake2s(Path(path or "").read_bytes(), digest_size=4).hexdigest()
    except (OSError, TypeError):
        return ""
