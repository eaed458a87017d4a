"""The model of serving.py behind LitServe, as its introduction writes it: batches of up to 8 that wait 5 ms to fill, a
worker for each core."""

import os
from pathlib import Path
from typing import Any

import litserve
import numpy as np
from fastapi import Request


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        from fromzero.predicting import open_classifier

        self.model = open_classifier(Path(os.environ["RIVAL_ARTIFACT"]), threads=1)

    def decode_request(self, request: Request) -> Any:
        from fromzero.data.inputs import prepared

        return prepared(request["file"].file.read(), self.model.preprocessing)

    def predict(self, x: Any) -> Any:
        return self.model.scores(np.stack(x))

    def unbatch(self, output: Any) -> Any:
        return list(output)

    def encode_response(self, output: Any) -> Any:
        from fromzero.predicting import ranked
        from fromzero.records import to_json

        return {"predictions": to_json(ranked(self.model.labels, output))}


if __name__ == "__main__":
    server = litserve.LitServer(
        Api(max_batch_size=8, batch_timeout=0.005), accelerator="cpu", workers_per_device=os.cpu_count() or 1
    )
    server.run(port=int(os.environ["RIVAL_PORT"]), generate_client_file=False, log_level="warning")
