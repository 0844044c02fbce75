"""Versions, machine and command of a comparison."""

from __future__ import annotations

import inspect
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2s
from pathlib import Path

from nastool import __version__
from nastool.analysis.bench.view import View
from nastool.core import invocation, machine, registry

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch")


@dataclass(frozen=True)
class Call:
    """One call of the command: when, by which versions and where; view: what it asked for."""

    date: str
    command: tuple[str, ...]
    nastool: str
    python: str
    packages: Mapping[str, str | None]
    platform: str
    cpu: str
    cores: int | None
    view: View

    def __post_init__(self) -> None:
        view = self.view
        limits = [limit for limit in (view.budget.trials, view.budget.seconds) if limit is not None]
        if not limits or min(limits) <= 0 or View.of(**vars(view)) != view:
            raise ValueError(view)

    @classmethod
    def now(cls, view: View) -> Call:
        """This call. torch is not imported to ask for its version."""
        return cls(
            date=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            command=("nastool", *invocation.words()),
            nastool=__version__,
            python=platform.python_version(),
            packages=machine.versions(PACKAGES),
            platform=f"{platform.system()} {platform.machine()}",
            cpu=machine.processor(),
            cores=os.cpu_count(),
            view=view,
        )


def source(strategy: str) -> str:
    """8 hexadecimal digits that name the content of the strategy's source file; "" where it has none."""
    try:
        path = inspect.getsourcefile(registry.load("strategy", strategy))
        return blake2s(Path(path or "").read_bytes(), digest_size=4).hexdigest()
    except (OSError, TypeError):
        return ""
