"""YAML that people write: clear errors in, and nothing that could be enormous."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nastool.core.errors import InputError, short, why

MAX_YAML_BYTES = 200_000
MAX_YAML_DEPTH = 100


class _Loader(yaml.SafeLoader):
    """YAML without keys that come twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} comes twice", key.start_mark)
            if isinstance(key, yaml.ScalarNode):
                seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


class _Dumper(yaml.SafeDumper):
    """Writes equal objects out each time: `read_yaml` takes no aliases."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file of at most 200 kB whose top level is a mapping with text keys; {} for an empty one.

    Raises:
        InputError: It is unreadable, too large, malformed, no mapping, or has aliases or a key twice.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {short(path)}: {why(error)}") from None
    if len(data) > MAX_YAML_BYTES:
        raise InputError(f"{path} is larger than {MAX_YAML_BYTES:,} bytes: is it a configuration?")
    try:
        text = data.decode()
        depth = 0
        for event in yaml.parse(text, Loader=_Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:  # each further level takes longer than the one before
                raise InputError(f"{path} is no valid YAML: it is nested too deeply")
            if isinstance(event, yaml.AliasEvent):  # with them a small file can be enormous
                raise InputError(
                    f"{path}: YAML aliases such as *{short(event.anchor)} are not supported; write the value out"
                )
        document = yaml.load(text, Loader=_Loader)  # a SafeLoader
    except InputError:
        raise
    except UnicodeDecodeError:
        raise InputError(f"{path} is no valid YAML: it is not UTF-8 text") from None
    except Exception as error:
        # The library lets through whatever its constructors of numbers and dates raise.
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "a value does not fit its tag, or is too long"
        raise InputError(f"{path}{where} is no valid YAML: {short(problem, 120)}") from None
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InputError(f"{path} must be a YAML mapping of names to values")
    return document


def dump_yaml(document: Mapping[str, object]) -> str:
    """YAML that `read_yaml` reads, in the mapping's own order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
