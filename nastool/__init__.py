"""nastool: neural architecture search on the command line, and from Python.

`nastool.search`, `resume`, `finish`, `ask`, `tell`, `evaluate`, `retrain`, `export`, `predict`, `compare`, `show` and
`space_stats` do what the commands do, and the command line calls them; `nastool.load` is a trained network,
`nastool.Study` reads a run.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "NastoolError",
    "Study",
    "ask",
    "compare",
    "ensemble",
    "evaluate",
    "export",
    "finish",
    "load",
    "predict",
    "resume",
    "retrain",
    "search",
    "show",
    "space_stats",
    "tell",
]

if TYPE_CHECKING:
    from nastool.api import (
        ask,
        compare,
        ensemble,
        evaluate,
        export,
        finish,
        load,
        predict,
        resume,
        retrain,
        search,
        show,
        space_stats,
        tell,
    )
    from nastool.core.errors import InputError, NastoolError
    from nastool.engine.study import Study


def __getattr__(name: str) -> Any:
    """These import numpy and more, which the command line must not do before it has to."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nastool import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
