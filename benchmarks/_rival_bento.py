"""The model of serving.py behind BentoML, as its introduction writes it: a service with a worker for each core."""

import os
from pathlib import Path
from typing import Any

import bentoml


@bentoml.service(workers=os.cpu_count() or 1, logging={"access": {"enabled": False}})
class Rival:
    def __init__(self) -> None:
        from fromzero.predicting import open_classifier

        self.model = open_classifier(Path(os.environ["RIVAL_ARTIFACT"]), threads=1)

    @bentoml.api(route="/predict")
    def predict(self, file: Path) -> dict[str, Any]:
        from fromzero.predicting import classify
        from fromzero.records import to_json

        return {"predictions": to_json(classify(self.model, file.read_bytes()))}
