"""TensorRT behind a stand-in for its library: the engine "built" is the ONNX model itself, run by ONNX Runtime on the
very addresses that the runtime hands over. What is not tried here is TensorRT, and a card."""

import ctypes
import json
import shutil
import sys
import types

import numpy as np
import onnx
import onnxruntime
import pytest

from fromzero.errors import MissingPackage, RunError, UsageError
from fromzero.exporting import export
from fromzero.formats import tensorrt as writer
from fromzero.machine.detect import Gpu, Machine
from fromzero.predicting import open_classifier
from fromzero.runtimes import tensorrt_runtime

MARK = b"stand-in engine:"


class Parser:
    def __init__(self, network, logger):
        self.network, self.errors = network, []

    num_errors = property(lambda self: len(self.errors))

    def get_error(self, number):
        return self.errors[number]

    def parse(self, content):
        model = onnx.load_from_string(content)
        onnx.checker.check_model(model, full_check=True)
        source = model.graph.input[0]
        kinds = {each.op_type for each in model.graph.node if source.name in each.input}
        if source.type.tensor_type.elem_type == onnx.TensorProto.UINT8 and kinds != {"Cast"}:
            self.errors.append("uint8 inputs must be cast first")  # as TensorRT does
            return False
        self.network.content = content
        return True


class Context:
    def __init__(self, content):
        self.session = onnxruntime.InferenceSession(content)
        self.addresses = {}

    def set_input_shape(self, name, shape):
        self.name, self.shape = name, shape
        return shape[0] <= tensorrt_runtime.MOST

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == 0 and self.shape[0] <= tensorrt_runtime.MOST
        kinds = {"tensor(uint8)": np.uint8, "tensor(int64)": np.int64, "tensor(float)": np.float32}
        kind = np.dtype(kinds[self.session.get_inputs()[0].type])
        count = int(np.prod(self.shape)) * kind.itemsize
        given = np.frombuffer(ctypes.string_at(self.addresses[self.name], count), kind).reshape(self.shape)
        answer = self.session.run(["scores"], {self.name: given})[0]
        ctypes.memmove(self.addresses["scores"], answer.tobytes(), answer.nbytes)
        return True


@pytest.fixture
def card(monkeypatch):
    """A machine with a card and TensorRT 10.9, and a list of the engines it built; `spoil` spoils those to come."""
    seen = types.SimpleNamespace(built=[], spoil=lambda content: content)

    class Builder:
        def __init__(self, logger):
            pass

        def create_network(self, flags):
            return types.SimpleNamespace(content=None)

        def create_builder_config(self):
            return types.SimpleNamespace(
                set_memory_pool_limit=lambda pool, size: None, add_optimization_profile=lambda profile: 0
            )

        def create_optimization_profile(self):
            return types.SimpleNamespace(set_shape=lambda name, low, usual, most: seen.built.append((low, most)))

        def build_serialized_network(self, network, settings):
            return memoryview(MARK + seen.spoil(network.content))

    class Runtime:
        def __init__(self, logger):
            pass

        def deserialize_cuda_engine(self, plan):
            assert plan.startswith(MARK)
            content = plan[len(MARK) :]
            return types.SimpleNamespace(create_execution_context=lambda: Context(content))

    logger = type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None})
    library = types.SimpleNamespace(
        __version__="10.9.0",
        Logger=logger,
        Builder=Builder,
        OnnxParser=Parser,
        Runtime=Runtime,
        MemoryPoolType=types.SimpleNamespace(WORKSPACE=0),
    )
    monkeypatch.setitem(sys.modules, "tensorrt", library)
    monkeypatch.setattr(tensorrt_runtime, "_MEMORY", "cpu")
    monkeypatch.setattr(tensorrt_runtime, "_stream", lambda: 0)
    gpu = Gpu(name="NVIDIA GeForce RTX 3060", memory_bytes=12 << 30, capability="8.6")
    seen.machine = Machine(os="linux", python="3.11", driver="570.86", gpus=(gpu,))
    monkeypatch.setattr(tensorrt_runtime, "this_machine", lambda: seen.machine)
    return seen


@pytest.fixture
def engine(card, tiny_run, tmp_path):
    return export(tiny_run.path, "tensorrt", tmp_path / "engine").path


def test_exported_proved_and_served(engine, card, tiny_run):
    about = json.loads((engine / "artifact.json").read_text(encoding="utf-8"))
    assert about["format"] == "tensorrt" and list(about["sha256"]) == ["model.onnx"]
    built = json.loads((engine / "engine" / "built-with.json").read_text(encoding="utf-8"))
    assert {key: built[key] for key in ("card", "driver", "tensorrt")} == {
        "card": "NVIDIA GeForce RTX 3060",
        "driver": "570.86",
        "tensorrt": "10.9.0",
    }
    assert card.built == [((1, 24, 24, 3), (64, 24, 24, 3))]
    pixels = np.random.default_rng(0).integers(0, 256, (150, 24, 24, 3), dtype=np.uint8)  # more than it takes at once
    one, other = open_classifier(tiny_run.path).scores(pixels), open_classifier(engine).scores(pixels)
    assert one.shape == other.shape and np.abs(one - other).max() < 1e-5
    assert len(card.built) == 1


@pytest.mark.parametrize("change", ["driver", "tensorrt", "card", "engine file", "description"])
def test_built_anew_where_anything_differs(engine, card, change):
    if change == "driver":
        card.machine = Machine(os="linux", python="3.11", driver="580.1", gpus=card.machine.gpus)
    elif change == "tensorrt":
        sys.modules["tensorrt"].__version__ = "11.4.0"
    elif change == "card":
        card.machine = Machine(
            os="linux", python="3.11", driver="570.86", gpus=(Gpu(name="L40", memory_bytes=1, capability="8.9"),)
        )
    elif change == "engine file":
        (engine / "engine" / "model.engine").write_bytes(MARK)
    else:
        (engine / "engine" / "built-with.json").write_text("{")
    open_classifier(engine)
    assert len(card.built) == 2
    open_classifier(engine)
    assert len(card.built) == 2  # kept


def test_an_engine_built_anew_that_answers_wrongly_is_refused(engine, card):
    def negated(content):
        model = onnx.load_from_string(content)
        for each in model.graph.initializer:
            if len(each.dims) == 4:
                each.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(each), each.name))
        return model.SerializeToString()

    card.spoil = negated
    shutil.rmtree(engine / "engine")
    with pytest.raises(RunError) as caught:
        open_classifier(engine)
    assert caught.value.code == "engine_differs"
    assert not (engine / "engine").exists()


def test_without_a_card_or_the_library(engine, card, tiny_run, tmp_path, monkeypatch):
    card.machine = Machine(os="linux", python="3.11")
    for attempt in (lambda: open_classifier(engine), lambda: export(tiny_run.path, "tensorrt", tmp_path / "none")):
        with pytest.raises(UsageError) as caught:
            attempt()
        assert caught.value.code == "tensorrt_without_card"
    assert not (tmp_path / "none").exists()
    card.machine = Machine(os="linux", python="3.11", gpus=(Gpu(name="L40", memory_bytes=1, capability="8.9"),))
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingPackage):
        open_classifier(engine)


def test_bytes_are_cast_first_and_nothing_else_changes(tiny_artifact):
    model = onnx.load(tiny_artifact / "model.onnx")
    writer.cast_first(model)
    onnx.checker.check_model(model, full_check=True)
    source = model.graph.input[0].name
    assert [each.op_type for each in model.graph.node if source in each.input] == ["Cast"]
    pixels = np.random.default_rng(0).integers(0, 256, (5, 24, 24, 3), dtype=np.uint8)
    before, after = (
        onnxruntime.InferenceSession(each).run(None, {source: pixels})[0]
        for each in ((tiny_artifact / "model.onnx").read_bytes(), model.SerializeToString())
    )
    assert np.array_equal(before, after)
