"""Every task and family of models in every format that is installed: the artifact answers as its run does, any batch,
from what a user hands in. The models and what is done to them are those of benchmarks/export.py."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from fromzero.commands.export import FORMATS
from fromzero.errors import FromzeroError, ParityError, RunError
from fromzero.exporting import LIMITS, compare, export, names, real_samples, writer_of
from fromzero.predicting import classify, open_classifier, opened
from fromzero.runs import Run

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "export.py"
QUICK = {("mlp", "onnx"), ("mlp", "torch-export"), ("transformer", "onnx"), ("table-rnn", "onnx"), ("gpt", "onnx")}


def _benchmark():
    spec = importlib.util.spec_from_file_location("export_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


matrix = _benchmark()
PAIRS = [
    pytest.param(model, format, marks=() if (model, format) in QUICK else pytest.mark.slow)
    for model in matrix.MODELS
    for format in matrix.FORMATS
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run a model, made when it is asked for."""
    root, made = tmp_path_factory.mktemp("runs"), {}

    def run(model):
        if model not in made:
            folder = root / f"run {len(made)}"
            folder.mkdir()
            made[model] = matrix.run_of(model, matrix.MODELS[model], matrix.data_for(model, root), folder)
        return made[model]

    return run


@pytest.fixture(scope="module")
def artifacts(runs, tmp_path_factory):
    made = {}

    def artifact(model, format="onnx"):
        if (model, format) not in made:
            made[model, format] = export(runs(model), format, tmp_path_factory.mktemp("made") / "artifact")
        return made[model, format]

    return artifact


def test_the_matrix_is_whole():
    assert {*matrix.FORMATS, "tensorrt"} == set(names()) == set(FORMATS)  # --help has its own list, to stay light
    assert set(matrix.MODELS.values()) == {"image", "text", "table", "lm"} and len(matrix.MODELS) >= 12


@pytest.mark.parametrize("model, format", PAIRS)
def test_artifact_answers_as_its_run(artifacts, runs, model, format):
    if format == "tflite":
        pytest.importorskip("litert_torch")
    if matrix.MODELS[model] not in writer_of(format).TASKS:
        with pytest.raises(FromzeroError) as caught:
            export(runs(model), format)
        assert caught.value.code == "format_without_task" and "onnx" in caught.value.fix
        return
    parity = artifacts(model, format).parity
    limits = LIMITS["float"]
    assert parity.samples >= 18 and parity.agreement >= limits.agreement == parity.agreement_limit
    assert parity.max_difference <= limits.probability and parity.max_logit_difference < 1e-2


@pytest.mark.parametrize("model", ["transformer", "mlp", "table-rnn"])
def test_no_torch_is_needed_to_answer(artifacts, runs, model):
    """Texts and rows as a user hands them in, through the artifact, in a process that may not import torch."""
    folder = artifacts(model).path
    given = real_samples(Run(runs(model)), 3)
    program = (
        "import sys, json; sys.modules['torch'] = None\n"
        "from fromzero.predicting import predict\n"
        "told = predict(sys.argv[1], json.loads(sys.argv[2]))\n"
        "print(json.dumps([[each.label, each.score] for each in told[0]]))\n"
        "assert sys.modules['torch'] is None and 'transformers' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder), json.dumps(given)], check=True, capture_output=True, text=True
    )
    told = dict(json.loads(done.stdout))
    run = open_classifier(runs(model), "cpu")
    assert told == pytest.approx({each.label: each.score for each in classify(run, given[0])}, abs=1e-5)


@pytest.mark.parametrize("model", ["transformer", "mlp", "gpt"])
def test_wrong_weights_are_refused(artifacts, runs, tmp_path, model):
    """One matrix off by a tenth of its spread."""
    original, artifact = opened(runs(model), "cpu"), opened(artifacts(model).path)
    given = real_samples(Run(runs(model)))
    assert compare(original, artifact, given, LIMITS["float"]).agreement == 1.0
    changed = onnx.load(artifacts(model).path / "model.onnx")
    largest = max(
        (each for each in changed.graph.initializer if len(each.dims) == 2), key=lambda each: np.prod(each.dims)
    )
    values = onnx.numpy_helper.to_array(largest)
    noise = np.random.default_rng(0).normal(0, 0.1, values.shape).astype(np.float32)
    largest.CopyFrom(onnx.numpy_helper.from_array(values + noise * values.std(), largest.name))
    session = onnxruntime.InferenceSession(changed.SerializeToString())
    with pytest.raises(ParityError):
        compare(original, dataclasses.replace(artifact, session=session), given, LIMITS["float"])


def test_a_wrong_tokenizer_is_refused(artifacts, runs):
    """Two words have changed places."""
    original, artifact = open_classifier(runs("transformer"), "cpu"), open_classifier(artifacts("transformer").path)
    about = json.loads(artifact.preprocessing.tokenizer)
    places = about["model"]["vocab"]
    places["good"], places["bad"] = places["bad"], places["good"]
    how = dataclasses.replace(artifact.preprocessing, tokenizer=json.dumps(about))
    given = real_samples(Run(runs("transformer")))
    with pytest.raises(ParityError):
        compare(original, dataclasses.replace(artifact, preprocessing=how), given, LIMITS["float"])


def test_a_wrong_mean_of_a_column_is_refused(artifacts, runs):
    original, artifact = open_classifier(runs("mlp"), "cpu"), open_classifier(artifacts("mlp").path)
    (name, mean, std), *others = artifact.preprocessing.numbers
    how = dataclasses.replace(artifact.preprocessing, numbers=((name, mean + std / 10, std), *others))
    with pytest.raises(ParityError):
        given = real_samples(Run(runs("mlp")))
        compare(original, dataclasses.replace(artifact, preprocessing=how), given, LIMITS["float"])


def test_a_language_model_takes_any_length_and_is_no_classifier(artifacts, runs):
    folder = artifacts("gpt").path
    with pytest.raises(RunError) as caught:
        open_classifier(folder)
    assert caught.value.code == "no_classifier"
    model, run = opened(folder), opened(runs("gpt"), "cpu")
    for shape in ((1, 2), (3, 7), (2, 40)):
        tokens = np.random.default_rng(0).integers(0, model.preprocessing.vocabulary, shape)
        logits = model.logits(tokens)
        assert logits.shape == (*shape, model.preprocessing.vocabulary)
        assert np.abs(model.scores(tokens) - run.scores(tokens)).max() < 1e-5
