"""Tables from a file to a trained model: the contract of the task, the planner's shapes, sequences of rows."""

import math

import numpy as np
import pytest
import torch

from fromzero import starting
from fromzero.data.opening import open_data
from fromzero.data.split import split
from fromzero.errors import DataError, UsageError
from fromzero.planning import plan
from fromzero.predicting import classify, open_classifier
from fromzero.records import Recipe, Workload
from fromzero.report import evaluate
from fromzero.tasks import table

MODELS = ("mlp", "ft-transformer", "table-rnn", "table-gru")


def patients(folder, count=240):
    """Visits of patients: the class is whether the pulse rose since the visit before."""
    rng = np.random.default_rng(0)
    lines, last = [], {}
    for n in range(count):
        who, pulse = n % 40, int(rng.integers(50, 110))
        label = "rose" if pulse > last.get(who, 80) else "fell"
        last[who] = pulse
        lines.append(f"p{who},2024-{1 + n // 40:02}-01,{pulse},{'ward ' + 'ab'[n % 2]},{label}")
    path = folder / "visits.csv"
    path.write_text("\n".join(["group,date,pulse,ward,label", *lines]) + "\n")
    return path


@pytest.fixture(scope="module")
def visits(tmp_path_factory):
    return patients(tmp_path_factory.mktemp("visits"))


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_planned_in_the_shape_it_is_trained_in(visits, model):
    manifest = split(open_data(visits))
    how = table.preprocessing(manifest, model, {})
    words = table.shape(how)
    assert bool(words["window"]) == model.startswith("table-")
    made = plan(model, card="cpu", classes=2, samples=100, batch=16, **words)
    inputs, targets = table.example(made.workload, 7, "cpu")
    loaded, labels = table.samples(manifest, how, Recipe()).batch([(row, 0) for row in range(7)])
    assert inputs.shape == loaded.shape and targets.shape == labels.shape and inputs.dtype == torch.float32
    assert made.memory.process_peak > made.memory.allocated_peak > 0


@pytest.mark.parametrize("model", MODELS)
def test_it_can_be_planned_for_a_card(model):
    made = plan(model, card="RTX 3060 12 GB", features=20, categories=(4, 9), batch=256, precision="amp-fp16")
    assert made.verdict == "fits" and made.workload.input_shape == (20,)
    if model.startswith("table-"):
        longer = plan(model, card="RTX 3060 12 GB", features=20, window=64, batch=256, precision="amp-fp16")
        assert longer.memory.allocated_peak > made.memory.allocated_peak


def test_classes_can_weigh(visits):
    outputs, targets = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    plain = table.loss_for(Recipe())(outputs, targets)
    heavy = table.loss_for(Recipe(), torch.tensor([1.0, 9.0]))(outputs, targets)
    assert heavy > plain
    assert table.answers(outputs).sum(1).tolist() == pytest.approx([1, 1])


def test_what_cannot_be_trained_is_said_before_anything_runs(visits, tmp_path):
    manifest = split(open_data(visits))
    with pytest.raises(UsageError) as caught:
        table.preprocessing(manifest, "mlp", {"seq": 4})
    assert caught.value.code == "reads_single_rows" and "table-gru" in str(caught.value)
    path = tmp_path / "prices.csv"
    path.write_text("rooms,price\n" + "".join(f"{n % 5},{n * 1.37}\n" for n in range(60)))
    with pytest.raises(UsageError) as caught:
        table.preprocessing(split(open_data(path, label="price")), "mlp", {})
    assert caught.value.code == "target_is_quantity"
    path = tmp_path / "rare.csv"
    given = ["train"] * 30 + ["val"] * 10
    path.write_text("a,label,split\n" + "".join(f"{n * 0.37},{'xy'[n == 3]},{part}\n" for n, part in enumerate(given)))
    with pytest.raises(DataError) as caught:
        table.preprocessing(split(open_data(path)), "mlp", {})
    assert caught.value.code == "one_class_held_out"


def test_a_run_of_sequences_from_the_file_to_an_answer(visits, tmp_path):
    words = {"epochs": 25, "batch": 16, "lr": 1e-2, "device": "cpu"}
    run = starting.train(visits, model="table-gru", seq=2, output=tmp_path / "run", **words)
    found = evaluate(run.path)
    assert found.measures["auc"] > 0.9  # what the last two visits tell
    assert {"pr_auc", "ece", "brier", "macro_f1"} <= set(found.measures)
    classifier = open_classifier(run.path)
    rows = [
        {"pulse": pulse, "ward": "ward a", "date": date} for pulse, date in ((60, "2025-01-01"), (105, "2025-02-01"))
    ]
    assert classify(classifier, rows, top=1)[0].label == "rose"
    assert classify(classifier, rows[::-1], top=1)[0].label == "fell"
    assert math.isclose(sum(each.score for each in classify(classifier, rows)), 1, rel_tol=1e-5)


def test_a_row_alone_cannot_know_what_came_before(visits, tmp_path):
    run = starting.train(visits, output=tmp_path / "run", epochs=4, batch=32, device="cpu")
    assert run.plan().workload.model == "mlp" and run.plan().workload.categories == (2,)
    columns = (run.path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"val_auc", "val_pr_auc", "val_loss", "val_accuracy"} <= set(columns)
    assert evaluate(run.path).measures["auc"] < 0.95
    assert run.plan().workload == Workload(**vars(run.plan().workload))
