"""Signals: the first asks, the second ends, and what is ignored stays ignored. Each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from fromzero.stopping import SIGNALS, stopping

pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals")

_CHILD = """
import signal, sys, time
from fromzero.stopping import stopping
for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(each, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)
for each in map(int, sys.argv[1:]):
    signal.signal(each, signal.SIG_IGN)
try:
    with stopping() as stop:
        print("ready", flush=True)
        until = time.monotonic() + 20
        while not stop.signal and time.monotonic() < until:
            time.sleep(0.01)
        print("asked", stop.signal, flush=True)
        if sys.stdin.readline():
            stop.end()
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(130)
"""


def child(*ignored):
    command = [sys.executable, "-c", _CHILD, *map(str, map(int, ignored))]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_first_asks_and_the_end_is_that_of_the_signal(number, status):
    process = child()
    process.send_signal(getattr(signal, number))
    assert process.stdout.readline() == f"asked {int(getattr(signal, number))}\n"
    process.communicate("go on\n", timeout=20)
    assert process.returncode == status


@pytest.mark.parametrize(("second", "status"), [("SIGINT", 130), ("SIGTERM", -15)])
def test_the_second_ends_at_once(second, status):
    process = child()
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline().startswith("asked")
    process.send_signal(getattr(signal, second))  # nobody has told it to go on
    assert process.wait(20) == status


def test_what_is_ignored_stays_ignored():
    """nohup, and Ctrl-C for a job in the background of a script."""
    process = child(signal.SIGHUP, signal.SIGINT)
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "asked 15\n"
    process.communicate("", timeout=20)
    assert process.returncode == 0


def test_handlers_come_back_and_other_threads_are_let_alone():
    before = [signal.getsignal(each) for each in SIGNALS]
    with stopping():
        pass
    assert [signal.getsignal(each) for each in SIGNALS] == before
    seen = []

    def work():
        with stopping() as stop:
            seen.append(stop.signal)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [0]
