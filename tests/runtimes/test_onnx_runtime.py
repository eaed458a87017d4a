"""Artifacts are opened if they are whole and what they claim to be, and refused with a reason if not."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fromzero.errors import RunError, UnknownName, UsageError
from fromzero.runtimes import onnx_runtime

LABELS = ["red", "绿", "blue"]
SIZE = 8


@pytest.fixture
def artifact(tmp_path):
    """A folder with a model whose scores are the softmax of the mean colour."""
    return write(tmp_path / "导出 model")


def write(folder, classes=3, dtype=TensorProto.UINT8):
    nodes = [
        helper.make_node("Cast", ["pixels"], ["colours"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["colours", "axes"], ["mean"], keepdims=0),
        helper.make_node("Div", ["mean", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["scores"], axis=-1),
    ]
    graph = helper.make_graph(
        nodes,
        "mean colour",
        [helper.make_tensor_value_info("pixels", dtype, ["N", SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", classes])],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(np.float32(32), "scale"),
            numpy_helper.from_array(np.eye(3, classes, dtype=np.float32), "weights"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    description = {
        "format": "onnx",
        "model": "cnn",
        "file": "model.onnx",
        "labels": LABELS,
        "preprocessing": {"size": SIZE, "channels": 3, "crop": 1.0, "mean": [0.5] * 3, "std": [0.5] * 3},
        "sha256": {"model.onnx": hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()},
    }
    (folder / "artifact.json").write_text(json.dumps(description), encoding="utf-8")
    return folder


def describe(folder, **changes):
    path = folder / "artifact.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def test_answers_with_probabilities(artifact):
    assert onnx_runtime.opens(artifact)
    classifier = onnx_runtime.open_model(artifact)
    assert (classifier.name, classifier.labels) == ("cnn", tuple(LABELS))
    assert classifier.preprocessing.mean == (0.5, 0.5, 0.5)
    batch = np.zeros((5, SIZE, SIZE, 3), np.uint8)
    batch[1, ..., 2] = 255
    scores = classifier.scores(batch)
    assert scores.shape == (5, 3) and scores.dtype == np.float32
    assert np.allclose(scores.sum(1), 1)
    assert scores[1].argmax() == 2


def test_leaves_other_folders_alone(tmp_path, artifact):
    assert not onnx_runtime.opens(tmp_path)
    assert not onnx_runtime.opens(tmp_path / "nothing")
    describe(artifact, format="tflite")
    assert not onnx_runtime.opens(artifact)


@pytest.mark.parametrize("text", ["", "{", "[]", "\udcff"])
def test_damaged_description_is_named(artifact, text):
    (artifact / "artifact.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert onnx_runtime.opens(artifact)
    with pytest.raises(RunError) as caught:
        onnx_runtime.open_model(artifact)
    assert caught.value.code == "artifact_damaged"
    assert caught.value.cause and caught.value.fix


def test_changed_and_missing_files(artifact):
    model = artifact / "model.onnx"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(RunError) as caught:
        onnx_runtime.open_model(artifact)
    assert caught.value.code == "artifact_changed"
    model.unlink()
    with pytest.raises(RunError) as caught:
        onnx_runtime.open_model(artifact)
    assert caught.value.code == "artifact_incomplete"


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ["one", "two"]},
        {"labels": None},
        {"sha256": {}},
        {"sha256": ["model.onnx"]},
        {"file": "../model.onnx", "sha256": {"../model.onnx": "0"}},
        {"preprocessing": {"size": SIZE}},
        {"preprocessing": {"size": 9, "channels": 3, "crop": 1.0, "mean": [0], "std": [1]}},
    ],
)
def test_description_that_does_not_fit_the_model(artifact, changes):
    describe(artifact, **changes)
    with pytest.raises(RunError) as caught:
        onnx_runtime.open_model(artifact)
    assert caught.value.code == "artifact_damaged"


def test_graph_of_another_kind(tmp_path):
    with pytest.raises(RunError) as caught:
        onnx_runtime.open_model(write(tmp_path / "floating", dtype=TensorProto.FLOAT))
    assert caught.value.code == "artifact_damaged"


def test_file_that_is_no_model_though_its_checksum_is_right(artifact):
    (artifact / "model.onnx").write_bytes(b"not a model")
    describe(artifact, sha256={"model.onnx": hashlib.sha256(b"not a model").hexdigest()})
    with pytest.raises(RunError) as caught:
        onnx_runtime.open_model(artifact)
    assert caught.value.code == "artifact_damaged"


def test_imports_no_torch(artifact):
    program = (
        "import sys; from fromzero.runtimes import onnx_runtime;"
        "assert 'onnxruntime' not in sys.modules;"
        "onnx_runtime.open_model(sys.argv[1]);"
        "assert 'onnxruntime' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, str(artifact)], check=True)


# --- where it computes ------------------------------------------------------------------------------------------------


def test_devices(artifact):
    import onnxruntime

    assert onnx_runtime.open_model(artifact, "cpu").device == "cpu"
    with pytest.raises(UnknownName):
        onnx_runtime.open_model(artifact, "gpu")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert onnx_runtime.open_model(artifact).device == "cpu"
        with pytest.raises(UsageError) as caught:
            onnx_runtime.open_model(artifact, "cuda")
        assert caught.value.code == "no_provider" and "cpu" in caught.value.cause


def test_threads(artifact):
    for threads in (1, 3):
        opened = onnx_runtime.open_model(artifact, "cpu", threads).session
        assert opened.get_session_options().intra_op_num_threads == threads


def test_a_provider_that_does_not_start_is_said(artifact, monkeypatch, caplog):
    """onnxruntime-gpu without its CUDA libraries: it lists the provider and goes on without."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda path, options, providers: real(path, options, providers=providers[-1:])
    )
    assert onnx_runtime.open_model(artifact).device == "cpu"
    assert "did not start" in caplog.text and "cuda" in caplog.text
    with pytest.raises(UsageError):
        onnx_runtime.open_model(artifact, "cuda")


def test_several_threads_at_once(artifact):
    classifier = onnx_runtime.open_model(artifact, "cpu", 1)
    batches = [np.full((3, SIZE, SIZE, 3), value, np.uint8) for value in range(40)]
    batches = [each + np.arange(3, dtype=np.uint8) * value for value, each in enumerate(batches)]
    alone = [classifier.scores(each) for each in batches]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(classifier.scores, batches))
    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
