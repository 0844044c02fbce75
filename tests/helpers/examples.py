"""The examples in docs/examples."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def example(module: str, name: str) -> Any:
    """A class of one of them."""
    if module not in sys.modules:
        found = importlib.util.spec_from_file_location(module, EXAMPLES / f"{module}.py")
        assert found is not None and found.loader is not None
        sys.modules[module] = importlib.util.module_from_spec(found)
        found.loader.exec_module(sys.modules[module])
    return getattr(sys.modules[module], name)
