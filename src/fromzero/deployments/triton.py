"""A model repository of NVIDIA's Triton Inference Server. Triton runs the bare ONNX file: a client decodes, resizes and
tokenises itself, and `client.py` shows how with the artifact's own preprocessing."""

from __future__ import annotations

from pathlib import Path

from fromzero.deployments import MODEL, REQUIREMENTS, Service, Tensor

UNUSED = ("image", "port")
PACKAGED = True  # for the client
MAX_BATCH = 64
DELAY_MICROSECONDS = 1000  # that a request may wait for others
TYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}  # NumPy's names -> Triton's


def files(service: Service) -> dict[str, str | Path]:
    repository = f"repository/{service.name}"
    return {
        f"{repository}/config.pbtxt": _config(service),
        f"{repository}/labels.txt": "".join(f"{each.splitlines()[0] if each else each}\n" for each in service.labels),
        f"{repository}/1/model.onnx": service.model,
        "client.py": _client(service),
    }


def after(service: Service) -> list[str]:
    card = " --gpus all" if service.gpu else ""
    return [
        f"docker run --rm{card} --publish 8000-8002:8000-8002 --volume ./repository:/models:ro"
        " nvcr.io/nvidia/tritonserver:YY.MM-py3 tritonserver --model-repository=/models",
        f"pip install --requirement {REQUIREMENTS} 'tritonclient[grpc]'",
        "python client.py SAMPLE",
    ]


def _config(service: Service) -> str:
    return f"""name: "{service.name}"
platform: "onnxruntime_onnx"
max_batch_size: {MAX_BATCH}
input [
  {{
    {_tensor(service.input)}
  }}
]
output [
  {{
    {_tensor(service.output)}
    label_filename: "labels.txt"
  }}
]
dynamic_batching {{
  max_queue_delay_microseconds: {DELAY_MICROSECONDS}
}}
instance_group [
  {{
    count: {service.replicas}
    kind: {"KIND_GPU" if service.gpu else "KIND_CPU"}
  }}
]
"""


def _tensor(tensor: Tensor) -> str:
    """Its shape is without the batch, which `max_batch_size` stands for."""
    return f'''name: "{tensor.name}"
    data_type: TYPE_{TYPES[tensor.type]}
    dims: {list(tensor.shape)}'''


def _client(service: Service) -> str:
    return f'''"""Classify pictures, texts, or rows as JSON with the model in Triton: python client.py SAMPLE ..."""

import sys
from pathlib import Path

import tritonclient.grpc as triton

from fromzero.data.inputs import prepared
from fromzero.predicting import given, open_classifier, ranked

SERVER = "localhost:8001"

# The artifact says how samples become inputs, and what the classes are called.
classifier = open_classifier(Path(__file__).with_name("{MODEL}"))
client = triton.InferenceServerClient(SERVER)
for word in sys.argv[1:]:
    for name, sample in given(classifier, word):
        batch = prepared(sample, classifier.preprocessing)[None]
        sent = triton.InferInput("{service.input.name}", batch.shape, "{TYPES[service.input.type]}")
        sent.set_data_from_numpy(batch)
        scores = client.infer("{service.name}", [sent]).as_numpy("{service.output.name}")[0]
        best = ranked(classifier.labels, scores, 1)[0]
        print(f"{{name}}: {{best.label}} {{best.score:.1%}}")
'''
