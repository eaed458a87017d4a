"""Runs the application until it is told to stop: sockets, signals, logs and what the person at the terminal reads."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fromzero.errors import MissingPackage, UsageError
from fromzero.language import say
from fromzero.terminal import Terminal

GRACE = 10  # seconds that requests in flight get after a signal to stop
# Then idle connections are closed. For so many seconds before, what is still on its way to them is answered, and every
# client told that its connection ends: else those who send without a pause lost a request each.
LEAVING = 0.3
BACKLOG = 2048
# A client may send its next request just as an idle connection is closed, and then loses it: seldom enough if idle
# connections live longer than most pools keep them. uvicorn's own 5 s lost 1 request in 200 of a bursty client.
KEEP_ALIVE = 75
LOG_SECONDS = 0.1  # lines wait for others to be written with


def serve(
    path: str | Path,
    host: str = "127.0.0.1",
    port: int = 8000,
    quiet: bool = False,
    *,
    more: Mapping[str, Path] | None = None,
    workers: int = 0,
    **settings: Any,
) -> int:
    """Serve the run or artifact at `path`, and `more` under their names, until SIGINT or SIGTERM; requests in flight
    are answered first. SIGHUP exchanges models whose files changed.

    Port 0 picks a free one. The address is printed; with `quiet` nothing else is, except errors. With `workers` that
    many processes answer and are replaced when they die (not on Windows); 0: this one does. `settings` are the fields
    of `serving.app.Settings`. Gives the exit status. Raises UsageError if the address cannot be used and what
    `open_classifier` raises if a model cannot."""
    with contextlib.closing(_bound(host, port)) as listener:  # first: a taken port should not cost a model's loading

        def work(announces: bool = True) -> None:
            told = _tell_siblings if workers else lambda: None
            _answer(Path(path), more or {}, host, listener, quiet, announces, {"reloaded": told, **settings})

        if workers and hasattr(os, "fork"):
            from fromzero.serving.supervisor import supervise

            with _counting_together(workers):
                status = supervise(workers, work, quiet, listener.close)
        else:
            work()
            status = 0
    if not quiet and not status:
        Terminal().line(say("serve.stopped"))
    return status


def _answer(
    path: Path,
    more: Mapping[str, Path],
    host: str,
    listener: socket.socket,
    quiet: bool,
    announces: bool,
    settings: dict[str, Any],
) -> None:
    """What one process does: opens the models and answers until it is told to stop."""
    try:
        import uvicorn

        from fromzero.serving.app import application
        from fromzero.serving.models import Opened, named
    except ImportError as error:
        raise MissingPackage((error.name or "uvicorn").split(".")[0], "serve") from error
    first = Opened.at(path)
    app = application({named(more, first.classifier): first, **more}, **settings)
    _log_to_stderr(quiet)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE,
        timeout_keep_alive=KEEP_ALIVE,
        lifespan="on",
        ws="none",
    )
    if announces:
        _announce(host, listener.getsockname()[1], quiet, len(settings.get("keys", ())))
    with _returning_from_signals(app.state.service.exchange_soon):
        _server(config).run(sockets=[listener])


def _server(config: Any) -> Any:
    """uvicorn's, but that it takes its leave."""
    import uvicorn

    class Leaving(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for each in self.servers:  # no new connections
                each.close()
            for listener in sockets or ():
                listener.close()
            self.server_state.default_headers = [*self.server_state.default_headers, (b"connection", b"close")]
            await asyncio.sleep(LEAVING)
            await super().shutdown(sockets)

    return Leaving(config)


def _tell_siblings() -> None:
    """The parent passes it on to every worker; where nothing changed, nothing happens."""
    os.kill(os.getppid(), signal.SIGHUP)


@contextlib.contextmanager
def _counting_together(workers: int) -> Iterator[None]:
    """Several processes count into files of one folder, so that `/metrics` shows their sum whichever answers."""
    if workers == 1:
        yield
        return
    with tempfile.TemporaryDirectory(prefix="fromzero-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            yield
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


def _bound(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UsageError("port_invalid", port=port)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise UsageError("host_unusable", host=host, reason=getattr(error, "strerror", None) or error) from error
    listener = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":  # there it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        # Linux lets two sockets bind one port and refuses only the second that listens. From here on a client waits
        # for the model instead of being turned away.
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError("port_in_use", port=port, host=host, free=_free_port(family, address)) from error
        if error.errno == errno.EACCES:
            raise UsageError("port_forbidden", port=port) from error
        raise UsageError("host_unusable", host=host, reason=error.strerror or error) from error
    return listener


def _free_port(family: int, address: tuple) -> int:
    """A port near the wanted one that is free, else any free one."""
    for port in [*range(address[1] + 1, min(address[1] + 20, 65536)), 0]:
        with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
            try:
                probe.bind((address[0], port, *address[2:]))
                return probe.getsockname()[1]
            except OSError:
                continue
    return 0


def _announce(host: str, port: int, quiet: bool, keys: int) -> None:
    """Where the service is, on standard output; how others reach it, on standard error."""
    everywhere = host in ("0.0.0.0", "::", "")
    shown = "127.0.0.1" if everywhere else f"[{host}]" if ":" in host else host
    print(say("serve.address", url=f"http://{shown}:{port}/"), flush=True)
    if quiet:
        return
    console = Terminal()
    if everywhere:
        lan = _lan_address()
        if lan:
            console.line(say("serve.lan", url=f"http://{lan}:{port}/"))
        console.line(say("serve.keys", count=keys) if keys else say("serve.open_to_all"))
    else:
        console.line(say("serve.only_here"))
    console.line(say("serve.tunnel", command=f"ssh -L {port}:{shown}:{port} user@{socket.gethostname()}"))
    console.line(say("serve.stop"))


def _lan_address() -> str:
    """This machine's address in its network; "" without one. Connecting a datagram socket sends nothing."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address reserved for documentation: any outside one would do
            return probe.getsockname()[0]
        except OSError:
            return ""


@contextlib.contextmanager
def _returning_from_signals(exchange: Callable[[], None]) -> Iterator[None]:
    """SIGHUP asks for `exchange`. After a signal to stop, uvicorn ends gracefully and then raises it again for whoever
    listened before: a server that was told to stop and stopped has done its work, so that second one is dropped."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, lambda *_: None) for each in (signal.SIGINT, signal.SIGTERM)}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, lambda *_: exchange())
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _log_to_stderr(quiet: bool) -> None:
    handler = Together()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.ERROR if quiet else logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("fromzero.serving").setLevel(logging.ERROR if quiet else logging.INFO)
    for name in ("python_multipart", "PIL"):  # they warn of what the client sent: the access log has its status
        logging.getLogger(name).setLevel(logging.ERROR)


class Together(logging.StreamHandler):
    """Lines go out together, a moment later and on a thread of their own; from warnings on at once. A write for each
    request would give up Python's lock each time, and then wait for it behind the threads that answer."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque()
        self._due = threading.Event()
        self._writing = threading.Lock()
        threading.Thread(target=self._write_later, name="log", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._lines.append(self.format(record) + self.terminator)
        except Exception:  # as every handler does
            self.handleError(record)
        if record.levelno >= logging.WARNING:
            self.flush()
        else:
            self._due.set()

    def flush(self) -> None:
        # Not under the handler's own lock: who reads them may be slow, and new lines need not wait for that.
        with self._writing:
            self.stream.write("".join(self._lines.popleft() for _ in range(len(self._lines))))
            self.stream.flush()

    def _write_later(self) -> None:
        while self._due.wait():
            time.sleep(LOG_SECONDS)
            self._due.clear()
            with contextlib.suppress(OSError, ValueError):  # whoever read them has gone
                self.flush()


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, event, the fields of the record, and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        entry = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)
