"""The lower part of a terminal, drawn again and again; what is printed meanwhile goes above it."""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, TextIO

from rich.console import Console, ConsoleDimensions, RenderableType
from rich.control import Control
from rich.file_proxy import FileProxy
from rich.live import Live
from rich.segment import ControlType, Segment, SegmentLines

from nastool.cli.live.text import plainly
from nastool.engine.interrupts import undisturbed

MARGIN = 1
"""Cells that stay free at the right: a terminal may break a line that fills it."""


class Screen:
    """A live region at the end of a stream on which one can be drawn. Nothing is drawn before the first `show`.

    Until `stop`, the cursor is hidden, keys do not echo, and lines written to sys.stderr (and sys.stdout, if
    that is the stream) go above the region.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console = Console(
            file=stream, force_terminal=True, highlight=False, markup=False, emoji=False, soft_wrap=True
        )
        self._ascii = not (getattr(stream, "encoding", None) or "").lower().startswith("utf")
        self._live: Live | None = None
        self._lines: list[list[Segment]] = []
        self._size = ConsoleDimensions(0, 0)
        self._redirected: dict[str, TextIO] = {}
        self._echoed = False
        self._on_suspend: Any = None

    def show(self, view: RenderableType) -> None:
        """Draws, unless nothing has changed, or somebody else has the terminal."""
        if not self._foreground():
            return
        with undisturbed():
            size = self._measure()
            room = max(1, size.height - 2)  # the line above it stays in sight
            options = self._console.options.update(width=size.width - MARGIN, height=room).reset_height()
            lines = self._console.render_lines(view, options, pad=False)[:room]
            if self._ascii:
                lines = [[Segment(plainly(text), style) for text, style, _ in line] for line in lines]
            if size == self._size:  # as many lines as before, so that the end of the screen does not jump
                lines += [[] for _ in range(len(self._lines) - len(lines))]
            if self._live is None:
                self._start()
            elif size == self._size and lines == self._lines:
                return
            else:
                self._reflow(size.width)
            assert self._live is not None
            self._lines, self._size = lines, size
            self._live.update(SegmentLines(lines, new_lines=True), refresh=True)

    def stop(self) -> None:
        """Wipes the region and leaves the terminal as it was."""
        with undisturbed():
            if self._live is None:
                return
            with suppress(OSError, ValueError):  # the terminal may be gone
                self._reflow(self._measure().width)
                for name in self._redirected:
                    getattr(sys, name).end()
                self._live.update("")
                self._live.stop()
            for name, original in self._redirected.items():
                setattr(sys, name, original)
            self._redirected = {}
            if self._echoed:
                _echo(True)
            if self._on_suspend is not None:
                signal.signal(signal.SIGTSTP, self._on_suspend)
                self._on_suspend = None
            self._live, self._lines = None, []

    # --- details

    def _start(self) -> None:
        self._live = Live(
            console=self._console,
            auto_refresh=False,  # a thread would draw while others print
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._echoed = _echo(False)
        self._live.start()
        for name in ("stderr", "stdout"):
            original = getattr(sys, name)
            if original is self._stream or (name == "stderr" and original is not None and original.isatty()):
                self._redirected[name] = original
                setattr(sys, name, _Above(self._console, original))
        if threading.current_thread() is threading.main_thread():
            self._on_suspend = signal.signal(signal.SIGTSTP, self._suspend)

    def _measure(self) -> ConsoleDimensions:
        """The terminal's size, also where COLUMNS says what it was once."""
        try:
            width, height = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            width, height = 0, 0
        self._console.size = ConsoleDimensions(width or 80, height or 24)
        return self._console.size

    def _reflow(self, width: int) -> None:
        """After the terminal got narrower, it has broken the lines of the region: wipe what are more lines now."""
        if width < self._size.width:
            extra = sum(max(0, -(-Segment.get_line_length(line) // width) - 1) for line in self._lines)
            up = (ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))
            self._console.control(Control(*(up * extra)))

    def _foreground(self) -> bool:
        """Whether the terminal listens to this process; where it is nobody's, it does."""
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets the terminal as it was, and the region comes back with the program."""
        self.stop()
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)


class _Above(FileProxy):
    """Stands in for a stream: whole lines go above the region, and what is begun waits for its end."""

    def __init__(self, console: Console, original: TextIO) -> None:
        super().__init__(console, original)
        self._original = original
        self._begun = False

    def write(self, text: str) -> int:
        self._begun = not text.endswith("\n") if text else self._begun
        with undisturbed():
            super().write(text)
        return len(text)

    def end(self) -> None:
        if self._begun:
            self.write("\n")

    def flush(self) -> None:
        pass

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The stream's own; without one, click would write past this object."""
        return self._original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._original.errors


def _echo(shown: bool) -> bool:
    """Has the terminal show keys that are pressed, or not: they would land in the region and move it.

    Returns:
        Whether that was changed.
    """
    with suppress(OSError, ValueError, AttributeError, termios.error):
        fd = sys.stdin.fileno()
        if os.tcgetpgrp(fd) == os.getpgrp():  # otherwise the terminal would stop us
            mode = termios.tcgetattr(fd)
            if bool(mode[3] & termios.ECHO) != shown:
                mode[3] ^= termios.ECHO
                termios.tcsetattr(fd, termios.TCSANOW, mode)
                return True
    return False
