"""Data that a function in a file returns: `--data my.py:load`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nastool.core import options
from nastool.core.errors import InputError, short
from nastool.core.plugin_files import failed
from nastool.core.task import Task

if TYPE_CHECKING:
    from nastool.tasks.arrays import Arrays
    from nastool.tasks.supervised import Supervised

WANTED = 'return {"x_train": ..., "y_train": ...}, (x, y), or {"train": ..., "val": ..., "test": ...} of data sets'
"""What a function may return, for messages."""


def task_of(thing: object, name: str) -> type[Task] | None:
    """A task that reads what a function returns; None: it is no function.

    Its arrays are images, signals or rows by their number of dimensions: x of (N, H, W, C), (N, C, H, W), or uint8
    (N, H, W), are images, other (N, C, L) signals, (N, columns) rows of a table.

    Raises:
        InputError: The function fails, or returns something else.
    """
    if not inspect.isfunction(thing):
        return None
    function = thing
    kept = [_returned(function)]
    x = kept[0].x["train"]
    if x.ndim == 4 or (x.ndim == 3 and x.dtype == "uint8"):
        from nastool.tasks.images.task import ImageTask as Kind
    elif x.ndim == 3:
        from nastool.tasks.signals import SignalTask as Kind  # type: ignore[assignment]
    elif x.ndim == 2:
        from nastool.tasks.tabular.task import TabularTask as Kind  # type: ignore[assignment]
    else:
        sizes = "(N, columns), (N, channels, length) or (N, channels, height, width)"
        raise InputError(f"{kept[0].path}: x_train is of shape {x.shape}: need {sizes}")
    family: type[Supervised] = Kind

    class Loaded(family):  # type: ignore[misc, valid-type]
        """Data of a function."""

        datasets: ClassVar[Mapping[str, str]] = {}
        data_options = family.data_options - {"data_dir", "download", "target"}

        @classmethod
        def kind(cls) -> str:
            return family.name

        @classmethod
        def says(cls, data: str, **options: Any) -> Any:
            from nastool.tasks.arrays import are_numbers

            found = kept[0] if kept else _returned(function)
            return "numbers" if are_numbers(found.y["train"], options.get("predict")) else "classes"

        @classmethod
        def check(cls, data: str, **options: Any) -> None:
            from nastool.tasks.splitting import check_options

            check_options(**options)

        @classmethod
        def load(cls, data: str, *, max_gigabytes: float = 8.0, **options: Any) -> Any:
            return family.of(data, kept.pop() if kept else _returned(function), **options)  # type: ignore[attr-defined]

    Loaded.__module__, Loaded.__qualname__ = function.__module__, function.__qualname__
    Loaded.function = staticmethod(function)
    return Loaded


def _returned(function: Any) -> Arrays:
    """What the function returns, as arrays. InputError: it fails, or returns something else."""
    from nastool.tasks.arrays import Arrays, roles

    path = Path(str(inspect.getsourcefile(function)))
    where = options.place_of(function)
    if needed := [each.name for each in inspect.signature(function).parameters.values() if each.default is each.empty]:
        raise InputError(
            f"{where}: {function.__name__} is called without arguments: give {', '.join(needed)} a default"
        )
    try:
        found = function()
    except Exception as error:
        raise InputError(failed(error, path)) from error
    given: dict[str, Any] = {}
    if isinstance(found, Mapping) and any(str(key).startswith(("x", "X")) for key in found):
        given = {str(key): value for key, value in found.items()}
    elif isinstance(found, Mapping):
        for part, value in found.items():
            given |= _pair(where, str(part), value)
    else:
        given = _pair(where, "train", found)
    arrays = {name: _array(f"{where}: {name}", value) for name, value in given.items() if value is not None}
    names, left_out = roles(where, list(arrays), ("layout", "columns"))
    return Arrays.of(where, {role: arrays[name] for role, name in names.items()}, names, left_out)


def _pair(where: str, part: str, found: Any) -> dict[str, Any]:
    """x and y of a part: a pair of arrays, or a data set of examples. InputError: it is neither."""
    import numpy as np

    if found is None:
        return {}
    if isinstance(found, tuple | list) and len(found) == 2 and all(hasattr(each, "shape") for each in found):
        return {f"x_{part}": found[0], f"y_{part}": found[1]}
    if not (hasattr(found, "__getitem__") and hasattr(found, "__len__")) or isinstance(found, str | bytes | Mapping):
        raise InputError(f"{where}: got {short(type(found).__name__)} for {part}: {WANTED}")
    examples = [found[i] for i in range(len(found))]
    if not examples or not all(isinstance(each, tuple | list) and len(each) == 2 for each in examples):
        raise InputError(f"{where}: the examples of {part} are no pairs (x, y): {WANTED}")
    try:
        x, y = (np.stack([_array(where, each[i]) for each in examples]) for i in (0, 1))
    except ValueError as error:
        raise InputError(
            f"{where}: the examples of {part} differ in shape ({short(error)}): give all the same"
        ) from None
    return {f"x_{part}": x, f"y_{part}": y}


def _array(what: str, value: Any) -> Any:
    """A numpy array of an array, a tensor or a list. InputError: it holds objects, or nothing at all."""
    import numpy as np

    if getattr(value, "is_meta", False):
        raise InputError(f"{what} is a tensor on the meta device, which holds no numbers: return it on the CPU")
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    found = np.asarray(value)
    if found.dtype == object:
        if found.size and all(isinstance(each, str) for each in found.ravel()):
            return found.astype(str)
        raise InputError(f"{what} holds Python objects: return numbers, or texts")
    return found
