"""One thread for linear algebra on small matrices."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """BLAS of numpy and scipy uses one thread inside: faster on small matrices, and sums do not depend on the cores.

    The limit is the process's, not the calling thread's, so do not enter it from two threads at once. Cost: some 20 us.
    """
    with _controller("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _controller(with_scipy: bool) -> ThreadpoolController:
    """Finding the loaded libraries takes 1 ms, so it is done once, and again after scipy has brought its own."""
    return ThreadpoolController()
