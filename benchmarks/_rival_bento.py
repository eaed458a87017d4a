"""The model of serving.py as a BentoML service; RIVAL_ARTIFACT names its folder."""

import os
from pathlib import Path

import bentoml


@bentoml.service(workers=os.cpu_count() or 1)
class Rival:
    def __init__(self) -> None:
        from fromzero.predicting import open_classifier

        self.model = open_classifier(os.environ["RIVAL_ARTIFACT"], threads=1)

    @bentoml.api(route="/predict")
    def predict(self, file: Path) -> dict:
        from fromzero.predicting import classify
        from fromzero.records import to_json

        return {"predictions": to_json(classify(self.model, file.read_bytes()))}
