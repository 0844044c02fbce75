"""Numbers and foreign text for people, the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_HIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]")
"""Characters that move a cursor, change colours or the direction of its text; no tabs, no ends of lines."""


def visible(text: object) -> str:
    """text with every character that does something to a terminal written out: "\\u001b[31m".

    What runs, files and plugins say may hold anything. JSON stays the same JSON.
    """
    return _HIDDEN.sub(lambda match: f"\\u{ord(match[0]):04x}", str(text))


def describe_metrics(metrics: Mapping[str, float]) -> str:
    """ "val_acc 0.9721  params 1,073,466"."""
    return "  ".join(f"{name} {format_number(value)}" for name, value in metrics.items())


def describe_belief(believed: Mapping[str, Any]) -> str:
    """ "val_acc 0.9512 ± 0.004": what a model believes of a metric."""
    return f"{believed['metric']} {format_number(believed['mean'])} ± {believed['std']:.2g}"


def qualities(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What says how good a network is on validation and test data: val_acc, test_rmse; losses where that is all."""
    found = {name: value for name, value in metrics.items() if name.startswith(("val_", "test_"))}
    return {name: value for name, value in found.items() if not name.endswith("_loss")} or found


def format_number(value: float) -> str:
    """ "0.9721", "0.001234", "12", "1,073,466"; of what is not finite its name."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if value != 0 and abs(value) < 0.01:
        return f"{value:.4g}"
    return f"{value:.0f}" if value % 1 == 0 and abs(value) > 1 else f"{value:.4f}"


FAULTS: Mapping[str, str] = {
    "memory": "out of memory",
    "nan": "not a number",
    "exception": "exception",
    "timeout": "timeout",
    "killed": "killed",
    "hung": "hung",
    "device": "device",
    "machine": "machine gone",
}
"""Kinds of faults (`core.errors.Fault`) for people."""


def describe_faults(faults: Mapping[str, int]) -> str:
    """ " (2 out of memory, 1 timeout)": how many trials failed by which kind of fault; "": of none that is known."""
    found = ", ".join(f"{count:,} {FAULTS[fault]}" for fault, count in faults.items())
    return f" ({found})" if found else ""


def trials(count: int) -> str:
    """ "1 trial", "1,200 trials"."""
    return f"{count:,} trial" + "s" * (count != 1)


def describe_cost(seconds: float, *, simulated: bool) -> str:
    """ "12 min of evaluations", or where the seconds are those of a table "2.1 days of training, simulated"."""
    if simulated:
        return f"{format_seconds(seconds)} of training, simulated" if seconds else "unknown: the table has no times"
    return f"{format_seconds(seconds)} of evaluations"


def format_seconds(seconds: float) -> str:
    """ "0.4 s", "45 s", "12 min", "3.4 h", "2.1 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s" if seconds >= 0.1 else f"{seconds:.2g} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def csv_cell(value: object) -> object:
    """The same for a table: a text that a spreadsheet would carry out as a formula gets an apostrophe before it."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text


def as_typed(options: Mapping[str, object]) -> str:
    """Options as they are written on a command line: "all_data=false scale=channels=4,cells=1"; None is left out."""

    def text(value: object) -> str:
        if isinstance(value, Mapping):
            return ",".join(f"{key}={text(each)}" for key, each in value.items())
        if isinstance(value, list | tuple):
            return ",".join(map(text, value))
        return str(value).lower() if isinstance(value, bool) else str(value)

    return " ".join(f"{key}={text(value)}" for key, value in options.items() if value is not None)
