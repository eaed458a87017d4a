"""From a request's body to the files in it, with a limit at every step: the client chooses what arrives here.

`Intake.take` bounds bytes, time and the memory of all uploads together, and stays on the event loop; `files` takes
the multipart body apart and belongs on a worker thread, because a hostile body makes any parser slow.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.types import Receive

from fromzero.errors import UsageError

FORM = "multipart/form-data"
MAX_FILES = 32
MAX_PARTS = 64  # files and the fields a form may send beside them
MAX_NAME = 200  # characters of a file name that are repeated in an answer
PATIENCE = 60.0  # seconds an upload may take
DRAIN = 8  # a too large upload is read to its end if it is at most this many times the limit


@dataclass(frozen=True)
class Upload:
    """One file: its bytes, and the name the client gave it, without folders."""

    name: str
    content: bytes


class Intake:
    """Takes the bodies of uploads in: each at most `max_bytes`, all that are being worked on at most `max_held`."""

    def __init__(self, max_bytes: int, max_held: int) -> None:
        self.max_bytes = max_bytes
        self.max_held = max_held
        self.held = 0

    @contextlib.asynccontextmanager
    async def body(self, request: Request, kind: str = FORM) -> AsyncIterator[bytes]:
        """The whole body, counted as held until the block ends. Raises what `take` raises."""
        body = await self.take(dict(request.scope["headers"]), request.receive, kind)
        try:
            yield body
        finally:
            self.release(body)

    async def take(self, headers: Mapping[bytes, bytes], receive: Receive, kind: str = FORM) -> bytes:
        """The whole body, which must be of this content type. It counts as held until it is released.

        Raises UsageError: upload_not_multipart, body_not_json, upload_too_large, upload_too_slow, upload_cut_off,
        server_busy."""
        if not headers.get(b"content-type", b"").lower().startswith(kind.encode()):
            raise UsageError("upload_not_multipart" if kind == FORM else "body_not_json")
        announced = headers.get(b"content-length", b"")
        too_large = announced.isdigit() and int(announced[:15]) > self.max_bytes
        if too_large and b"expect" in headers:  # the client asked first: it has sent nothing and need not
            raise self._too_large()
        with _patience(PATIENCE):
            return await self._receive(receive, too_large)

    def release(self, body: bytes) -> None:
        self.held -= len(body)

    async def _receive(self, receive: Receive, too_large: bool) -> bytes:
        chunks: list[bytes] = []
        size = kept = 0
        more = True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise UsageError("upload_cut_off")
                chunk, more = message.get("body", b""), message.get("more_body", False)
                size += len(chunk)
                too_large = too_large or size > self.max_bytes
                if not too_large:
                    if self.held + len(chunk) > self.max_held:
                        raise UsageError("server_busy")
                    chunks.append(chunk)
                    kept += len(chunk)
                    self.held += len(chunk)
                # Browsers do not look at an answer before they have sent all: an early one would reach them as a
                # broken connection. So the rest of a too large upload is read and thrown away, within reason.
                elif size > DRAIN * self.max_bytes:
                    break
                else:
                    chunks.clear()
            if too_large:
                raise self._too_large()
        except BaseException:
            self.held -= kept
            raise
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _too_large(self) -> UsageError:
        return UsageError("upload_too_large", limit=mebibytes(self.max_bytes))


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    """Gives up what the current task waits for after `seconds`: upload_too_slow. anyio's own way costs more than taking
    the body in."""
    task = asyncio.current_task()
    assert task is not None
    over = False

    def give_up() -> None:
        nonlocal over
        over = True
        task.cancel()

    timer = asyncio.get_running_loop().call_later(seconds, give_up)
    try:
        yield
    except asyncio.CancelledError as error:
        if over:
            raise UsageError("upload_too_slow", seconds=int(seconds)) from error
        raise
    finally:
        timer.cancel()


def mebibytes(count: int) -> str:
    """20971520 -> "20 MiB"."""
    return f"{count / 2**20:.4g} MiB"


def files(content_type: str, body: bytes) -> list[Upload]:
    """The parts named `file` of a multipart body, in order.

    Raises UsageError: upload_malformed, upload_without_file, upload_too_many."""
    from python_multipart.exceptions import FormParserError
    from python_multipart.multipart import MultipartParser, parse_options_header

    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise UsageError("upload_malformed")
    parts = _Parts()
    try:
        parser = MultipartParser(boundary, parts.callbacks())  # type: ignore[arg-type]
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise UsageError("upload_malformed") from error
    if not parts.ended:  # cut off before the closing boundary
        raise UsageError("upload_malformed")
    if not parts.uploads:
        raise UsageError("upload_without_file")
    if len(parts.uploads) > MAX_FILES:
        raise UsageError("upload_too_many", limit=MAX_FILES)
    return parts.uploads


class _Parts:
    """What the parser's callbacks have seen so far."""

    def __init__(self) -> None:
        self.uploads: list[Upload] = []
        self.ended = False
        self._seen = 0
        self._header = self._value = b""
        self._disposition = b""
        self._data: list[bytes] = []

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._on_header,
            "on_header_value": self._on_value,
            "on_header_end": self._on_header_end,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._on_end,
        }

    def _begin(self) -> None:
        self._seen += 1
        if self._seen > MAX_PARTS:
            raise UsageError("upload_too_many", limit=MAX_FILES)
        self._disposition = self._header = self._value = b""
        self._data = []

    def _on_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _end(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._disposition)
        content = b"".join(self._data)
        # A form whose file was not chosen sends an empty part with an empty name: that is no file.
        if options.get(b"name") == b"file" and (content or options.get(b"filename") != b""):
            self.uploads.append(Upload(_name(options.get(b"filename", b"")), content))
        self._data = []

    def _on_end(self) -> None:
        self.ended = True


def _name(raw: bytes) -> str:
    """The client's file name as text that is safe to print: no folders, no control characters, not endless."""
    text = raw.decode("utf-8", errors="replace").replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(each for each in text if each.isprintable())[:MAX_NAME].strip()
