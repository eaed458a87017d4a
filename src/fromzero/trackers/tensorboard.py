"""TensorBoard: event files in the run's own folder."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fromzero.files import disk_error, replacing
from fromzero.runs import Run

PACKAGE = "tensorboard"
PREFIX = "events.out.tfevents."


def start(run: Run, first: int) -> Board:
    folder = run.path / "tensorboard"
    for each in sorted(folder.glob(PREFIX + "*")):
        _cut(each, first)
    return Board(folder, first)


class Board:
    """An event file of our own, by TensorBoard's record writer. PyTorch's SummaryWriter writes from a thread, whose
    errors nobody hears, and names files by the clock alone, which may have been set back since the last one: they are
    read in the order of their names. Written through after every word: what was told before a checkpoint is there when
    the run goes on from it."""

    exact = True

    def __init__(self, folder: Path, first: int) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.events, self.summaries = event_pb2, summary_pb2
        self.where = str(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            stamp = max([int(time.time()), *(1 + _stamp(each) for each in folder.glob(PREFIX + "*"))])
            self.file = RecordWriter((folder / f"{PREFIX}{stamp:010d}.{os.getpid()}").open("xb"))
        except OSError as error:
            raise disk_error(folder, error) from error
        self._write(file_version="brain.Event:2")
        # For a TensorBoard that is open meanwhile: what a killed process told after this step is to be forgotten.
        self._write(step=first + 1, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def tell(self, values: Mapping[str, float], step: int) -> None:
        """Raises DiskError: the run must not go on to a checkpoint without what leads to it."""
        told = [self.summaries.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._write(step=step, summary=self.summaries.Summary(value=told))

    def _write(self, **event: Any) -> None:
        try:
            self.file.write(self.events.Event(wall_time=time.time(), **event).SerializeToString())
            self.file.flush()
        except OSError as error:
            raise disk_error(Path(self.where), error) from error

    def end(self, finished: bool) -> None:
        with contextlib.suppress(OSError):  # what could not be written was told when it was
            self.file.close()


def _stamp(path: Path) -> int:
    """The time in an event file's name; 0 where somebody else named it."""
    found = path.name.removeprefix(PREFIX).partition(".")[0]
    return int(found) if found.isdigit() else 0


def _cut(path: Path, last: int) -> None:
    """Take what came after step `last` out of an event file, and a record that was cut off by a crash. TensorBoard can
    be told to look past such events, but it goes by the clock, and other readers see each of them twice."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto import event_pb2
    from tensorboard.summary.writer.record_writer import RecordWriter

    records, good = [], 0
    for each in RawEventFileLoader(str(path)).Load():
        good += len(each) + 16  # each with its length before it and two checksums
        if event_pb2.Event.FromString(each).step <= last:
            records.append(each)
    whole = sum(len(each) + 16 for each in records)
    if whole == good == path.stat().st_size:
        return
    with replacing(path) as beside, contextlib.closing(RecordWriter(beside.open("wb"))) as writer:
        for each in records:
            writer.write(each)
