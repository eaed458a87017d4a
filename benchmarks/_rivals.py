"""The same model and the same photos behind LitServe, BentoML and a naive FastAPI application, each as its own
introduction writes it: `python benchmarks/_rivals.py litserve|bentoml|fastapi ARTIFACT PORT`. Run by serving.py."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

KIND, ARTIFACT, PORT = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])


def model() -> Any:
    from fromzero.predicting import open_classifier

    return open_classifier(ARTIFACT, threads=1)


def answer(classifier: Any, content: bytes) -> dict[str, Any]:
    from fromzero.predicting import classify
    from fromzero.records import to_json

    return {"predictions": to_json(classify(classifier, content))}


def fastapi() -> None:
    import uvicorn
    from fastapi import FastAPI, File, UploadFile

    app, classifier = FastAPI(), model()

    def predict(file: UploadFile = File(...)) -> dict[str, Any]:  # noqa: B008 - as its introduction writes it
        return answer(classifier, file.file.read())

    predict.__annotations__ = {"file": UploadFile, "return": dict[str, Any]}
    app.post("/predict")(predict)
    uvicorn.run(app, port=PORT, access_log=False)


def litserve() -> None:
    import litserve
    import numpy as np

    class Api(litserve.LitAPI):
        def setup(self, device: str) -> None:
            self.model = model()

        def decode_request(self, request: Any) -> Any:
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

    api = Api(max_batch_size=8, batch_timeout=0.005)
    workers = os.cpu_count() or 1
    litserve.LitServer(api, accelerator="cpu", workers_per_device=workers).run(port=PORT, generate_client_file=False)


def bentoml() -> None:
    os.environ["RIVAL_ARTIFACT"] = str(ARTIFACT)
    command = ["serve", "_rival_bento:Rival", "--port", str(PORT), "--working-dir", str(Path(__file__).parent)]
    os.execv(str(Path(sys.executable).with_name("bentoml")), ["bentoml", *command])


if __name__ == "__main__":
    {"fastapi": fastapi, "litserve": litserve, "bentoml": bentoml}[KIND]()
