"""shrink(): every way does what it says, candidates are measured beside the original, and the budget decides."""

from __future__ import annotations

import dataclasses
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fromzero import shrink as ways
from fromzero import shrinking
from fromzero.cli import main
from fromzero.errors import UsageError
from fromzero.predicting import open_classifier, predict
from fromzero.runs import Run
from fromzero.shrink import NothingToGain, Source, _judging, _telling
from fromzero.shrink import _measuring as measuring
from fromzero.shrink._measuring import Latency, Measured
from fromzero.shrinking import Budget, Verdict, shrink
from fromzero.starting import train
from fromzero.terminal import Console


class Lines(Console):
    """Keeps what was said."""

    def __init__(self):
        self.said = []

    def line(self, text):
        self.said.append(text)


@pytest.fixture(scope="module")
def run(tiny_data, tmp_path_factory):
    """A network that knows its classes."""
    place = tmp_path_factory.mktemp("runs") / "run"
    return train(tiny_data, model="cnn", output=place, epochs=6, batch=7, device="cpu", seed=1, augmentation="none")


@pytest.fixture(scope="module")
def artifact(run, tmp_path_factory):
    from fromzero.exporting import export

    return export(run.path, output=tmp_path_factory.mktemp("onnx") / "artifact").path


@pytest.fixture(scope="module")
def shrunk(run, tmp_path_factory):
    """Everything that is tried where any loss is allowed."""
    lines = Lines()
    folder = tmp_path_factory.mktemp("shrunk") / "缩小"
    found = shrink(run.path, max_drop=1.0, ratios=("0.5",), epochs=1, student="cnn", output=folder, console=lines)
    return found, lines.said


# --- ways ---------------------------------------------------------------------------------------------------------


def test_every_way_keeps_the_contract():
    for name in ways.names():
        way = ways.way(name)
        assert way.CHANGES in ("run", "artifact") and isinstance(way.TRAINS, bool), name
        assert isinstance(way.SETTINGS, tuple) and callable(way.make), name
        assert ways.parts(ways.step(name, "0.5")) == (name, "0.5") and ways.parts(name) == (name, "")


def test_ways_never_import_each_other():
    for name in ways.names():
        text = importlib.util.find_spec(f"fromzero.shrink.{name}").loader.get_source(f"fromzero.shrink.{name}")
        assert not [each for each in ways.names() if f"fromzero.shrink.{each}" in text], name


def test_magnitude_pruning_zeroes_the_share_that_was_asked_for(run, tmp_path):
    ways.way("magnitude").make(Source(run.path, run.path, tmp_path, 1), "0.6", tmp_path / "made", Console())
    before, after = (open_classifier(each).module.model for each in (run.path, tmp_path / "made"))
    weights = [each.weight for each in after.modules() if isinstance(each, torch.nn.Conv2d)]
    zeros = sum(int((each == 0).sum()) for each in weights) / sum(each.numel() for each in weights)
    assert zeros == pytest.approx(0.6, abs=0.001)
    kept = torch.cat([each.flatten() for each in weights])
    original = torch.cat([each.weight.flatten() for each in before.modules() if isinstance(each, torch.nn.Conv2d)])
    assert torch.equal(kept[kept != 0], original[kept != 0])
    assert original[kept == 0].abs().max() <= original[kept != 0].abs().min()


def test_int8_computes_in_int8_and_answers_alike(run, artifact, tmp_path):
    import onnx

    ways.way("int8").make(Source(run.path, run.path, artifact, 1), "", tmp_path / "made", Console())
    graph = onnx.load(tmp_path / "made" / "model.onnx").graph
    kinds = {each.name: onnx.TensorProto.DataType.Name(each.data_type) for each in graph.initializer}
    assert "INT8" in kinds.values() and any(each.op_type == "QuantizeLinear" for each in graph.node)
    assert sum(each.op_type == "Softmax" for each in graph.node) == 1  # and it stays in floating point
    one, other = (open_classifier(each) for each in (artifact, tmp_path / "made"))
    from fromzero.shrink._artifacts import samples

    given = samples(run.path, "train", 40)
    assert (one.scores(given).argmax(1) == other.scores(given).argmax(1)).mean() >= 0.95
    assert 0 < np.abs(one.scores(given) - other.scores(given)).max() < 0.5
    assert (tmp_path / "made" / "model.onnx").stat().st_size < 0.5 * (artifact / "model.onnx").stat().st_size


def test_four_bits_need_matrices(run, artifact, tmp_path):
    with pytest.raises(NothingToGain, match="no_matrices"):
        ways.way("int4").make(Source(run.path, run.path, artifact, 1), "", tmp_path / "made", Console())
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_of_a_transformer_only_products_with_weights_are_quantised(tmp_path):
    import onnx

    from fromzero.exporting import export
    from fromzero.shrink._artifacts import samples

    rng = np.random.default_rng(0)
    words = {"warm": "sun beach heat summer".split(), "cold": "snow ice frost winter".split()}
    rows = [f"{' '.join(rng.choice(words[label], 6))},{label}" for label in words for _ in range(80)]
    data = tmp_path / "texts.csv"
    data.write_text("\n".join(["text,label", *rng.permutation(rows)]) + "\n")
    run = train(data, model="transformer", output=tmp_path / "run", epochs=6, batch=16, seq=8, device="cpu")
    source = Source(run.path, run.path, export(run.path, output=tmp_path / "artifact").path, 1)
    given = samples(run.path, "val", 40)
    wanted = open_classifier(source.artifact).scores(given).argmax(1)
    for name in ("int8", "int4"):
        ways.way(name).make(source, "", tmp_path / name, Console())
        graph = onnx.load(tmp_path / name / "model.onnx").graph
        assert (open_classifier(tmp_path / name).scores(given).argmax(1) == wanted).mean() >= 0.9, name
        weights = {each.name for each in graph.initializer}
        made_by = {output: each for each in graph.node for output in each.output}
        if name == "int4":
            assert sum(each.op_type == "MatMulNBits" for each in graph.node) >= 6
            continue
        for each in graph.node:
            quantised = [made_by[i].op_type == "DequantizeLinear" for i in each.input if i in made_by]
            if each.op_type == "Add":
                assert len(quantised) < 2 or not all(quantised), "what is carried past a layer stays in floating point"
            elif each.op_type == "MatMul" and all(quantised):
                assert made_by[each.input[1]].input[0] in weights, "attention stays in floating point"


@pytest.mark.parametrize("freeze", ["1-2", "backbone"])
def test_a_network_with_frozen_layers_is_cut_like_any_other(freeze):
    import timm

    from fromzero.models.adapt import adapt
    from fromzero.records import Recipe
    from fromzero.shrink.structured import cut

    module, shown = timm.create_model("tf_efficientnet_lite0", num_classes=3), torch.randn(1, 3, 64, 64)
    wanted = cut(module, shown, 0.25)[1]
    adapt(module, Recipe(freeze=freeze, freeze_norms=True))
    smaller, history = cut(module, shown, 0.25)
    assert history == wanted and smaller(shown).shape == (1, 3)


def test_smaller_pictures_are_the_same_network_on_fewer_pixels(tiny_data, tmp_path):
    """Of 64 pixels 32 are left: a fourth of the work, with the same weights, in the run and in what is exported."""
    from fromzero.exporting import export

    run = train(tiny_data, model="cnn", output=tmp_path / "run", imgsz=64, epochs=2, batch=7, device="cpu")
    way, source = ways.way("resized"), Source(run.path, run.path, tmp_path, 1)
    assert (way.sizes(64), way.sizes(224), way.sizes(28)) == (("32",), ("192", "160", "128"), ())
    way.make(source, "32", tmp_path / "half", Console())
    half = Run(tmp_path / "half")
    assert half.preprocessing().size == 32 and half.plan().workload.input_shape == (3, 32, 32)
    assert export(half.path, output=tmp_path / "artifact").path.is_dir()
    assert predict(tmp_path / "artifact", [next(tiny_data.rglob("*.png"))])[0][0].label in run.labels()


def test_a_network_of_one_size_is_left_at_it(tiny_data, tmp_path):
    words = {"imgsz": 64, "epochs": 1, "batch": 7, "device": "cpu"}
    run = train(tiny_data, model="test_vit", output=tmp_path / "run", **words)
    with pytest.raises(NothingToGain) as why:
        ways.way("resized").make(Source(run.path, run.path, tmp_path, 1), "32", tmp_path / "half", Console())
    assert str(why.value) == "size_is_fixed" and not (tmp_path / "half").exists()


# --- the whole ----------------------------------------------------------------------------------------------------


def test_every_candidate_is_made_measured_and_answers(shrunk, run, tiny_data):
    found, _ = shrunk
    made = {each.name: each for each in found.candidates if each.measured is not None}
    wanted = {"original", "int8", "magnitude-0.5", "distilled-cnn", "structured-0.5+recovered"}
    assert wanted <= set(made)
    picture = next(tiny_data.rglob("*.png"))
    for each in made.values():
        assert predict(each.artifact, [picture])[0][0].label in run.labels()
        assert each.run is None or Run(Path(each.run)).plan() is not None
        low, high = each.measured.interval
        assert low <= each.measured.accuracy <= high and each.measured.memory > 0
        assert all(time.p50 <= time.p99 for time in each.measured.latency)
    original, half = made["original"].measured, made["structured-0.5+recovered"].measured
    assert original.drop == 0 and original.agreement == 1 and original.accuracy >= 0.9
    assert half.size < 0.5 * original.size and half.accuracy >= 0.6
    sparse = made["magnitude-0.5"].measured
    assert sparse.size == pytest.approx(original.size, rel=0.01)
    assert sparse.compressed < 0.75 * original.compressed, "only a compressed file has less to hold"


def test_what_is_measured_is_what_evaluate_measures(shrunk, run):
    from fromzero.report import evaluate

    found, _ = shrunk
    half = found.of("structured-0.5+recovered")
    assert evaluate(half.run, half.measured.split).accuracy == pytest.approx(half.measured.accuracy)


def test_nothing_is_made_twice(shrunk, run):
    found, said = shrunk
    assert any(each.startswith("Making") for each in said)
    lines = Lines()
    words = {"max_drop": 1.0, "ratios": ("0.5",), "epochs": 1, "student": "cnn", "output": found.path}
    again = shrink(run.path, console=lines, **words)
    assert lines.said == []
    assert again == found


@pytest.mark.slow
def test_a_training_that_was_cut_off_goes_on(run, tmp_path, monkeypatch):
    from fromzero import training

    saved = training._save

    def dies(job):
        saved(job)
        if job.state.step == job.per_epoch:
            raise KeyboardInterrupt

    words = {"latency": "1000x", "ratios": ("0.5",), "epochs": 2, "output": tmp_path / "out", "student": "cnn"}
    with monkeypatch.context() as patch:
        patch.setattr(training, "_save", dies)
        with pytest.raises(KeyboardInterrupt):
            shrink(run.path, **words)
    place = tmp_path / "out" / "distilled-cnn" / "run"
    begun = (place / "run.json").stat().st_ino, len(Run(place).metrics.read_text().splitlines())
    shrink(run.path, **words)
    assert begun[1] == 2 and len(Run(place).metrics.read_text().splitlines()) == 3
    assert Run(place).record()["status"] == "finished"


def test_a_budget_that_the_original_keeps_costs_no_training(run, tmp_path, capsys):
    output = tmp_path / "out"
    assert main(["shrink", str(run.path), "--latency", "100s", "-o", str(output), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {each["name"] for each in told["candidates"]} == {"original", "int8", "int4", "magnitude-0.5"}
    assert told["best"] is not None and told["nearest"] is None
    assert not list(output.glob("structured*"))
    kept = json.loads((output / "shrink.json").read_text())
    assert kept["best"] == told["best"] and (output / "shrink.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_budget_that_nothing_keeps_is_a_no_without_training(run, tmp_path, capsys):
    words = ["shrink", str(run.path), "--latency", "1000x", "--ratios", "0.5", "-o", str(tmp_path / "out")]
    assert main(words) == 1
    told = capsys.readouterr().out
    assert "Nothing keeps the budget. Nearest:" in told and "too slow (not trained)" in told
    assert not list((tmp_path / "out").glob("*recovered*"))
    assert main(["--lang", "zh", *words]) == 1
    assert "没有候选符合预算" in capsys.readouterr().out


def test_a_card_is_predicted(run, tmp_path):
    found = shrink(run.path, on="RTX 3060 12 GB", latency="1000x", ratios=("0.5",), output=tmp_path / "out")
    assert found.budget.on == "NVIDIA GeForce RTX 3060 12 GB"
    original, quantised = found.of("original"), found.of("int8")
    assert original.latency == original.measured.predicted[found.budget.on] > 0
    assert quantised.latency is None and quantised.reason == "not_predicted"
    assert "predicted for PyTorch, not measured" in shrinking.summary(found)


def test_a_folder_of_other_weights_and_wrong_words_are_refused(run, tiny_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.json").write_text('"something else"')
    with pytest.raises(UsageError) as error:
        shrink(run.path, output=tmp_path / "out")
    assert error.value.code == "shrink_other_run"
    for wrong in ("10", "ten ms", "-3ms", "0ms"):
        with pytest.raises(UsageError, match="is no time"):
            shrink(run.path, latency=wrong, output=tmp_path / "new")
    for wrong in ("1 point", "200%", "-1%"):
        with pytest.raises(UsageError, match="is no share"):
            shrinking.share(wrong)
    assert shrinking.share("1%") == shrinking.share("0.01") == 0.01


def test_a_language_model_is_refused(run, tmp_path):
    import shutil

    other = shutil.copytree(run.path, tmp_path / "lm")
    plan = json.loads((other / "plan.json").read_text())
    plan["workload"]["task"] = "lm"
    (other / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(UsageError) as error:
        shrink(other, output=tmp_path / "out")
    assert error.value.code == "shrink_no_classes"


# --- what is tried, and what is chosen ----------------------------------------------------------------------------


def figures(name: str, faster: float, drop: float = 0.0) -> Measured:
    latency = (Latency(threads=1, p50=0.01 / faster, p99=0.02 / faster, faster=faster),)
    return Measured(
        name=name, size=1, compressed=1, memory=1, latency=latency, accuracy=0.9 - drop, interval=(0.8, 0.95),
        drop=drop, drop_interval=(0, 0), agreement=1, samples=100, split="test",
    )  # fmt: skip


class Table:
    """A bench whose figures stand in a table: (times faster, accuracy lost) by name."""

    sizes = ("160",)

    def __init__(self, budget: Budget, **rows: tuple[float, float]) -> None:
        self.budget, self.trained = budget, []
        self.rows = {"original": (1.0, 0.0), "int8": (2.0, 0.002), "magnitude-0.5": (1.0, 0.0), **rows}

    def timed(self, name: str) -> Latency | Verdict:
        if name not in self.rows:
            return Verdict(name=name, kept=False, reason="size_is_fixed")
        return figures(name, self.rows[name][0]).judged

    def judged(self, name: str) -> Verdict:
        if name not in self.rows:
            return Verdict(name=name, kept=False, reason="no_matrices")
        self.trained += [name] if "recovered" in name else []
        found = figures(name, *self.rows[name])
        faster, latency = found.judged.faster, found.judged.p50
        reason = "original" if name == "original" else _judging.reason(self.budget, latency, faster, found.drop)
        kept = reason == "kept" or (
            name == "original" and not self.budget.open and _judging.fast_enough(self.budget, latency, faster)
        )
        return Verdict(name=name, kept=kept, reason=reason, latency=latency, faster=faster, measured=found)


def tried(budget: Budget, ratios=("0.25", "0.5"), **rows):
    bench = Table(budget, **{name.replace("_", "+"): row for name, row in rows.items()})
    verdicts = list(shrinking._tried(bench, ratios, None))
    best = _judging.best(verdicts, budget)
    return bench.trained, best and best.name, _judging.nearest(verdicts, budget)


CUTS = {"structured-0.25": (1.4, 0.5), "structured-0.5": (3.0, 0.6)}


def test_what_int8_alone_keeps_is_not_trained_for():
    assert tried(Budget(faster=2), **CUTS) == ([], "int8", "int8")


def test_the_mildest_cut_that_is_fast_enough_after_int8_learns_again():
    rows = {**CUTS, "structured-0.25_recovered_int8": (2.8, 0.004)}
    assert tried(Budget(faster=2.5), **rows)[:2] == (
        ["structured-0.25+recovered+int8"],
        "structured-0.25+recovered+int8",
    )


def test_smaller_pictures_come_before_a_cut_and_learn_only_where_they_must():
    """Fast enough and right as they are; right after training; fast enough, but wrong: then the network is cut."""
    small = {**CUTS, "resized-160": (3.0, 0.004)}
    assert tried(Budget(faster=2.5), **small) == ([], "resized-160", "resized-160")
    small = {**CUTS, "resized-160": (3.0, 0.04), "resized-160_recovered": (3.0, 0.004)}
    assert tried(Budget(faster=2.5), **small)[:2] == (["resized-160+recovered"], "resized-160+recovered")
    small["resized-160_recovered"] = (3.0, 0.03)
    small["structured-0.25_recovered_int8"] = (2.8, 0.004)
    assert tried(Budget(faster=2.5), **small)[1] == "structured-0.25+recovered+int8"


def test_what_lost_too_much_is_distilled():
    cut = "structured-0.25_recovered"
    rows = {**CUTS, f"{cut}_int8": (2.8, 0.05), f"{cut}_distilled_int8": (2.8, 0.008)}
    assert tried(Budget(faster=2.5), **rows)[1] == "structured-0.25+recovered+distilled+int8"


def test_where_a_mild_cut_loses_too_much_no_harder_one_is_tried():
    cut = "structured-0.25_recovered"
    rows = {**CUTS, f"{cut}_int8": (2.8, 0.05), f"{cut}_distilled_int8": (2.8, 0.04)}
    trained, best, _ = tried(Budget(faster=2.5), **rows)
    assert best is None and not [each for each in trained if "structured-0.5" in each]


def test_what_turned_out_too_slow_is_not_distilled_but_cut_harder():
    rows = {**CUTS, "structured-0.25_recovered_int8": (2.1, 0.05), "structured-0.5_recovered": (3.0, 0.003)}
    trained, best, _ = tried(Budget(faster=2.5), **rows)
    assert trained == ["structured-0.25+recovered+int8", "structured-0.5+recovered"]
    assert best == "structured-0.5+recovered"


def test_without_a_latency_the_fastest_that_loses_little_wins():
    rows = {
        **CUTS,
        "structured-0.25_recovered": (1.4, 0.0),
        "structured-0.25_recovered_int8": (2.8, 0.001),
        "structured-0.5_recovered": (3.0, 0.02),
        "structured-0.5_recovered_int8": (6.0, 0.03),
        "structured-0.5_recovered_distilled": (3.0, 0.009),
        "structured-0.5_recovered_distilled_int8": (6.0, 0.02),
    }
    trained, best, _ = tried(Budget(), **rows)
    assert len(trained) == 6 and best == "structured-0.5+recovered+distilled"


def test_the_nearest_loses_little_or_loses_least():
    rows = {**CUTS, "structured-0.5_recovered": (5.0, 0.3), "structured-0.5_recovered_int8": (9.0, 0.2)}
    assert tried(Budget(faster=8), ratios=(), **rows)[1:] == (None, "int8")
    assert tried(Budget(faster=8, max_drop=0.001), ratios=(), **rows)[1:] == (None, "magnitude-0.5")


def test_zeros_are_not_faster():
    assert _judging.reason(Budget(), 0.01, 1.0, 0.0) == "not_faster"
    assert _judging.reason(Budget(faster=2), 0.01, 1.5, 0.0) == "too_slow"
    assert _judging.reason(Budget(latency=0.005), 0.004, 1.5, 0.02) == "too_inaccurate"
    assert _judging.reason(Budget(), None, None, 0.0) == "not_predicted"


# --- measuring ----------------------------------------------------------------------------------------------------


def test_the_difference_of_the_same_samples_is_paired():
    one = np.array([True] * 90 + [False] * 10)
    other = one.copy()
    other[:5], other[90:92] = False, True
    drop, (low, high) = measuring.difference(one, other)
    assert drop == pytest.approx(0.03) and low < drop < high
    same = measuring.difference(one, one)
    assert same[0] == 0 and same[1][0] == pytest.approx(-same[1][1])
    assert high - low > same[1][1] - same[1][0]


def test_a_verdict_needs_no_run_to_be_told():
    verdict = Verdict(name="structured-0.7+recovered", kept=False, reason="untrained", latency=0.001, faster=3.0)
    assert _telling.title(verdict.name) == "pruned 70%, recovered"
    assert _telling.verdict_text(verdict) == "dropped: too slow (not trained)"
    assert "no space" in _telling.verdict_text(dataclasses.replace(verdict, reason="There is no space."))
