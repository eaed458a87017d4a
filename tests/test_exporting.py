"""An artifact answers as its run does, or there is none."""

import hashlib
import importlib
import json
import shutil
import sys
from importlib.metadata import version

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from fromzero import exporting, formats
from fromzero.cli import main
from fromzero.data.folder import scan
from fromzero.data.load import Pictures
from fromzero.errors import FromzeroError, ParityError, RunError, UnknownName, UsageError
from fromzero.exporting import Artifact, Parity, compare, export, names
from fromzero.predicting import open_classifier, predict
from fromzero.records import to_json
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
    assert artifact.parity.pictures >= 9
    assert artifact.parity.agreement == 1.0
    assert artifact.parity.max_difference < 1e-4


def test_the_description_is_complete(artifact, tiny_run):
    about = json.loads((artifact.path / "artifact.json").read_text(encoding="utf-8"))
    assert about["format"] == "onnx" and about["model"] == "cnn" and about["file"] == artifact.file
    assert about["labels"] == list(tiny_run.labels())
    assert about["preprocessing"] == to_json(tiny_run.preprocessing())
    content = (artifact.path / artifact.file).read_bytes()
    assert about["sha256"] == {artifact.file: hashlib.sha256(content).hexdigest()}
    assert about["run"] == str(tiny_run.path.resolve())
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
            "EXTRA = 'export'\n"
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
        "EXTRA = 'export'\n"
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
        "def open_model(path):\n"
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


class Fixed:
    def __init__(self, scores):
        self.left = np.asarray(scores, dtype=np.float32)

    def scores(self, batch):
        now, self.left = self.left[: len(batch)], self.left[len(batch) :]
        return now


def test_compare_counts_every_picture():
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(4), 300)
    pictures = np.zeros((300, 8, 8, 1), dtype=np.uint8)
    assert compare(Fixed(scores), Fixed(scores), pictures).pictures == 300
    for number in (0, 150, 299):
        one_wrong = scores.copy()
        one_wrong[number] = scores[number][::-1]
        with pytest.raises(ParityError):
            compare(Fixed(scores), Fixed(one_wrong), pictures)
    not_a_number = scores.copy()
    not_a_number[7, 1] = np.nan
    with pytest.raises(ParityError):
        compare(Fixed(scores), Fixed(not_a_number), pictures)
