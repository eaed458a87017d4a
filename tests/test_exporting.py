"""An artifact answers as its run does, or there is none."""

import dataclasses
import hashlib
import importlib
import io
import json
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from fromzero import exporting, formats
from fromzero.cli import main
from fromzero.data.folder import scan
from fromzero.data.inputs import prepared
from fromzero.data.load import Pictures
from fromzero.data.tokens import train_tokenizer
from fromzero.errors import FromzeroError, ParityError, RunError, UnknownName, UsageError
from fromzero.exporting import LIMITS, Artifact, Parity, compare, export, logits_of, names, prove, real_samples
from fromzero.predicting import open_classifier, predict
from fromzero.records import Tokens, to_json
from fromzero.runs import Run


@pytest.fixture
def artifact(tiny_artifact):
    """The record of an export as the session made it."""
    about = json.loads((tiny_artifact / "artifact.json").read_text(encoding="utf-8"))
    return Artifact(tiny_artifact, about["format"], about["file"], Parity(**about["parity"]))


@pytest.fixture
def run_copy(tiny_run, tmp_path):
    return Run(shutil.copytree(tiny_run.path, tmp_path / "run"))


def test_parity_holds(artifact):
    assert artifact.format == "onnx"
    assert artifact.parity.samples >= 9
    assert artifact.parity.agreement == 1.0 and artifact.parity.agreement_limit == 0.999
    assert artifact.parity.max_difference < 1e-4 and artifact.parity.max_logit_difference < 1e-4


def test_the_description_is_complete(artifact, tiny_run):
    about = json.loads((artifact.path / "artifact.json").read_text(encoding="utf-8"))
    assert about["task"] == "image"
    assert about["format"] == "onnx" and about["model"] == "cnn" and about["file"] == artifact.file
    assert about["labels"] == list(tiny_run.labels())
    assert about["preprocessing"] == to_json(tiny_run.preprocessing())
    content = (artifact.path / artifact.file).read_bytes()
    assert about["sha256"] == {artifact.file: hashlib.sha256(content).hexdigest()}
    assert about["run"] == tiny_run.path.name
    assert about["parity"] == to_json(artifact.parity)
    assert about["versions"]["torch"] == version("torch") and about["versions"]["onnx"] == version("onnx")
    assert sorted(each.name for each in artifact.path.iterdir()) == ["artifact.json", artifact.file]


def test_the_file_describes_itself(artifact, tiny_run):
    model = onnx.load(artifact.path / artifact.file)
    onnx.checker.check_model(model, full_check=True)
    own = [each for each in model.metadata_props if each.key in ("labels", "preprocessing")]
    metadata = {each.key: json.loads(each.value) for each in own}
    assert metadata == {"labels": list(tiny_run.labels()), "preprocessing": to_json(tiny_run.preprocessing())}
    assert [each.name for each in model.graph.input] == ["pixels"]
    assert [each.name for each in model.graph.output] == ["scores"]


def test_the_file_names_no_place_of_the_machine_that_made_it(artifact, tiny_run):
    content = (artifact.path / artifact.file).read_bytes()
    for place in (exporting.__file__.rpartition("fromzero")[0], sys.prefix, str(tiny_run.path)):
        assert place.encode() not in content


def test_run_and_artifact_predict_alike(artifact, tiny_run, tiny_data):
    images = sorted(tiny_data.rglob("*.png"))[::4]
    ours, theirs = predict(tiny_run.path, images, top=3), predict(artifact.path, images, top=3)
    for one, other, image in zip(ours, theirs, images, strict=True):
        assert [each.label for each in one] == [each.label for each in other]
        assert np.allclose([each.score for each in one], [each.score for each in other], atol=1e-5)
        assert one[0].label == image.parent.name  # the classes differ in tint: one epoch is enough
        assert sum(each.score for each in one) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_any_batch(artifact, tiny_run, count):
    pixels = np.random.default_rng(0).integers(0, 256, (count, 24, 24, 3), dtype=np.uint8)
    one, other = open_classifier(tiny_run.path).scores(pixels), open_classifier(artifact.path).scores(pixels)
    assert one.shape == other.shape == (count, 3) and one.dtype == other.dtype == np.float32
    assert np.abs(one - other).max() < 1e-4


def test_evaluation_meets_the_pixels_that_predict_meets(tiny_run, tiny_data):
    """One preprocessing: the loader's array of a picture scores as the picture's file does."""
    manifest = scan(tiny_data)
    classifier = open_classifier(tiny_run.path)
    pictures = Pictures(manifest, tiny_run.preprocessing())
    row = int(manifest.rows("test")[0])
    scores = classifier.scores(pictures[(row, 0)][0][None])[0]
    (told,) = predict(tiny_run.path, [tiny_data / str(manifest["path"][row])], top=3)
    assert {each.label: each.score for each in told} == pytest.approx(dict(zip(classifier.labels, scores, strict=True)))


def test_predict_on_a_picture_of_another_kind(artifact, tmp_path):
    Image.new("CMYK", (300, 80), (0, 200, 200, 0)).save(tmp_path / "x.jpg")
    (told,) = predict(artifact.path, [tmp_path / "x.jpg"], top=1)
    assert len(told) == 1 and told[0].label == "小 狗"  # red


# --- the place ----------------------------------------------------------------------------------------------------


def test_an_earlier_artifact_is_replaced_and_nothing_else(run_copy, tmp_path, writer_beside):
    writer_beside("pass")
    first = export(run_copy.path)
    assert first.path == run_copy.path / "artifact-onnx"
    (first.path / "left over").write_text("x")
    export(run_copy.path)
    assert sorted(each.name for each in first.path.iterdir()) == ["artifact.json", first.file]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RunError) as caught:
        export(run_copy.path, output=tmp_path / "mine")
    assert caught.value.code == "not_an_artifact"
    assert (tmp_path / "mine" / "thesis.txt").is_file()


def test_wrong_calls(run_copy, tmp_path, capsys):
    with pytest.raises(UnknownName) as caught:
        export(run_copy.path, "onx")
    assert caught.value.near == ["onnx"]
    assert main(["export", str(tmp_path), "--json"]) == 1
    assert "not_a_run" in capsys.readouterr().err
    with pytest.raises(UsageError):
        open_classifier(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError):
        open_classifier(tmp_path / "empty")


def test_a_damaged_run_is_not_exported(run_copy):
    weights = run_copy.best / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(RunError) as caught:
        export(run_copy.path)
    assert caught.value.code == "checkpoint_damaged"
    assert not (run_copy.path / "artifact-onnx").exists()


# --- sabotage -----------------------------------------------------------------------------------------------------


@pytest.fixture
def writer_beside(artifact, tmp_path, monkeypatch):
    """Puts another `onnx.py` in the place of the formats folder: it writes what the real one wrote, `spoil`ed."""
    real = str(artifact.path / artifact.file)
    monkeypatch.setattr(formats, "onnx", importlib.import_module("fromzero.formats.onnx"))  # put back afterwards
    monkeypatch.setattr(formats, "__path__", [str(tmp_path / "formats")])
    monkeypatch.delitem(sys.modules, "fromzero.formats.onnx")

    def place(spoil):
        (tmp_path / "formats").mkdir()
        (tmp_path / "formats" / "onnx.py").write_text(
            "PACKAGES, TASKS, LIMITS = ('torch',), ('image',), 'float'\n"
            "def write(module, how, labels, folder):\n"
            "    file = 'model.onnx'\n"
            "    import onnx\n"
            "    from onnx import numpy_helper\n"
            "    import numpy as np\n"
            f"    model = onnx.load({real!r})\n"
            f"    {spoil}\n"
            "    onnx.save(model, folder / file)\n"
            "    return file\n",
            encoding="utf-8",
        )

    return place


PERTURB = (
    "[each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each) * {by}, each.name))"
    " for each in model.graph.initializer if numpy_helper.to_array(each).ndim == 4]"
)


@pytest.mark.parametrize("by", ["np.float32(1.05)", "np.float32(-1)", "np.float32('nan')"])
def test_a_sabotaged_graph_leaves_no_artifact(run_copy, writer_beside, capsys, by):
    writer_beside(PERTURB.format(by=by))
    before = sorted(each.name for each in run_copy.path.iterdir())
    with pytest.raises(ParityError):
        export(run_copy.path)
    assert main(["export", str(run_copy.path), "--json"]) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and "parity" in printed.err
    assert sorted(each.name for each in run_copy.path.iterdir()) == before


def test_a_failed_export_keeps_the_earlier_artifact(run_copy, writer_beside):
    whole = run_copy.path / "artifact-onnx"
    whole.mkdir()
    (whole / "artifact.json").write_text("{}")
    writer_beside(PERTURB.format(by="np.float32(2)"))
    with pytest.raises(ParityError):
        export(run_copy.path)
    assert (whole / "artifact.json").read_text() == "{}"


def test_the_writer_beside_is_not_what_fails(run_copy, writer_beside):
    writer_beside("pass")
    assert export(run_copy.path).parity.agreement == 1.0


def test_a_format_need_not_be_named_as_a_package(run_copy, tmp_path, monkeypatch):
    """One file in `formats/` and one in `runtimes/` are a format."""
    from fromzero import runtimes

    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "plainest.py").write_text(
        "PACKAGES, TASKS, LIMITS = ('torch',), ('image',), 'float'\n"
        "def write(module, how, labels, folder):\n"
        "    import torch\n"
        "    torch.save(module, folder / 'model.pt')\n"
        "    return 'model.pt'\n"
    )
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "plainest_runtime.py").write_text(
        "import json, torch\n"
        "from fromzero.records import Preprocessing, from_json\n"
        "from fromzero.runtimes.torch_runtime import TorchClassifier\n"
        "def opens(path):\n"
        "    return (path / 'model.pt').is_file()\n"
        "def open_model(path, device='auto', threads=None):\n"
        "    about = json.loads((path / 'artifact.json').read_text(encoding='utf-8'))\n"
        "    how = from_json(Preprocessing, about['preprocessing'])\n"
        "    module = torch.load(path / 'model.pt', weights_only=False)\n"
        "    return TorchClassifier(about['model'], tuple(about['labels']), how, module)\n"
    )
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path / "more")])
    monkeypatch.setattr(runtimes, "__path__", [*runtimes.__path__, str(tmp_path / "runtime")])
    assert "plainest" in names()
    done = export(run_copy.path, "plainest")
    assert done.format == "plainest" and done.parity.max_difference == 0


def test_a_model_that_has_no_graph_is_one_sentence(tmp_path):
    from fromzero.formats import onnx as writer
    from fromzero.models.deploy import Deployed, Normalise
    from fromzero.records import Preprocessing

    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x):
            means = x.mean((2, 3))
            return self.layer(means) if float(means.sum()) > 0 else -self.layer(means)

    how = Preprocessing(size=8, channels=3, crop=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(FromzeroError) as caught:
        writer.write(Deployed(Branching(), Normalise(how)).eval(), how, ("a", "b"), tmp_path)
    assert caught.value.code == "not_exportable" and caught.value.status == 1


# --- the comparison -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fixed:
    """Answers with what it was given, a row a sample: samples are texts that hold their row's number."""

    answers: np.ndarray
    preprocessing: Tokens
    task: str = "text"

    def scores(self, batch):
        return self.answers[batch[:, 0]]


@pytest.fixture(scope="module")
def numbers():
    texts = [chr(0x4E00 + number) for number in range(300)]
    tokenizer = train_tokenizer([" ".join(texts)] * 2, 2000)
    how = Tokens(length=1, vocabulary=2000, padding=0, tokenizer=tokenizer)
    order = np.array([int(prepared(each, how)[0]) for each in texts])
    assert len(set(order.tolist())) == 300
    return how, texts, order


def test_compare_counts_every_sample(numbers):
    how, texts, order = numbers
    scores = np.zeros((order.max() + 1, 4), np.float32)
    scores[order] = np.random.default_rng(0).dirichlet(np.ones(4), 300)
    exact = Fixed(scores, how)
    found = compare(exact, exact, texts, LIMITS["float"])
    assert (found.samples, found.agreement, found.max_difference, found.max_logit_difference) == (300, 1.0, 0.0, 0.0)
    for number in (0, 2, 63, 64, 150, 299):
        one_wrong = scores.copy()
        one_wrong[order[number]] = scores[order[number]][::-1]
        with pytest.raises(ParityError) as caught:
            compare(exact, Fixed(one_wrong, how), texts, LIMITS["float"])
        assert caught.value.code == "parity"
        assert compare(exact, Fixed(one_wrong, how), texts, LIMITS["int8"]).agreement == pytest.approx(299 / 300)
    not_a_number = scores.copy()
    not_a_number[order[7], 1] = np.nan
    for limits in LIMITS.values():
        with pytest.raises(ParityError):
            compare(exact, Fixed(not_a_number, how), texts, limits)


def test_a_logit_counts_where_the_probability_is_too_small_to(numbers):
    """Saturated softmax hides what became of the logits: 1e-6 and 1e-9 are equal to three digits."""
    how, texts, order = numbers
    one = np.tile(np.array([1.0, 1e-6, 1e-6], np.float32), (order.max() + 1, 1))
    other = one.copy()
    other[:, 1] = 1e-9
    with pytest.raises(ParityError) as caught:
        compare(Fixed(one, how), Fixed(other, how), texts, LIMITS["float"])
    assert float(caught.value.values["difference"]) < 1e-5 and float(caught.value.values["logits"]) > 1


def test_answers_of_another_shape(numbers):
    how, texts, order = numbers
    with pytest.raises(ParityError) as caught:
        one, other = (np.full((order.max() + 1, classes), 1 / classes, np.float32) for classes in (3, 4))
        compare(Fixed(one, how), Fixed(other, how), texts, LIMITS["float"])
    assert caught.value.code == "parity_shape"


def test_logits_of():
    logits = np.random.default_rng(0).normal(0, 5, (50, 7))
    powers = np.exp(logits - logits.max(1, keepdims=True))
    found = logits_of((powers / powers.sum(1, keepdims=True)).astype(np.float32))
    assert np.allclose(found, logits - logits.mean(1, keepdims=True), atol=1e-5)


# --- an artifact that was made otherwise ------------------------------------------------------------------------------


def test_prove_notes_what_it_found_and_refuses_what_is_wrong(tiny_run, tiny_artifact, tmp_path):
    copy = shutil.copytree(tiny_artifact, tmp_path / "copy")
    about = json.loads((copy / "artifact.json").read_text(encoding="utf-8"))
    (copy / "artifact.json").write_text(json.dumps({**about, "parity": None}), encoding="utf-8")
    found = prove(tiny_run.path, copy)
    assert found.agreement == 1.0 and found.agreement_limit == LIMITS["int8"].agreement
    assert json.loads((copy / "artifact.json").read_text(encoding="utf-8"))["parity"] == to_json(found)
    spoil(copy)
    with pytest.raises(ParityError):
        prove(tiny_run.path, copy)


def spoil(folder):
    """Negates the weights of an artifact, and makes its checksums right again."""
    model = onnx.load(folder / "model.onnx")
    for each in model.graph.initializer:
        if len(each.dims) == 4:
            each.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(each), each.name))
    onnx.save(model, folder / "model.onnx")
    about = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    about["sha256"]["model.onnx"] = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    (folder / "artifact.json").write_text(json.dumps(about), encoding="utf-8")


@pytest.mark.parametrize(
    "change", [{"mean": [0.9, 0.1, 0.5]}, {"channels": 1}, {"size": 16}], ids=["mean", "channels", "size"]
)
def test_the_preprocessing_that_the_artifact_carries_is_what_is_tried(tiny_run, run_copy, monkeypatch, change):
    """A picture goes to the artifact by the artifact's own preprocessing: what is wrong with it is refused. (The mean
    stands in the graph: there the network is given another.)"""
    from fromzero import preprocessing
    from fromzero.formats import onnx as writer
    from fromzero.models.deploy import Deployed
    from fromzero.tasks import image

    write, own = preprocessing.write, writer.write
    if "mean" in change:

        def with_mean(module, how, labels, folder):
            other = image.entry(dataclasses.replace(how, mean=tuple(change["mean"])))
            return own(Deployed(module.model, other).eval(), how, labels, folder)

        monkeypatch.setattr(writer, "write", with_mean)
    else:
        monkeypatch.setattr(preprocessing, "write", lambda folder, how: {**write(folder, how), **change})
    with pytest.raises((ParityError, RunError)) as caught:
        export(run_copy.path)
    assert caught.value.code in ("parity", "parity_failed", "artifact_damaged")
    assert not list(run_copy.path.glob("artifact-*"))


def test_pictures_reach_the_artifact_as_files(tiny_run, tiny_artifact):
    """What only shows in pictures of other sizes: how much of their border is cut off."""
    rng = np.random.default_rng(0)
    given = []
    for _ in range(20):
        array = np.zeros((40, 60, 3), np.uint8)
        array[:, 10:50] = rng.integers(0, 256, 3)
        array[12:28, 22:38] = rng.integers(0, 256, 3)
        file = io.BytesIO()
        Image.fromarray(array).save(file, "JPEG")
        given.append(file.getvalue())
    run, artifact = open_classifier(tiny_run.path), open_classifier(tiny_artifact)
    assert compare(run, artifact, given, LIMITS["float"]).agreement == 1.0
    tighter = dataclasses.replace(artifact.preprocessing, crop=0.4)
    with pytest.raises(ParityError):
        compare(run, dataclasses.replace(artifact, preprocessing=tighter), given, LIMITS["float"])


def test_samples_are_what_a_user_hands_in(tiny_run):
    given = real_samples(tiny_run, 5)
    assert len(given) == 5 and all(isinstance(each, bytes) and each[1:4] == b"PNG" for each in given)
