"""Requests become answers on a few threads: samples are prepared one by one, run together where that was measured to be
faster, and refused at once where they could not be answered in time.

There is one set of worker threads for all models. A free thread either runs a batch of prepared samples or prepares the
next request, so on a CPU a request usually stays with one thread from its bytes to its answer, and on a GPU the others
go on decoding while one waits for the card. Nothing waits for a batch to fill up: a batch is what came in meanwhile.

Every accepted request must fit into the target: `Workers.submit` adds up what the requests in hand are expected to take
(their decoding by bytes, their runs by the times measured at the start), multiplies it by how much longer than expected
the last ones took (others use the machine too), and refuses what would come too late.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

GAIN = 0.05  # a batch must be this much faster for each sample than the best smaller one
MEASURING = 0.4  # seconds that measuring batches may take
FORGET = 0.05  # weight of the newest request in the running means
LATE, ON_TIME = 0.9, 1.0002  # what a late and a timely answer do to the headroom: it settles at a surge in 500 answers
# Where other programs run, a core is shared by threads: with one for each core a server got 140 answers a second where
# this gave 190, at the same CPU time for each. It also fills the moments in which a thread waits for Python's lock.
THREADS_A_CORE = 2
TIMELY = 0.95  # of the target: the answer still has to reach the client
LEAST_HEADROOM, FIRST_HEADROOM = 0.1, 0.6

Prepare = Callable[[], list[Any]]


class Overloaded(Exception):
    """The request would be answered too late; `seconds` until the work in hand is done."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(frozen=True)
class Times:
    """Seconds a run takes for each size of batch, as measured, and the size that is fastest for each sample."""

    runs: dict[int, float]
    best: int

    def run(self, count: int) -> float:
        """Seconds for `count` samples, in batches of the best size."""
        return self.runs[1] if count == 1 else self.runs[self.best] / self.best * count


def measure(scores: Callable[[np.ndarray], Any], sample: np.ndarray, most: int, allowed: float) -> Times:
    """Time batches of 1, 2, 4 ... up to `most` copies of `sample`, each run within `allowed` seconds. The first runs
    of a size warm up; the least of the following counts, because what disturbs only ever adds."""
    over = time.perf_counter() + MEASURING
    runs: dict[int, float] = {}
    best = size = 1
    while size <= most:
        batch = np.repeat(sample[None], size, axis=0)
        scores(batch)
        took: list[float] = []
        while len(took) < 5 and (not took or time.perf_counter() < over):
            started = time.perf_counter()
            scores(batch)
            took.append(time.perf_counter() - started)
        runs[size] = min(took)
        if size > 1 and runs[size] > allowed:
            break
        if runs[size] / size < (1 - GAIN) * runs[best] / best:
            best = size
        # Twice no gain: larger batches will not bring one either.
        if size >= 4 * best or time.perf_counter() > over:
            break
        size *= 2
    return Times(runs, best)


@dataclass(eq=False)
class Lane:
    """One model's way through the workers: how it runs, what waits for it, what its requests have cost so far."""

    scores: Callable[[np.ndarray], np.ndarray]
    slots: int = 1  # runs at the same time
    times: Times = field(default_factory=lambda: Times({1: 0.0}, 1))
    seen: Callable[[int], None] = lambda size: None  # told the size of every batch
    waiting: deque[tuple[Job, int, np.ndarray]] = field(default_factory=deque)
    queued: int = 0  # requests not yet prepared
    running: int = 0
    pending: int = 0  # requests not yet answered
    _seconds: float = 0.0  # running means of what preparing a request took, and of its bytes
    _bytes: float = 0.0

    def preparing(self, size: int) -> float:
        """Expected seconds to prepare a request of `size` bytes."""
        return self._seconds * size / self._bytes if self._bytes else 0.0

    def prepared(self, size: int, seconds: float) -> None:
        weight = FORGET if self._bytes else 1.0
        self._seconds += weight * (seconds - self._seconds)
        self._bytes += weight * (size - self._bytes)


@dataclass(eq=False)
class Job:
    """One request. `outcomes` holds for each of its samples the scores (classes,), or the error that spoilt it."""

    lane: Lane
    prepare: Prepare
    size: int
    cost: float
    expected: float  # seconds from its start to its answer, before the correction by the pace
    started: float
    done: Callable[[Job], None]
    outcomes: list[Any] = field(default_factory=list)
    left: int = 0
    error: BaseException | None = None


class Workers:
    """The threads for all lanes, and the decision what is let in. `target`: seconds from a complete request to its
    answer that all but one in a hundred must keep; infinite: everything is let in."""

    def __init__(self, cores: int, target: float = math.inf) -> None:
        self.cores, self.target = cores, target
        self.threads = THREADS_A_CORE * cores
        self.backlog = 0.0  # seconds of all threads together until what was let in is answered
        self.headroom = FIRST_HEADROOM
        self._lowered = 0.0  # when
        self._expected = self._took = 0.0  # running means of the seconds to an answer
        self._jobs: deque[Job] = deque()
        self._lanes: dict[Lane, None] = {}  # those with prepared samples, in order
        self._change = threading.Condition(threading.Lock())
        self._idle = 0
        self._over = False
        self._threads = [
            threading.Thread(target=self._work, name=f"worker-{i}", daemon=True) for i in range(self.threads)
        ]

    def start(self) -> None:
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """Let the threads end once everything that was let in is answered."""
        with self._change:
            self._over = True
            self._change.notify_all()

    def cost(self, lane: Lane, size: int, samples: int = 1) -> float:
        """Seconds by which a request lengthens the wait of those after it."""
        return lane.preparing(size) / self.cores + lane.times.run(samples) / min(lane.slots, self.cores)

    def admit(self, lane: Lane, size: int) -> None:
        """Raises Overloaded if a request of `size` bytes that came now would be late. One that finds nobody before it
        is let in: it cannot be answered sooner later."""
        if lane.pending and self.pace * self._expect(lane, size) > self.target * self.headroom:
            raise Overloaded(self.pace * self.backlog)

    @property
    def pace(self) -> float:
        """How many times longer than expected the last answers took."""
        return self._took / self._expected if self._expected else 1.0

    def _expect(self, lane: Lane, size: int) -> float:
        """Seconds to the answer of a request that comes now: those before it, then its own."""
        return self.backlog + lane.preparing(size) + lane.times.run(1)

    async def submit(self, lane: Lane, prepare: Prepare, size: int, always: bool = False) -> list[Any]:
        """Prepare a request of `size` bytes on a worker and run its samples. Gives for each sample what `prepare` made
        of it if that is an exception, else its scores. Raises Overloaded unless `always`, and whatever `prepare` or the
        model do."""
        if not always:
            self.admit(lane, size)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[Any]] = loop.create_future()

        def done(job: Job) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_settle, answer, job)

        job = Job(lane, prepare, size, self.cost(lane, size), self._expect(lane, size), time.perf_counter(), done)
        with self._change:
            if self._over:
                raise Overloaded(1.0)
            self.backlog += job.cost
            lane.pending += 1
            lane.queued += 1
            self._jobs.append(job)
            if self._idle:
                self._change.notify()
        try:
            return await answer
        finally:
            self._learn(job, time.perf_counter() - job.started)

    def _learn(self, job: Job, took: float) -> None:
        """Expectations are means and the target is about the worst: what is let in follows what came of it."""
        self._took += FORGET * (took - self._took)
        self._expected += FORGET * (job.expected - self._expected)
        if took <= TIMELY * self.target:
            self.headroom = min(1.0, self.headroom * ON_TIME)
        elif job.started > self._lowered:  # those let in before the last correction are no reason for another
            self.headroom = max(LEAST_HEADROOM, self.headroom * LATE)
            self._lowered = time.perf_counter()

    def _work(self) -> None:
        while True:
            with self._change:
                while (task := self._next()) is None:
                    if self._over:
                        return
                    self._idle += 1
                    self._change.wait()
                    self._idle -= 1
            task()

    def _next(self) -> Callable[[], None] | None:
        """What to do now, taken off its queue. A batch that is full, or that nothing is coming to fill, goes first."""
        for lane in self._lanes:
            if lane.running < lane.slots and (len(lane.waiting) >= lane.times.best or not lane.queued):
                batch = [lane.waiting.popleft() for _ in range(min(lane.times.best, len(lane.waiting)))]
                if not lane.waiting:
                    del self._lanes[lane]
                lane.running += 1
                return lambda: self._run(lane, batch)
        if self._jobs:
            job = self._jobs.popleft()
            job.lane.queued -= 1
            return lambda: self._prepare(job)
        return None

    def _prepare(self, job: Job) -> None:
        started = time.perf_counter()
        try:
            job.outcomes = job.prepare()
        except Exception as error:  # the request's own, given back to whoever asked
            job.error = error
        took = time.perf_counter() - started
        samples = [(job, i, each) for i, each in enumerate(job.outcomes) if isinstance(each, np.ndarray)]
        job.left = len(samples)
        with self._change:
            job.lane.prepared(job.size, took)
            if samples:
                more = (len(samples) - 1) * job.lane.times.run(1) / min(job.lane.slots, self.cores)
                job.cost += more
                self.backlog += more
                job.lane.waiting.extend(samples)
                self._lanes[job.lane] = None
                if self._idle and (len(samples) > 1 or job.lane.running >= job.lane.slots):
                    self._change.notify()
        if not samples:
            self._finish(job)

    def _run(self, lane: Lane, batch: Sequence[tuple[Job, int, np.ndarray]]) -> None:
        error: BaseException | None = None
        scores: Any = ()
        try:
            arrays = [sample for _, _, sample in batch]
            scores = lane.scores(np.stack(arrays) if len(arrays) > 1 else arrays[0][None])
        except Exception as raised:  # a bug of the model's, given back to whoever asked
            error = raised
        finished = []
        with self._change:
            lane.running -= 1
            if lane.waiting and self._idle:  # its slot is free for what waited
                self._change.notify()
            for place, (job, position, _) in enumerate(batch):
                job.error = job.error or error
                if error is None:
                    job.outcomes[position] = scores[place]
                job.left -= 1
                if not job.left:
                    finished.append(job)
        lane.seen(len(batch))
        for job in finished:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        with self._change:
            self.backlog -= job.cost
            job.lane.pending -= 1
        job.done(job)


def _settle(answer: asyncio.Future[list[Any]], job: Job) -> None:
    if answer.done():  # given up meanwhile
        return
    if job.error is not None:
        answer.set_exception(job.error)
    else:
        answer.set_result(job.outcomes)
