"""Plugins in files: `my.py:Net` and `package.module:Net` wherever the name of a plugin stands.

What is recorded of one is its file's base name, the object and a digest of the file: "my.py:Net@3f2a1b9c". A file that
its user names is executed. One that only a run, a line of JSON or a recipe names is executed only if its user has named
a file of that content before, or NASTOOL_PLUGINS names it. A copy is kept of each that was named, so what was made with
it can be used after the file has changed, and a change during a search changes nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import linecache
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, TypeGuard

from nastool.core import options
from nastool.core.errors import InputError, hint, one_line, short, why
from nastool.core.files import write_atomic, write_bytes

_FORM = re.compile(
    r"(?P<table>.+\.csv)(@(?P<content>[0-9a-f]{8}))?|"
    r"(?P<source>.+\.py|[A-Za-z_]\w*(\.\w+)*):(?P<object>[A-Za-z_]\w*)(@(?P<digest>[0-9a-f]{8}))?"
)
VARIABLE = "NASTOOL_PLUGINS"
"""Environment variable with the files that may be executed whoever names them, as PATH separates them."""
MOST_BYTES = 10_000_000
"""Of a file that is executed, at most."""


@dataclass(frozen=True)
class Named:
    """What a text names.

    Attributes:
        source: A path that ends with .py or .csv, or the dotted name of a module.
        object: Name of the object in it; "": it is a table, which is not executed.
        digest: 8 hexadecimal digits that name the file's content; "": as it is now.
    """

    source: str
    object: str
    digest: str = ""

    @property
    def is_module(self) -> bool:
        return not self.source.endswith((".py", ".csv"))

    def at(self, digest: str) -> Named:
        """The same as records have it."""
        return Named(self.source if self.is_module else Path(self.source).name, self.object, digest)

    def __str__(self) -> str:
        name = f"{self.source}:{self.object}" if self.object else self.source
        return name + (f"@{self.digest}" if self.digest else "")


@dataclass(frozen=True)
class Found:
    """A plugin's file, which may be executed.

    Attributes:
        named: What it is recorded as.
        path: Where it lies, or lay.
        content: What is executed.
    """

    named: Named
    path: Path
    content: bytes


def parsed(text: str) -> Named | None:
    """What names an object in a file or module; None: the text has no such form, and is the name of something else."""
    match = _FORM.fullmatch(text)
    if match is None:
        return None
    if match["table"]:
        return Named(match["table"], "", match["content"] or "")
    return Named(match["source"], match["object"], match["digest"] or "")


def plain(name: str) -> str:
    """A plugin's name as a part of a file's: of "my.py:Net@3f2a1b9c" just "Net"."""
    named = parsed(name)
    return named.object or Path(named.source).stem if named else name


def split(text: str) -> tuple[str | None, str]:
    """A name of such form at the beginning of a text, and what follows it after a colon; None: there is none."""
    parts = text.split(":")
    for end in range(1, len(parts) + 1):
        if parsed(name := ":".join(parts[:end])):
            return name, ":".join(parts[end:])
    return None, text


def reading(task: type[Any]) -> dict[str, Any]:
    """Methods of a task in a file, whose data sets are named after it: "my.py:Signals:waves"; alone it is the first."""

    def own(data: str) -> str:
        return split(data)[1] or next(iter(task.datasets), data)

    def reads(cls: type[Any], data: str) -> bool:
        return bool(split(data)[0] == cls.name)

    def passing(name: str) -> Any:
        def method(cls: type[Any], data: str, /, **given: Any) -> Any:
            return getattr(task, name).__func__(cls, own(data), **given)

        return classmethod(method)

    return {"reads": classmethod(reads), **{name: passing(name) for name in ("recipe_for", "check", "goals", "load")}}


def digest_of(content: bytes) -> str:
    """8 hexadecimal digits that name a file's content."""
    return hashlib.blake2s(content, digest_size=4).hexdigest()


_origins: dict[str, Path] = {}
"""Digest -> file, of those that the user of this process named."""
_modules: dict[str, ModuleType] = {}
"""Digest and name of what this process has executed -> its module."""


def trust(*texts: object) -> None:
    """Note that the user of this process named these; what has another form, or cannot be read, is left alone."""
    for text in texts:
        name = split(text)[0] if isinstance(text, str) else None
        if name is None or (named := parsed(name)) is None:
            continue
        with suppress(InputError):
            path = _path(named)
            content = _read(path)
            digest = digest_of(content)
            if named.digest in ("", digest):
                _origins[digest] = path
                _keep(digest, path, content)


def _keep(digest: str, path: Path, content: bytes) -> None:
    """Copy a named file to where later processes find it."""
    folder = _kept(digest)
    try:
        if not (folder / "origin").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".py":  # a table may be large
                write_bytes(folder / path.name, content)
        write_atomic(folder / "origin", str(path))
    except (OSError, InputError, ValueError):  # no home, or a full one; this process' workers inherit its environment
        listed = os.environ.get(VARIABLE, "").split(os.pathsep)
        os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*filter(None, listed), str(path)]))


def _kept(digest: str) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "nastool" / "plugins" / digest


def find(named: Named) -> Found:
    """The file of a plugin.

    Raises:
        InputError: There is none, it has changed since it was recorded, or its user has never named it.
    """
    if not named.digest:
        path = _path(named)
        content = _read(path)
        digest = digest_of(content)
        known = path == _origins.get(digest) or path in _listed() or content in _copies(digest)
        if named.object and not known:
            raise InputError(_unnamed(named, path))
        return Found(named.at(digest), path, content)
    origin = _origins.get(named.digest)
    with suppress(OSError, UnicodeDecodeError):
        origin = origin or Path((_kept(named.digest) / "origin").read_text(encoding="utf-8"))
    for path in (*([origin] if origin else ()), *_listed()):
        with suppress(InputError):
            content = _read(path)
            if digest_of(content) == named.digest:
                return Found(named, path, content)
    for content in _copies(named.digest):
        if digest_of(content) == named.digest:
            return Found(named, origin or Path(named.source), content)
    raise InputError(_unnamed(named, Path(named.source)))


def is_other_version(one: object, other: object) -> TypeGuard[str]:
    """Whether two records name the same object in a file, with another content."""
    first, second = (parsed(name) if isinstance(name, str) else None for name in (one, other))
    return bool(first and second and first.digest != second.digest and first.at("") == second.at(""))


def changed(*names: str) -> list[Path]:
    """The files of these recorded plugins whose content is another by now; those that are not there are left out."""
    paths = []
    for named in filter(None, map(parsed, names)):
        with suppress(InputError, OSError):
            path = find(named).path
            if digest_of(_read(path)) != named.digest and path not in paths:
                paths.append(path)
    return paths


def _copies(digest: str) -> Iterator[bytes]:
    """What was kept of a file of this digest."""
    with suppress(OSError):
        for file in sorted(_kept(digest).iterdir()):
            if file.suffix == ".py":
                yield file.read_bytes()


def _listed() -> Iterator[Path]:
    for text in os.environ.get(VARIABLE, "").split(os.pathsep):
        if text:
            yield Path(text).expanduser().absolute()


def _unnamed(named: Named, path: Path) -> str:
    if not named.object:
        return f"{named}: the file has changed, or is not known here: put it back, or give {VARIABLE}=PATH/{path.name}"
    where = "PATH/" if named.digest else ""
    source = f"{named.source.replace('.', '/')}.py" if named.is_module else named.source
    file = f"{where}{source}" if named.digest else str(path)
    return (
        f"{named}: a file that you have not named yet is not executed; if you trust it, give "
        f"{VARIABLE}={short(Path(file))} before the same command"
    )


def _path(named: Named) -> Path:
    """Where the source lies; of a module without importing anything. InputError: nowhere."""
    if not named.is_module:
        return Path(named.source).expanduser().absolute()
    places = [*sys.path, os.getcwd()]
    for end in range(1, named.source.count(".") + 2):
        part = ".".join(named.source.split(".")[:end])
        spec = PathFinder.find_spec(part, places)
        if spec is None:
            raise InputError(f"{named}: no module {part!r} in this folder or among the installed packages")
        places = list(spec.submodule_search_locations or ())
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        raise InputError(f"{named}: module {named.source!r} has no Python source: name the file that defines it")
    return Path(spec.origin)


def _read(path: Path) -> bytes:
    """InputError: it cannot be read."""
    try:
        if path.suffix == ".py" and path.stat().st_size > MOST_BYTES:
            raise InputError(f"{short(path)} is larger than {MOST_BYTES:,} bytes: no Python source")
        return path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {short(path)}: {why(error)}") from None


def load(found: Found) -> tuple[ModuleType, object]:
    """The module, executed once in a process, and the object in it.

    Raises:
        InputError: It cannot be executed, or has no such object; the message names file and line.
    """
    module = _executed(found)
    name = found.named.object
    if not hasattr(module, name):
        defined = [
            key
            for key, value in vars(module).items()
            if getattr(value, "__module__", None) == module.__name__ and not key.startswith("_")
        ]
        raise InputError(f"{found.path.name} has no {name!r}; {hint(name, defined)}")
    return module, getattr(module, name)


def _executed(found: Found) -> ModuleType:
    named, path = found.named, found.path
    key = f"{named.source}@{named.digest}"
    if key in _modules:
        return _modules[key]
    if named.is_module:
        root = path.parents[named.source.count(".") + (path.name == "__init__.py")]
        if PathFinder.find_spec(named.source.partition(".")[0]) is None:
            sys.path.append(str(root))
        if digest_of(_read(path)) != named.digest or any(other.startswith(f"{named.source}@") for other in _modules):
            raise InputError(f"{named}: {short(path)} has changed since: put it back, or begin anew in a new process")
        try:
            module = importlib.import_module(named.source)
        except Exception as error:
            raise InputError(failed(error, path)) from error
    else:
        module = ModuleType(f"{re.sub(r'[^0-9A-Za-z_]', '_', path.stem)}_{named.digest}")
        module.__file__ = str(path)
        text = found.content.decode("utf-8", errors="replace")
        # read from here by tracebacks and `inspect`, whatever becomes of the file
        linecache.cache[str(path)] = (len(text), None, text.splitlines(keepends=True), str(path))
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))  # for what lies beside it
        sys.modules[module.__name__] = module
        try:
            with options.PARSING:
                code = compile(found.content, str(path), "exec", dont_inherit=True)
            exec(code, vars(module))
        except (Exception, SystemExit) as error:
            del sys.modules[module.__name__]
            raise InputError(failed(error, path)) from error
    _modules[key] = module
    return module


def failed(error: BaseException, path: Path) -> str:
    """What went wrong while a file was executed: where, what, and what to do."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    if isinstance(error, SyntaxError):
        file, line = Path(error.filename or path).name, error.lineno
        what = f"{type(error).__name__}: {error.msg}"
    else:
        file, line, what = path.name, lines[-1] if lines else None, one_line(error)
    where = f"{file}, line {line}" if line else file
    remedy = "install it, or correct the name" if isinstance(error, ImportError) else "correct the file"
    return f"{where}: {what}; {remedy}, then give the same command again"
