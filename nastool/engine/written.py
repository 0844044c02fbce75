"""Which files in a run's folder nastool wrote for its user: only these does it replace or delete."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path

from nastool.core.errors import InputError
from nastool.core.files import is_marked, write_bytes
from nastool.engine import lease
from nastool.engine.store import Store

RESULTS: Mapping[str, str] = {
    "best.json": "the best architecture, with what was measured of it",
    "best.safetensors": "its weights",
    "model.py": "its code, which needs nothing but torch",
    "trials.jsonl": "all trials, a line each",
    "trials.csv": "the same as a table",
    "report.html": "everything about the run, for a browser",
}
"""What a run's folder holds for its user at the end."""


class Written:
    """The results in a run's folder, by name, and the digests with which the run wrote them; listed in its run.db.

    A run of an earlier version has no list: what is there under a result's name counts as its own.
    """

    KEY = "files"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, list[str]] | None = None
        try:
            with Store.read(folder / "run.db") as store:
                known = store.get(self.KEY)
        except InputError:
            return  # there is none, or it is damaged
        if isinstance(known, Mapping) and all(isinstance(digests, list) for digests in known.values()):
            self._known = {name: [*digests] for name, digests in known.items()}

    def owns(self, name: str) -> bool:
        """Whether the file may be replaced: there is none, it is as the run wrote it, or it says that nastool made it.

        The last is for reports, which other commands write, too, and for weights, which people do not.
        """
        path = self.folder / name
        if self._known is None or not path.exists():
            return not path.is_dir()
        return path.is_file() and self._is_own(path, _digest(path.read_bytes()))

    def _is_own(self, path: Path, digest: str | None) -> bool:
        if self._known is None or digest is None or digest in self._known.get(path.name, ()):
            return True
        return path.suffix in (".html", ".safetensors") and is_marked(path)

    def foreign(self, names: Iterable[str]) -> list[str]:
        """Those that are there and not the run's, or were changed since it wrote them."""
        return [name for name in names if not self.owns(name)]

    def check(self, *names: str) -> None:
        """InputError: one of them is there and not the run's any more."""
        for name in self.foreign(names):
            raise InputError(
                f"{self.folder / name} was not written by nastool, or was changed since, and is left as it is: "
                "move it away, then give the same command again"
            )

    def write(self, name: str, data: bytes) -> None:
        """Write a result. InputError: it is not the run's any more, nor the run this process's, or the disk is full."""
        path = self.folder / name
        before = _digest(path.read_bytes()) if path.is_file() else None
        if before is None or not self._is_own(path, before):
            self.check(name)
        # Noted first, beside what is there until then: so whenever a kill comes, the file is the run's.
        self._note(name, [*([] if before is None else [before]), _digest(data)])
        write_bytes(path, data)

    def remove(self, name: str) -> None:
        """Delete a result that is the run's own; otherwise nothing. OSError."""
        if self.owns(name):
            (self.folder / name).unlink(missing_ok=True)

    def _note(self, name: str, digests: list[str]) -> None:
        if self._known is None:
            there = (each for each in RESULTS if (self.folder / each).is_file())
            self._known = {each: [_digest((self.folder / each).read_bytes())] for each in there}
        if self._known.get(name) == digests:
            return
        self._known[name] = digests
        if not Store.is_blank(self.folder / "run.db"):
            with Store.open(self.folder / "run.db", durable=False) as store:
                store.guard = partial(lease.check, store)
                store.begin()
                store.put(self.KEY, self._known)
                store.commit()


def _digest(data: bytes) -> str:
    """16 hexadecimal digits that name a content."""
    return hashlib.blake2b(data, digest_size=8).hexdigest()
