"""Quantities as people write them: numbers with units, durations, and conditions on metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nastool.core.errors import InputError, short

TIMES: Mapping[str, float] = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
"""Units of time, in seconds."""
COUNTS: Mapping[str, float] = {"k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
"""Units of what is counted."""
SIZES: Mapping[str, float] = {"kB": 0.001, "MB": 1, "GB": 1000, "TB": 1e6}
"""Units of memory, in MB."""
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*(<=|>=)\s*([^\s<>=!]+)\s*")


def duration(text: object) -> float:
    """Seconds, > 0, of "90s", "2m", "1h30m", "1.5 h", "2d", or of a plain number of seconds. ValueError: it is none."""
    parts = re.findall(rf"({_NUMBER})\s*([a-zA-Z]*)", written := str(text).strip())
    rest = re.sub(rf"{_NUMBER}\s*[a-zA-Z]*", "", written).strip()
    units = [unit or "s" for _, unit in parts]
    plain = len(parts) > 1 and any(not unit for _, unit in parts)
    if isinstance(text, bool) or rest or plain or not parts or not set(units) <= TIMES.keys():
        raise ValueError(f"{short(repr(text))} is no length of time: write such as 90s, 2m, 1h30m, 8h")
    seconds = sum(float(number) * TIMES[unit] for (number, _), unit in zip(parts, units, strict=True))
    if not 0 < seconds < math.inf:
        raise ValueError(f"{short(repr(text))}: a length of time is more than 0 s")
    return seconds


def units_of(metric: str) -> Mapping[str, float]:
    """The units in which a value of a metric may be written, in the metric's own, which its name says."""
    if metric == "seconds" or metric.endswith(("_seconds", "_s")):
        return TIMES
    if metric.endswith("_ms"):
        return {unit: 1000 * seconds for unit, seconds in TIMES.items()}
    if metric.endswith("_mb"):
        return SIZES
    return {"%": 0.01} if metric.endswith("_acc") else COUNTS


@dataclass(frozen=True)
class Condition:
    """A bound of a metric, such as params<=50000.

    Attributes:
        metric: Name of the metric.
        sign: On which side of the bound its values are; the bound itself is allowed.
        bound: The bound, finite, in the metric's own unit.
    """

    metric: str
    sign: Literal["<=", ">="]
    bound: float

    @classmethod
    def parse(cls, text: object, what: str) -> Condition:
        """Read "params<=50k", "latency_ms<=5", "memory_mb<=1GB", "val_acc>=95%".

        Args:
            text: The condition.
            what: The option that it is given to, for errors.

        Raises:
            InputError: It is none.
        """
        given = f"{what} {short(repr(text))}"
        match = _CONDITION.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InputError(
                f"{given}: write 'METRIC<=VALUE' or 'METRIC>=VALUE', in quotes, since < and > mean something to a shell"
            )
        metric, sign, value = match.groups()
        number = re.fullmatch(rf"({_NUMBER})(\S*)", value)
        units = {"": 1.0, **units_of(metric)}
        if number is None or number[2] not in units:
            names = ", ".join(unit for unit in units if unit)
            raise InputError(
                f"{given}: {short(repr(value))} is no value of {metric}: write a number, or one with {names}"
            )
        bound = float(f"{float(number[1]) * units[number[2]]:.15g}")  # of 95% 0.95
        if not math.isfinite(bound):
            raise InputError(f"{given}: the bound is not finite")
        if metric.endswith("_acc") and not 0 <= bound <= 1:
            raise InputError(f"{given}: {metric} is from 0 to 1, or from 0% to 100%")
        return cls(metric, "<=" if sign == "<=" else ">=", bound)

    def violation(self, metrics: Mapping[str, float]) -> float:
        """By how much a value is beyond the bound, >= 0, in the metric's unit; infinity where it was not measured."""
        value = metrics.get(self.metric, math.nan)
        beyond = value - self.bound if self.sign == "<=" else self.bound - value
        return math.inf if math.isnan(beyond) else max(0.0, beyond)

    def holds(self, metrics: Mapping[str, float]) -> bool:
        """Whether the value is within the bound; False where it was not measured."""
        return self.violation(metrics) == 0

    def __str__(self) -> str:
        return f"{self.metric}{self.sign}{self.bound:.15g}"
