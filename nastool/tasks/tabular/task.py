"""Tables: networks that say of a row which class it is of, or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nastool.core.errors import InputError, hint, short
from nastool.core.files import Limit, path_of
from nastool.tasks.supervised import NONE, OPTIONS, Balance, Predicts, Statistics, Supervised

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from nastool.tasks.arrays import Arrays, Target
    from nastool.tasks.tabular.table import Table
    from nastool.tasks.tensors import TensorData

TARGETS = ("target", "label", "class", "y")
"""Names of columns that are taken for the target, in this order and in any case; else the last column is."""
MOST_CLASSES = 20
"""Number of different whole numbers up to which a column is taken for classes."""


@dataclass(frozen=True)
class TabularTask(Supervised):
    """Tables: networks that say of a row which class it is of, or numbers.

    They read rows (N, features) float32: numbers in standard deviations from the mean of the training rows, 0 where one
    is missing; 0 or 1 for each category, and for what is missing in some training row. See `Supervised` for what they
    say.

    Args:
        features: Number of features of a row.
        classes: Number of classes, at least 2; 0 where numbers are said.
        targets: Number of numbers that are said; 0 where it is a class.
        statistics: Facts of the training data.
    """

    features: int
    classes: int
    targets: int = 0
    statistics: Statistics = field(default=NONE, compare=False, repr=False)

    name = "tabular"
    noun = "row"
    file = "TABLE.csv"
    data_options = OPTIONS | {"target"}
    datasets: ClassVar[Mapping[str, str]] = {
        "csv:FILE": "a table with a line of names: one column is said of the others (-E target=NAME)",
        "tabular:FILE": "an .npz of rows: x_train (N, columns), y_train, perhaps columns (names), and as of npz:FILE",
    }

    def __post_init__(self) -> None:
        if not 1 <= self.features <= 10_000_000:
            raise ValueError(f"a table needs features from 1 to 10,000,000, got {self.features}")
        self._check_outputs()

    def __str__(self) -> str:
        return f"rows of {self.features:,} features, {self.said}"

    @classmethod
    def recipe_for(cls, data: str) -> str:
        return "tabular"

    @classmethod
    def says(cls, data: str, **options: Any) -> Literal["classes", "numbers"]:
        if options.get("predict") is not None:
            return super().says(data, **options)
        from nastool.tasks import arrays

        kind, _, path = data.partition(":")
        if kind == "tabular":
            return arrays.says(str(path_of(path)))
        from nastool.tasks.tabular.table import read_csv

        try:
            table = read_csv(str(path_of(path)))
            return "classes" if _target(table, options.get("target"), None)[1].classes else "numbers"
        except InputError:
            return "classes"

    @classmethod
    def check(cls, data: str, *, target: str | None = None, **options: Any) -> None:
        from nastool.tasks.splitting import check_options

        check_options(**options)
        if target is not None and data.startswith("tabular:"):
            raise InputError(f"target: {short(data)} says y_train itself: leave it out")

    @classmethod
    def load(
        cls,
        data: str,
        *,
        max_gigabytes: float = 8.0,
        target: str | None = None,
        predict: Predicts = None,
        **options: Any,
    ) -> TensorData:
        from nastool.tasks.arrays import Arrays
        from nastool.tasks.tabular.table import read_csv

        kind, _, given = data.partition(":")
        path, limit = str(path_of(given)), Limit(max_gigabytes)
        if kind == "tabular":
            return cls.of(data, Arrays.read(path, ["columns"], limit), predict=predict, **options)
        table = read_csv(path, limit)
        name, said, how = _target(table, target, predict)
        note = f"target {short(name)!r}{how}, {said.said}"
        return _loaded(data, cls, table.without(name), said, note, name, **options)

    @classmethod
    def of(cls, data: str, found: Arrays, *, predict: Predicts = None, **options: Any) -> TensorData:
        """Arrays as rows, split. data: their name. InputError: they are none."""
        import numpy as np

        from nastool.tasks.arrays import target_of
        from nastool.tasks.tabular.table import of_matrix

        found.check(cls.noun)
        names = found.others.get("columns")
        matrix = np.concatenate([found.x[part] for part in found.y])
        table = of_matrix(found.path, matrix, None if names is None else list(map(str, names.ravel())))
        target = target_of(found, predict)
        return _loaded(data, cls, table, target, "; ".join([target.said, *found.remarks]), **options)

    def example(self, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        import torch

        return (torch.zeros(n, self.features, device=device),)

    def read(self, path: str, about: Mapping[str, Any], max_gigabytes: float) -> tuple[Any, Sequence[Any] | None]:
        """Rows of a CSV file, or x (N, columns) of an .npz, and their target, where it is there."""
        from nastool.tasks.arrays import read_examples
        from nastool.tasks.tabular.table import Column, features, of_matrix, read_csv

        limit = Limit(max_gigabytes, "--max-gigabytes ")
        columns = [Column.from_json(each) for each in about["columns"]]
        if path.endswith(".npz"):
            x, others, truth = read_examples(path, about, ["columns"], limit)
            names = others.get("columns")
            return features(columns, of_matrix(path, x, None if names is None else list(map(str, names)))), truth
        table = read_csv(path, limit)
        said = table.columns.get(about.get("target", ""))
        if said is None:
            return features(columns, table), None
        if said.dtype != object:
            return features(columns, table), [_class_of(y) for y in said] if self.classes else said[:, None].tolist()
        return features(columns, table), said.tolist()


def _target(table: Table, given: str | None, predict: Predicts) -> tuple[str, Target, str]:
    """The column that is said of the others: its name, what it says, and how it was found. InputError: it is none."""
    import numpy as np

    from nastool.tasks.arrays import Target

    names = list(table.columns)
    how = ""
    if given is None:
        lower = {name.lower(): name for name in reversed(names)}
        given = next((lower[known] for known in TARGETS if known in lower), names[-1])
        how = (
            " (-E target=NAME names another)"
            if given.lower() in TARGETS
            else " (the last column; -E target= names one)"
        )
    if given not in names:
        raise InputError(f"{table.path} has no column {short(given)!r} for target; {hint(given, names)}")
    cells = table.columns[given]
    texts = cells.dtype == object
    absent = np.flatnonzero(cells == "") if texts else np.flatnonzero(np.isnan(cells))
    if absent.size:
        many = f" (and in {absent.size - 1:,} more rows)" if absent.size > 1 else ""
        remedy = "leave such rows out, or name another column with -E target="
        raise InputError(f"{table.place(int(absent[0]))}: the target {short(given)!r} is missing{many}: {remedy}")
    if texts and predict == "numbers":
        raise InputError(f"{table.path}: predict=numbers, but the target {short(given)!r} holds texts")
    if not texts:
        whole = bool((cells == np.rint(cells)).all())
        if predict == "numbers" or (predict is None and not (whole and len(np.unique(cells)) <= MOST_CLASSES)):
            return given, Target({"train": cells[:, None]}, names=(given,)), how
        cells = np.array([_class_of(cell) for cell in cells], dtype=object)
    classes = sorted(set(cells.tolist()), key=lambda each: (0, float(each), "") if not texts else (1, 0.0, each))
    if len(classes) < 2:
        raise InputError(
            f"{table.path}: the target {short(given)!r} is {short(classes[0])!r} in every row; name another"
        )
    if texts and 2 * len(classes) > len(cells):
        raise InputError(
            f"{table.path}: the target {short(given)!r} has {len(classes):,} different texts in {len(cells):,} rows, "
            "so it is no class; name another column with -E target="
        )
    place = {name: i for i, name in enumerate(classes)}
    return given, Target({"train": np.array([place[c] for c in cells.tolist()], np.int64)}, tuple(classes)), how


def _class_of(number: float) -> str:
    """Name of the class that a number stands for; "": it is missing."""
    return "" if number != number else str(int(number)) if number == int(number) else str(number)


def _loaded(
    data: str,
    make: type[TabularTask],
    table: Table,
    target: Target,
    note: str,
    name: str = "",
    *,
    balance: Balance = None,
    **options: Any,
) -> TensorData:
    """A table as data, split: what its columns are is learnt from the training rows. name: the target column's."""
    import numpy as np

    from nastool.tasks.tabular.table import Column, features
    from nastool.tasks.tensors import Encoded, supervised

    texts = sum(cells.dtype == object for cells in table.columns.values())
    kinds = [f"{len(table.columns) - texts} columns of numbers"] * (texts < len(table.columns))
    kinds += [f"{texts} of texts"] * bool(texts)
    read = f"{table.path}: {len(table):,} rows, {', '.join(kinds)}; {note}"

    def encode(rows: NDArray[np.intp]) -> Encoded:
        fitted = {name: Column.fitted(name, cells[rows]) for name, cells in table.columns.items()}
        columns = [column for column in fitted.values() if column is not None]
        useless = [name for name, column in fitted.items() if column is None]
        if not columns:
            raise InputError(
                f"{table.path}: each column is constant, or another text in each row: nothing to learn from"
            )
        every = features(columns, table)
        numbers = np.array([not c.categories and i == 0 for c in columns for i in range(len(c.features))])
        mean, std = np.nanmean(every[rows], 0, dtype=np.float64), np.nanstd(every[rows], 0, dtype=np.float64)
        without = [f"left out, as nothing can be learnt: {', '.join(short(name, 30) for name in useless)}"] * bool(
            useless
        )
        return Encoded(
            lambda rows: every[rows],
            np.where(numbers, mean, 0),
            np.where(numbers & (std > 0), std, 1),
            {"columns": [column.to_json() for column in columns], **({"target": name} if name else {})},
            "; ".join(filter(None, [read, table.note, *without])),
        )

    start, parts = 0, {}
    for part, y in target.y.items():
        parts[part] = np.arange(start, start + len(y))
        start += len(y)
    return supervised(data, parts, target, make, encode, table.columns.values(), balance=balance, **options)
