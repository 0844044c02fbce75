"""The lower part of a terminal, drawn again and again; what is printed meanwhile goes above it."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

from nastool.cli.interrupts import undisturbed
from nastool.cli.live.frame import Line, styled
from nastool.cli.live.text import Glyphs, glyphs_for

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

Layout = Callable[[int, int, Glyphs], Sequence[Line]]
"""Lines for a width, a height, and what bars are made of."""
MARGIN = 1
"""Cells that stay free at the right: a terminal may break a line that fills it."""


def suitable(stream: TextIO | None) -> bool:
    """Whether a live region can be drawn there: on a terminal that a person looks at and that can move its cursor."""
    if not getattr(stream, "isatty", bool)():  # in a notebook it may be any object
        return False
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown", ""):
        return False
    return not (
        os.environ.get("CI") or os.environ.get("TTY_COMPATIBLE") == "0" or os.environ.get("TTY_INTERACTIVE") == "0"
    )


class Screen:
    """A live region at the end of a stream that is `suitable`. Nothing is drawn before the first `show`.

    Until `stop`, the cursor is hidden, keys do not echo, and lines written to sys.stderr (and sys.stdout, if
    that is the stream) go above the region.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._console: Console | None = None
        self._live: Live | None = None
        self._text: Text | None = None
        self._size = (0, 0)
        self._tallest = 0
        self._redirected: list[tuple[str, Any]] = []
        self._keys = _Keys()
        self._on_suspend: Any = None

    def show(self, layout: Layout) -> None:
        """Draw, unless nothing has changed, or somebody else has the terminal."""
        if not self._foreground():
            return
        with undisturbed():
            size = self._measure()
            width, height = size
            found = list(layout(width - MARGIN, _room(height), glyphs_for(getattr(self._stream, "encoding", None))))
            if size == self._size:  # as many lines as before, so that the end of the screen does not jump
                found += [[] for _ in range(self._tallest - len(found))]
            text = styled(found)
            if self._live is not None and size == self._size and text == self._text:
                return
            if self._live is None:
                self._start()
            else:
                self._reflow(width)
            assert self._live is not None
            self._text, self._size, self._tallest = text, size, len(found)
            self._live.update(text, refresh=True)

    def say(self, text: str) -> None:
        """Print lines above the region."""
        from rich.text import Text

        with undisturbed():
            if self._live is None or self._console is None:
                self._stream.write(text + "\n")
                self._stream.flush()
            else:
                self._measure()
                self._console.print(Text.from_ansi(text), soft_wrap=True)

    def stop(self) -> None:
        """Wipe the region and leave the terminal as it was."""
        with undisturbed():
            if self._live is not None and self._console is not None:
                proxies = []
                for name, original in self._redirected:
                    proxies.append(getattr(sys, name))
                    setattr(sys, name, original)
                self._redirected = []
                self._wipe()
                for proxy in proxies:
                    if isinstance(proxy, _Above):
                        proxy.end()
                self._keys.show()
                if self._on_suspend is not None:
                    signal.signal(signal.SIGTSTP, self._on_suspend)
                    self._on_suspend = None
            self._live = self._console = None

    # --- details

    def _start(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=self._stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._measure()
        self._live = Live(
            console=self._console,
            auto_refresh=False,  # a thread would draw while others print
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
            vertical_overflow="crop",
        )
        self._keys.hide()
        self._live.start()
        for name in ("stderr", "stdout"):
            original = getattr(sys, name)
            if original is self._stream or (name == "stderr" and original is not None and original.isatty()):
                self._redirected.append((name, original))
                setattr(sys, name, _Above(self, original))
        if threading.current_thread() is threading.main_thread() and self._on_suspend is None:
            self._on_suspend = signal.signal(signal.SIGTSTP, self._suspend)

    def _wipe(self) -> None:
        """End the live region, whatever size the terminal has by now."""
        assert self._live is not None and self._console is not None
        with suppress(OSError, ValueError):  # the terminal may be gone
            self._reflow(self._measure()[0])
            self._live.update("")
            self._live.stop()

    def _measure(self) -> tuple[int, int]:
        """The terminal's width and height, also where COLUMNS says what they were once."""
        try:
            width, height = os.get_terminal_size(self._stream.fileno())
        except (OSError, ValueError):
            width, height = 0, 0
        size = (width or 80, height or 24)
        if self._console is not None:
            from rich.console import ConsoleDimensions

            self._console.size = ConsoleDimensions(*size)
        return size

    def _reflow(self, width: int) -> None:
        """After the terminal got narrower, it has broken the lines of the region: wipe what are more lines now."""
        from rich.control import Control
        from rich.segment import ControlType

        if self._text is None or width >= self._size[0] or self._console is None:
            return
        extra = sum(max(0, -(-line.cell_len // width) - 1) for line in self._text.split("\n", allow_blank=True))
        self._console.control(
            Control(
                *((ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1)) * extra)
            )
        )

    def _foreground(self) -> bool:
        """Whether the terminal listens to this process; where it is nobody's, it does."""
        try:
            return os.tcgetpgrp(self._stream.fileno()) == os.getpgrp()
        except (OSError, ValueError):
            return True

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets the terminal as it was, and the region comes back with the program."""
        self.stop()
        self._text = None  # the next `show` starts anew
        before = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)


def _room(height: int) -> int:
    """How many lines of so high a terminal are the region's: the line above it stays in sight."""
    return max(1, height - 2)


class _Above(io.TextIOBase):
    """Stands in for a stream: whole lines go above the region."""

    def __init__(self, screen: Screen, original: TextIO) -> None:
        self._screen = screen
        self._original = original
        self._begun = ""

    def write(self, text: str) -> int:
        *whole, self._begun = (self._begun + text).split("\n")
        if whole:
            self._screen.say("\n".join(whole))
        return len(text)

    def end(self) -> None:
        """A line that was begun and not ended is written as it is."""
        if self._begun:
            self._original.write(self._begun)
            self._original.flush()

    def isatty(self) -> bool:
        return self._original.isatty()

    def fileno(self) -> int:
        return self._original.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._original.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self._original.errors


class _Keys:
    """Whether the terminal shows keys that are pressed: they would land in the region and move it."""

    def __init__(self) -> None:
        self._before: list[Any] | None = None

    def hide(self) -> None:
        import termios

        try:
            fd = sys.stdin.fileno()
            if not os.isatty(fd) or os.tcgetpgrp(fd) != os.getpgrp():
                return
            self._before = termios.tcgetattr(fd)
            quiet = termios.tcgetattr(fd)
            quiet[3] &= ~termios.ECHO
            termios.tcsetattr(fd, termios.TCSANOW, quiet)
        except (OSError, ValueError, AttributeError, termios.error):
            self._before = None

    def show(self) -> None:
        import termios

        before, self._before = self._before, None
        if before is None:
            return
        with suppress(OSError, ValueError, AttributeError, termios.error):
            fd = sys.stdin.fileno()
            if os.tcgetpgrp(fd) == os.getpgrp():  # otherwise the terminal would stop us
                termios.tcsetattr(fd, termios.TCSANOW, before)
