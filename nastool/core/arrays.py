"""Kinds of arrays that many modules share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Choices = NDArray[np.integer[Any]]
"""Numbers of the options chosen by n architectures, (n, decisions)."""
Columns = dict[str, NDArray[Any]]
"""Columns of a table by name, a row an architecture; arrays of a file."""
