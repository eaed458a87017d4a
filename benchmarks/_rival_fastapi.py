"""The model of serving.py behind FastAPI, as its introduction writes it: a plain function, one process."""

import os
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, UploadFile

from fromzero.predicting import classify, open_classifier
from fromzero.records import to_json

app = FastAPI()
model = open_classifier(Path(os.environ["RIVAL_ARTIFACT"]), threads=1)


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, Any]:
    return {"predictions": to_json(classify(model, file.file.read()))}


if __name__ == "__main__":
    uvicorn.run(app, port=int(os.environ["RIVAL_PORT"]), access_log=False)
