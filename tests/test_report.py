"""The report is one file that needs no other, says what was measured beside what was predicted, and is right."""

import html
import json
import re
import shutil
import warnings

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from fromzero import card, checkpoint, evaluation, language, metrics, pictures
from fromzero.cli import main
from fromzero.data.folder import scan
from fromzero.data.load import Pictures
from fromzero.errors import RunError, UnknownName
from fromzero.evaluation import Evaluation, cross_entropy, measure, wilson
from fromzero.preparing import prepare
from fromzero.report import evaluate
from fromzero.runs import Run
from fromzero.terminal import bytes_text, seconds_text


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    """A copy of the run that knows little: its last layer is mirrored, so that it makes mistakes to report."""
    run = Run(shutil.copytree(tiny_run.path, tmp_path_factory.mktemp("report") / "跑 & run"))
    groups, state = checkpoint.load(run.best)
    groups["model"]["head.weight"] = groups["model"]["head.weight"][[1, 0, 2]]
    checkpoint.save(run.best, groups, state)
    language.use("en")
    return run, evaluate(run.path)


@pytest.fixture
def page(evaluated):
    return (evaluated[0].path / "report.html").read_text(encoding="utf-8")


def test_the_figures_are_those_of_the_test_pictures(evaluated, tiny_data):
    run, result = evaluated
    manifest = scan(tiny_data)
    assert isinstance(result, Evaluation) and result.split == "test"
    assert result.samples == len(manifest.rows("test"))
    confusion = np.array(result.confusion)
    counts = np.bincount(manifest["label"][manifest.rows("test")], minlength=3)
    assert (confusion.sum(axis=1) == counts).all()
    assert result.accuracy == pytest.approx(np.trace(confusion) / confusion.sum())
    for n, each in enumerate(result.classes):
        assert each.samples == counts[n]
        assert each.recall == pytest.approx(confusion[n, n] / counts[n])
        assert each.precision == pytest.approx(confusion[n, n] / max(1, confusion[:, n].sum()))
    assert json.loads((run.path / "evaluation.json").read_text(encoding="utf-8"))["confusion"] == confusion.tolist()


def test_mistakes_are_named_worst_first(evaluated, tiny_data):
    _, result = evaluated
    assert len(result.mistakes) == result.samples - round(result.accuracy * result.samples) > 0
    for each in result.mistakes:
        assert each.label != each.predicted and 0 < each.score <= 1
        assert (tiny_data / each.path).is_file() and each.path.split("/")[0] == each.label


def test_the_page_needs_no_other_file(page):
    assert "http://" not in page and "https://" not in page
    sources = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']?([^"'\s>]+)""", page)
    assert sources and all(each.startswith("data:image/png;base64,") for each in sources)
    assert "url(" not in page and "@import" not in page and "<script" not in page and "<link" not in page


def test_names_are_escaped(page, evaluated):
    _, result = evaluated
    for each in result.classes:
        assert html.escape(each.label) in page
    assert "鸟 &amp; 鱼" in page and "鸟 & 鱼" not in page
    assert "跑 &amp; run" in page


def test_predicted_stands_beside_measured(page, evaluated):
    record = evaluated[0].record()
    memory, time = record["predicted"]["memory"], record["predicted"]["time"]
    for key, told, around, text in (
        ("process_peak", memory["process_peak"], memory, bytes_text),
        ("step", time["step"], time, seconds_text),
    ):
        row = re.search(rf"<td>{re.escape(language.say(f'report.{key}'))}</td>(.*?)</tr>", page, re.DOTALL).group(1)
        predicted, measured, difference = (html.unescape(each) for each in re.findall(r"<td>(.*?)</td>", row))
        assert all(text(each) in predicted for each in (told, around["low"], around["high"]))
        assert measured == text(record["measured"][key])
        wanted = (told / record["measured"][key] - 1) * 100
        assert float(difference.removesuffix(" %")) == pytest.approx(wanted, abs=0.51)


def test_the_page_holds_its_figures(page, evaluated):
    run, result = evaluated
    assert f"{result.accuracy:.2%}" in page
    names = {each.stem for each in run.figures.iterdir()}
    measured = {name for name in run.metrics.read_text().splitlines()[0].split(",") if name.startswith("val_")}
    assert names == {"confusion", "reliability", "loss", "lr", "gradient_norm", *measured} - {"val_loss"}
    for each in run.figures.iterdir():
        assert Image.open(each).width > 300
    assert page.count("<img") == len(names) + len(result.mistakes)
    for name, value in result.measures.items():
        if name not in ("loss", "accuracy", "macro_f1"):
            assert f"<td>{html.escape(evaluation.measure_name(name))}</td><td>{value:.4g}</td>" in page


def test_in_chinese(tiny_run, tmp_path, capsys):
    run = shutil.copytree(tiny_run.path, tmp_path / "run")
    assert main(["evaluate", str(run), "--lang", "zh"]) == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert '<html lang="zh-CN">' in page and language.catalogue()["report.ledger"][1] in page
    assert language.catalogue()["report.ledger"][0] not in page


def test_a_run_that_was_never_finished_still_has_a_report(tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    record = {key: value for key, value in run.record().items() if key != "measured"}
    (run.path / "run.json").write_text(json.dumps(record), encoding="utf-8")
    run.metrics.unlink()
    result = evaluate(run.path, "val")
    assert result.split == "val" and result.accuracy == 1.0 and not result.mistakes
    assert language.say("report.ledger") not in (run.path / "report.html").read_text(encoding="utf-8")


def test_wrong_calls(tiny_run, tmp_path):
    with pytest.raises(UnknownName):
        evaluate(tiny_run.path, "nonsense")
    with pytest.raises(RunError):
        evaluate(tmp_path)


def test_a_new_class_in_the_data_is_not_taken_for_an_old_one(tiny_run, tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    run.note(data=str(data))
    (data / "a new class").mkdir()
    shutil.copy(next(data.rglob("*.png")), data / "a new class" / "0.png")
    with pytest.raises(RunError) as caught:
        evaluate(run.path)
    assert caught.value.code == "data_changed"


def test_a_picture_that_went_away_does_not_stop_the_report(tiny_run, tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    run.note(data=str(data))
    manifest = prepare(data)
    (data / str(manifest["path"][manifest.rows("test")[0]])).unlink()
    assert evaluate(run.path).samples == len(manifest.rows("test")) - 1


# --- other tasks --------------------------------------------------------------------------------------------------


def small(kind, rows, tmp_path, **words):
    """A model that learnt a little of a CSV file, evaluated on its test part."""
    from fromzero.starting import train

    path = tmp_path / f"{kind}.csv"
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    run = train(path, output=tmp_path / "run", epochs=1, batch=16, device="cpu", **words)
    return run, evaluate(run.path), (run.path / "report.html").read_text(encoding="utf-8")


def test_a_table(tmp_path):
    rng = np.random.default_rng(0)
    values = [(n, round(float(rng.normal()), 3), ("red", "blue")[n % 2], rng.random() < 0.4) for n in range(160)]
    rows = ["id,wealth,colour <b>,label", *(f"{n},{x},{c},{'ill' if ill else 'well'}" for n, x, c, ill in values)]
    run, result, page = small("table", rows, tmp_path, model="mlp")
    assert {"roc", "precision_recall", "reliability"} <= {each.stem for each in run.figures.iterdir()}
    assert f"{result.measures['auc']:.4g}" in page
    counts = {each.label: each.samples for each in result.classes}
    assert f"those of the class {min(counts, key=counts.get)}." in page
    table = [row.split(",") for row in rows[1:]]
    for each in result.mistakes[:12]:
        assert f"wealth: {float(table[each.row][1]):.6g}" in page and f"colour &lt;b&gt;: {table[each.row][2]}" in page


def test_texts(tmp_path):
    rng = np.random.default_rng(0)
    words = "猫 狗 鸟 鱼 cat dog <i> fish 好 坏 red blue".split()
    lines = [" ".join(rng.choice(words, 6)) + f" {n}" for n in range(90)]
    rows = ["text,label", *(f"{line},{'好' if rng.random() < 0.5 else '坏'}" for line in lines)]
    _, result, page = small("text", rows, tmp_path, model="rnn", seq=8)
    assert result.mistakes
    for each in result.mistakes[:12]:
        assert f"<p>{html.escape(lines[each.row])}</p>" in page


def test_a_language_model(tmp_path, capsys):
    rng = np.random.default_rng(0)
    words = "the a cat dog sat ran on under big small house tree .".split()
    lines = [" ".join(rng.choice(words, 40)) + f" {n}" for n in range(60)]
    run, result, page = small("lm", ["text", *lines], tmp_path, model="gpt", seq=16)
    assert result.perplexity == pytest.approx(np.exp(result.loss)) and f"{result.perplexity:.4g}" in page
    assert language.say("report.confusion") not in page and language.say("report.written") in page
    start = re.search(r'<blockquote><span class="soft">(.*?)</span>(.*?)</blockquote>', page, re.DOTALL)
    assert html.unescape(start.group(1)).strip() and any(
        line.startswith(html.unescape(start.group(1))) for line in lines
    )
    assert main(["evaluate", str(run.path)]) == 0
    assert f"{result.perplexity:.4g}" in capsys.readouterr().out


# --- the card -----------------------------------------------------------------------------------------------------


def front(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_card_says_what_was_measured(evaluated, tiny_data):
    run, result = evaluated
    text = (run.path / "README.md").read_text(encoding="utf-8")
    head = front(text)
    found = {each["type"]: each["value"] for each in head["model-index"][0]["results"][0]["metrics"]}
    assert found["accuracy"] == pytest.approx(result.accuracy, abs=1e-6)
    assert head["pipeline_tag"] == "image-classification" and "license" not in head
    assert head["model-index"][0]["results"][0]["dataset"]["split"] == result.split
    manifest = prepare(tiny_data)
    for split in ("train", "val", "test"):
        assert f"| samples, {language.say(f'split.{split}')} part | {len(manifest.rows(split))} |" in text
    assert run.record()["data_digest"] in text and f"{result.accuracy:.2%}" in text
    assert str(tiny_data.parent) not in text and str(run.path.parent) not in text


def test_what_its_user_wrote_stays(tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    evaluate(run.path)
    path = run.path / "README.md"
    text = path.read_text(encoding="utf-8")
    mine = language.say("card.yours_use")
    path.write_text(text.replace(mine, "To sort 照片.").replace("---\n", "---\nlicense: mit\n", 1), encoding="utf-8")
    evaluate(run.path, "val")
    again = path.read_text(encoding="utf-8")
    assert "To sort 照片." in again and mine not in again and language.say("card.yours_limits") in again
    assert front(again)["license"] == "mit"
    assert front(again)["model-index"][0]["results"][0]["dataset"]["split"] == "val"
    language.use("zh")
    evaluate(run.path)
    assert "To sort 照片." in path.read_text(encoding="utf-8") and "## 局限" in path.read_text(encoding="utf-8")


def test_somebody_elses_readme_stays(tiny_run, tmp_path):
    run = Run(shutil.copytree(tiny_run.path, tmp_path / "run"))
    (run.path / "README.md").write_text("# Mine\n", encoding="utf-8")
    evaluate(run.path)
    assert (run.path / "README.md").read_text(encoding="utf-8") == "# Mine\n"


def test_names_in_a_card_are_plain():
    assert card.plain("a|b\n<i>*c*") == "a\\|b \\<i\\>\\*c\\*"
    assert (
        card.energy_text(0.0123) == "12.3 Wh" and card.energy_text(2.5) == "2.5 kWh" and card.energy_text(None) == "–"
    )


# --- the drawings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels", [("$5$10", "$x^{$"), ("a_b^{c", "\\frac"), ("x" * 300, "y"), ("", " "), ("猫", "狗"), ("a\nb", "\t")]
)
def test_any_class_name_can_be_drawn(labels):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert pictures.confusion(np.array([[3, 1], [0, 2]]), labels).startswith(b"\x89PNG")


def test_many_classes_can_be_drawn():
    assert pictures.confusion(np.eye(60, dtype=int), [f"class {n}" for n in range(60)]).startswith(b"\x89PNG")


def test_one_epoch_can_be_drawn():
    series = {"training": ([1.0], [1.0]), "validation": ([1.0], [float("nan")])}
    assert pictures.lines("Loss", "epoch", series).startswith(b"\x89PNG")


def test_curves_of_two_classes_can_be_drawn():
    truth, scores = np.array([True, False, True, False]), np.array([0.9, 0.2, 0.4, 0.6])
    both = np.stack([1 - scores, scores], axis=1)
    assert pictures.roc(truth, scores).startswith(b"\x89PNG")
    assert pictures.precision_recall(truth, scores).startswith(b"\x89PNG")
    assert pictures.reliability(metrics.calibration(both, truth.astype(int))).startswith(b"\x89PNG")


def test_a_missing_font_is_known():
    assert pictures.missing_font(["cat", "dog"]) is False
    assert pictures.missing_font(["猫"]) is not bool(pictures._cjk_fonts())


# --- the measures -------------------------------------------------------------------------------------------------


def test_wilson_is_the_textbook_interval():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20) == pytest.approx((0.8389, 1.0), abs=1e-4)


def test_cross_entropy():
    scores = np.array([[0.5, 0.5], [0.1, 0.9], [1.0, 0.0]], dtype=np.float32)
    assert cross_entropy(scores, np.array([0, 1, 0])) == pytest.approx(-np.log([0.5, 0.9, 1.0]).mean(), abs=1e-6)
    assert np.isfinite(cross_entropy(scores, np.array([0, 1, 1])))


class Fixed:
    name, task = "fixed", "image"
    labels = ("a", "b", "c")

    def __init__(self, scores):
        self.given = np.asarray(scores, dtype=np.float32)
        self.at = 0

    def scores(self, batch):
        self.at += len(batch)
        return self.given[self.at - len(batch) : self.at]


def test_every_row_meets_its_own_label(tiny_data, tiny_run, monkeypatch):
    """Scores given in the order of the rows, over several batches and with the last one short."""
    monkeypatch.setattr(evaluation, "BATCH", 7)
    manifest = scan(tiny_data)
    rows = np.random.default_rng(0).permutation(manifest.good())
    truth = manifest["label"][rows]
    scores = np.full((60, 3), 0.1, dtype=np.float32)
    scores[np.arange(60), truth] = 0.8
    wrong = int(np.flatnonzero(truth == 2)[3])
    scores[wrong] = (0.9, 0.05, 0.05)
    result = measure(Fixed(scores), Pictures(manifest, tiny_run.preprocessing()), rows, "test")
    assert result.accuracy == pytest.approx(59 / 60)
    assert [(each.path, each.label, each.predicted) for each in result.mistakes] == [
        (str(manifest["path"][rows[wrong]]), "c", "a")
    ]
    assert np.array(result.confusion).tolist() == [[20, 0, 0], [0, 20, 0], [1, 0, 19]]


def test_a_class_without_pictures_does_not_lower_the_mean(tiny_data, tiny_run):
    manifest = scan(tiny_data)
    rows = manifest.good()[manifest["label"][manifest.good()] < 2]
    scores = np.eye(3, dtype=np.float32)[manifest["label"][rows]]
    result = measure(Fixed(scores), Pictures(manifest, tiny_run.preprocessing()), rows, "test")
    assert result.macro_f1 == 1.0 and result.classes[2].samples == 0


def test_the_best_weights_are_those_evaluated(tiny_run):
    from fromzero.predicting import open_classifier

    best = load_file(tiny_run.best / "model.safetensors")
    loaded = open_classifier(tiny_run.path).module.model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in best.items())
