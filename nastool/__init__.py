"""nastool: neural architecture search on the command line, and from Python.

`nastool.search`, `evaluate`, `retrain` and `load` do what the commands do; `nastool.Study` reads a run.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["InputError", "NastoolError", "Study", "evaluate", "load", "retrain", "search"]

if TYPE_CHECKING:
    from nastool.api import evaluate, load, retrain, search
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
