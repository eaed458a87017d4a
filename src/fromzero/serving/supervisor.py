"""A watching parent: it holds the listening socket and replaces worker processes that die.

The parent imports nothing heavy and does nothing with a request, so there is little in it that could fail. Connections
that come while no worker lives wait in the socket's queue for the next one.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from fromzero.errors import FromzeroError
from fromzero.language import say

QUICK = 1.0  # a worker that lives shorter than this many seconds failed to start
MOST_QUICK = 5  # such failures in a row, then it is given up
PAUSE = 0.2  # seconds between them
AGAIN = 5.0  # seconds until one that could not start is tried again, while others answer
REFUSED = 100  # exit status of a worker, above its error's own, when it cannot serve what it is given


def supervise(
    count: int, work: Callable[[bool], None], quiet: bool, refuse_more: Callable[[], None] = lambda: None
) -> int:
    """Keep `count` processes in `work(announces)` until SIGINT or SIGTERM, which they get as SIGTERM after
    `refuse_more()`; SIGHUP is passed on. Only the first is asked to announce the service. Gives the exit status: 0, or
    that of the error with which the last worker ended because it cannot serve at all. Raises FromzeroError if workers
    keep dying as they start."""
    family = _Family(work, refuse_more)
    before = {each: signal.signal(each, family.told) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for number in range(count):
            family.start(announces=number == 0)
        return _watch(family, quiet)
    finally:
        family.end()
        for each, handler in before.items():
            signal.signal(each, handler)


class _Family:
    """The living workers by process id, with the moment each was started."""

    def __init__(self, work: Callable[[bool], None], refuse_more: Callable[[], None]) -> None:
        self.work, self.refuse_more = work, refuse_more
        self.alive: dict[int, float] = {}
        self.stopping = False
        self._read, self._write = os.pipe()  # closes when the parent dies, however it dies: workers watch it

    def start(self, announces: bool = False) -> int:
        """Signals wait until the worker is on the list, or has shaken off the parent's handlers: else it would miss
        one."""
        waiting = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
        signal.pthread_sigmask(signal.SIG_BLOCK, waiting)
        try:
            process = os.fork()
            if process == 0:
                self._child(announces, waiting)
            self.alive[process] = time.monotonic()
            return process
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, waiting)

    def _child(self, announces: bool, waiting: set[signal.Signals]) -> NoReturn:
        status = 1
        try:
            os.setpgid(0, 0)  # Ctrl+C in the terminal reaches the parent alone
            os.close(self._write)
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, waiting)
            threading.Thread(target=_end_with_the_parent, args=(self._read,), daemon=True).start()
            self.work(announces)
            status = 0
        except FromzeroError as error:
            print(f"fromzero: {error.code}: {error}", file=sys.stderr)
            status = REFUSED + error.status
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            logging.shutdown()  # lines may wait to be written
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)  # nothing of the parent's clean-up belongs to the child

    def told(self, number: int, frame: object) -> None:
        if number != signal.SIGHUP:
            self.stopping = True
            self.refuse_more()  # who came now would wait for nobody
        for each in list(self.alive):
            os.kill(each, signal.SIGHUP if number == signal.SIGHUP else signal.SIGTERM)

    def end(self) -> None:
        """Stop those who still live and wait for them."""
        if not self.stopping:
            self.told(signal.SIGTERM, None)
        while self.alive:
            self.alive.pop(os.waitpid(-1, 0)[0], None)
        os.close(self._read)
        os.close(self._write)


def _watch(family: _Family, quiet: bool) -> int:
    failures = missing = 0
    again = 0.0  # when those who are missing are tried again
    while family.alive:
        process, ended = _ended(family, again) if missing else os.waitpid(-1, 0)
        if not process:
            for _ in range(missing):
                family.start()
            missing = 0
            continue
        now = time.monotonic()
        lived = now - family.alive.pop(process, 0.0)
        if family.stopping:
            continue
        status = os.waitstatus_to_exitcode(ended)
        failures = failures + 1 if lived < QUICK else 0
        if status > REFUSED or failures >= MOST_QUICK:
            # Those who came before it found what they needed and go on answering: the model was damaged since.
            if not any(now - started > lived + QUICK for started in family.alive.values()):
                if status > REFUSED:
                    return status - REFUSED
                raise FromzeroError("worker_failed", status=status)
            failures, missing, again = 0, missing + 1, now + AGAIN
            print(say("serve.short", pid=process, left=len(family.alive), seconds=AGAIN), file=sys.stderr, flush=True)
            continue
        if failures:
            time.sleep(PAUSE)
        if family.stopping:
            continue
        fresh = family.start()
        reason = signal.Signals(-status).name if status < 0 else str(status)
        if not quiet:
            print(say("serve.respawned", pid=process, reason=reason, fresh=fresh), file=sys.stderr, flush=True)
    return 0


def _ended(family: _Family, until: float) -> tuple[int, int]:
    """A process that ended, and how; 0 if none did until then."""
    while time.monotonic() < until or family.stopping:
        process, ended = os.waitpid(-1, os.WNOHANG)
        if process:
            return process, ended
        time.sleep(PAUSE)
    return 0, 0


def _end_with_the_parent(pipe: int) -> None:
    os.read(pipe, 1)  # returns when nobody holds the other end any more
    os.kill(os.getpid(), signal.SIGTERM)
