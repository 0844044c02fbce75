"""python -m tests.helpers.fake_cuda [DEVICES] ARGUMENTS OF PYTHON: runs them where there are fake devices."""

from __future__ import annotations

import os
import sys

from tests.helpers.fake_cuda import environment, missing

if __name__ == "__main__":
    arguments = sys.argv[1:]
    devices = int(arguments.pop(0)) if arguments and arguments[0].isdigit() else 1
    reason = missing()
    if reason or not arguments:
        sys.exit(reason or __doc__)
    os.execve(sys.executable, [sys.executable, *arguments], {**os.environ, **environment(devices)})
