"""TensorBoard: event files in the run's own folder."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from fromzero.files import replacing
from fromzero.runs import Run

PACKAGE = "tensorboard"


def start(run: Run, first: int) -> Board:
    folder = run.path / "tensorboard"
    for each in sorted(folder.glob("events.out.tfevents.*")):
        _cut(each, first)
    return Board(folder, first)


class Board:
    """Written through after every word: what was told before a checkpoint is there when the run goes on from it."""

    exact = True

    def __init__(self, folder: Path, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.where = str(folder)
        self.writer = SummaryWriter(str(folder), purge_step=first + 1)  # for a TensorBoard that is open meanwhile

    def tell(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def end(self, finished: bool) -> None:
        self.writer.close()


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
