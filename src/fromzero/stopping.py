"""Asking a run to stop: SIGINT (Ctrl-C), SIGTERM (a cluster's end of time) and SIGHUP (the terminal was closed) let it
finish its step and save; a second one ends it at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

SIGNALS = [
    getattr(signal, each) for each in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, each)
]  # Windows: no HUP


@dataclass
class Stop:
    """Whether somebody asked, and by which signal (0: nobody)."""

    signal: int = 0

    def end(self) -> None:
        """Leave as a process does that was ended by that signal."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + self.signal)


@contextlib.contextmanager
def stopping() -> Iterator[Stop]:
    """Signals are asked for here while this lasts, but for those that are ignored (nohup). In a thread that is not the
    main one, Python delivers none."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before: dict[int, Any] = {each: signal.getsignal(each) for each in SIGNALS}
    before = {each: handler for each, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def asked(number: int, frame: FrameType | None) -> None:
        if stop.signal:  # the second time: at once
            signal.signal(number, before[number])
            signal.raise_signal(number)
        stop.signal = number

    for each in before:
        signal.signal(each, asked)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
