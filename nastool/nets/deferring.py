"""Calls whose results are wanted later: what children of a supernet that are recorded pass from module to module."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

Call = Callable[..., Any]


class Recording(Protocol):
    """What takes calls down, and makes them."""

    def call(self, function: Call, args: tuple[Any, ...], alone: bool = False) -> Any:
        """Take a call down and return its result, later. alone: it is computed by itself."""

    def compute_alone(self, later: Later) -> Any:
        """Make a call, and those whose results it needs."""


class Later:
    """A tensor that a recorded call will make."""

    def __init__(self, recording: Recording, call: Call, args: tuple[Any, ...], site: float) -> None:
        """call: a module or a function. args: of it: `Later`, tensors, or anything hashable. site: its turn."""
        self.recording = recording
        self.call = call
        self.args = args
        self.site = site
        self.value: Tensor | None = None
        self.version = 0
        self.readers = 0
        """How many calls, and outputs, are still to read it."""

    def take(self, value: Any) -> None:
        self.value = value
        if isinstance(value, Tensor):
            self.version = value._version

    def now(self) -> Any:
        """The tensor, computed if need be."""
        self.readers += 1  # whoever asked may ask again
        self.recording.compute_alone(self)
        return self.value

    def __add__(self, other: Any) -> Any:
        return total(self, other)

    def flatten(self, *dims: int) -> Any:
        return self.recording.call(Tensor.flatten, (self, *dims), alone=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.now(), name)

    @classmethod
    def __torch_function__(cls, func: Call, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*now_of(args), **now_of(kwargs or {}))


def _operator(name: str) -> Call:
    return lambda self, *args: getattr(self.now(), name)(*now_of(args))


for _name in "radd sub rsub mul rmul truediv rtruediv pow rpow matmul neg getitem len iter lt le gt ge".split():
    setattr(Later, f"__{_name}__", _operator(f"__{_name}__"))


def now_of(value: Any) -> Any:
    """With every `Later` in lists, tuples and dicts computed."""
    if isinstance(value, Later):
        return value.now()
    if isinstance(value, tuple | list):
        return type(value)(map(now_of, value))
    if isinstance(value, dict):
        return {key: now_of(item) for key, item in value.items()}
    return value


def deferred(function: Call, *args: Any) -> Any:
    """function(*args), later if an argument is.

    It makes one tensor of tensors whose images it does not mix, and of what is hashable; it depends on nothing else
    that may change between children.
    """
    recording = next((arg.recording for arg in args if isinstance(arg, Later)), None)
    return function(*args) if recording is None else recording.call(function, args)


def total(*terms: Any) -> Any:
    """The sum of tensors of one shape."""
    return terms[0] if len(terms) == 1 else deferred(added, *terms)


def added(first: Tensor, *others: Tensor) -> Tensor:
    for i, other in enumerate(others):
        first = first + other if i == 0 else first.add_(other)  # only the first sum is a tensor of our own
    return first
