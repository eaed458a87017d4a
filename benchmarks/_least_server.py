"""The model of serving.py behind the least that speaks HTTP in Python: one process, one thread, a C parser, no
framework, no checks, and the form cut apart by its blank line. No service: what a request costs if nothing is done.
"""

import asyncio
import json
import os
from pathlib import Path

import httptools

from fromzero.predicting import classify, open_classifier
from fromzero.records import to_json

model = open_classifier(Path(os.environ["RIVAL_ARTIFACT"]), threads=1)
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"


class Least(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport, self.parser = transport, httptools.HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.parts: list[bytes] = []

    def on_body(self, part: bytes) -> None:
        self.parts.append(part)

    def on_message_complete(self) -> None:
        body = b"".join(self.parts)
        start = body.find(b"\r\n\r\n")
        found = classify(model, body[start + 4 : body.rfind(b"\r\n--")]) if start >= 0 else ()
        answer = json.dumps({"predictions": to_json(found)}).encode()
        self.transport.write(HEAD % len(answer) + answer)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Least, "127.0.0.1", int(os.environ["RIVAL_PORT"]))
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
