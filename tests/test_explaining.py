"""Explanations find what was planted, by every method, and change when the model forgets what it learnt."""

import copy
import json

import numpy as np
import pytest

from fromzero.data.inputs import prepared
from fromzero.explaining import hidden_columns, hidden_words, occlusion, scaled
from fromzero.explaining.hiding import columns_of, words_of
from fromzero.records import Columns, Preprocessing, Tokens

torch = pytest.importorskip("torch")
pytest.importorskip("captum")

from fromzero.explaining import gradients  # noqa: E402
from fromzero.models.cnn import Cnn  # noqa: E402
from fromzero.models.deploy import Deployed, Normalise  # noqa: E402
from fromzero.models.tabular import FtTransformer, Mlp, TableRnn  # noqa: E402
from fromzero.models.transformer import Transformer  # noqa: E402
from fromzero.runtimes.torch_runtime import TorchClassifier  # noqa: E402

SIZE, SQUARE = 64, 12


def learnt(model, entry, inputs, labels, steps, rate=2e-3, batch=32):
    """`model` after `steps` of Adam; inputs as they are loaded."""
    optimizer, draw = torch.optim.AdamW(model.parameters(), rate), torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        rows = torch.randint(len(inputs), (batch,), generator=draw)
        loss = torch.nn.functional.cross_entropy(model(entry(inputs[rows])), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def randomised(classifier, seed):
    """The same network with weights that never learnt."""
    other = copy.deepcopy(classifier)
    torch.manual_seed(seed)
    for each in other.module.model.modules():
        if hasattr(each, "reset_parameters"):
            each.reset_parameters()
    return other


def correlation(one, other):
    """Spearman's, of all cells."""
    ranks = [np.argsort(np.argsort(each.ravel())).astype(float) for each in (one, other)]
    return np.corrcoef(*ranks)[0, 1]


# --- pictures: the colour of a square decides, another square does not ------------------------------------------------


def squares(count, seed):
    """Noise uint8 (count, SIZE, SIZE, 3); in the left or the right half a red square in every second picture and a
    green one in the others, in the other half a blue one. And where the first is (row, column)."""
    rng = np.random.default_rng(seed)
    pictures = rng.integers(0, 120, (count, SIZE, SIZE, 3), dtype=np.uint8)
    half = SIZE // 2
    places = rng.integers(0, (SIZE - SQUARE, half - SQUARE), (count, 2))
    others = rng.integers(0, (SIZE - SQUARE, half - SQUARE), (count, 2))
    for number, (picture, place, other) in enumerate(zip(pictures, places, others, strict=True)):
        (place if rng.random() < 0.5 else other)[1] += half
        for (row, column), colour in ((place, number % 2), (other, 2)):
            picture[row : row + SQUARE, column : column + SQUARE] = np.where(np.arange(3) == colour, 250, 20)
    return pictures, places


@pytest.fixture(scope="module")
def sees():
    """A convolutional network that tells red from green, and has seen blue in both."""
    torch.manual_seed(0)
    how = Preprocessing(size=SIZE, channels=3, crop=1.0, mean=(0.25,) * 3, std=(0.2,) * 3)
    pictures, _ = squares(256, 1)
    labels = torch.tensor([1, 0] * 128)
    entry = Normalise(how)
    model = learnt(Cnn(2, channels=3, width=8), entry, torch.tensor(pictures), labels, 60, batch=16)
    return TorchClassifier("cnn", ("green", "red"), how, Deployed(model, entry).eval())


def inside(heat, place):
    """Whether the hottest spot of a heat map lies in the square, or a cell beside it."""
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    cell = SIZE / heat.shape[0]
    spot = (np.array([row, column]) + 0.5) * cell
    return bool((spot > place - cell).all() and (spot < place + SQUARE + cell).all())


HEAT = {
    "occlusion": occlusion,
    "grad-cam": gradients.grad_cam,
    "integrated-gradients": gradients.integrated_pixels,
}


@pytest.mark.parametrize("method", HEAT)
def test_the_square_is_found(sees, method):
    pictures, places = squares(24, 2)
    assert (sees.scores(pictures).argmax(1) == np.tile([1, 0], 12)).mean() > 0.9
    found = [inside(HEAT[method](sees, each, 1), place) for each, place in zip(pictures[::2], places[::2], strict=True)]
    assert sum(found) >= 10, found  # a fifth would be hit by chance


@pytest.mark.parametrize("method", HEAT)
def test_heat_maps_depend_on_what_was_learnt(sees, method):
    """Adebayo et al. 2018: an explanation that survives random weights explains the picture, not the model."""
    pictures, places = squares(8, 3)
    alike, found = [], []
    for seed in range(3):
        forgot = randomised(sees, seed)
        for picture, place in zip(pictures[::2], places[::2], strict=True):
            learnt_map, random_map = (HEAT[method](each, picture, 1) for each in (sees, forgot))
            alike.append(correlation(learnt_map, random_map))
            found.append(inside(random_map, place))
    assert np.nanmean(alike) < 0.6, alike
    assert sum(found) <= 8, found  # of 12; the learnt model's are nearly all


def test_occlusion_is_a_drop_of_probability(sees):
    picture = squares(2, 4)[0][0]
    heat = occlusion(sees, picture, 1, grid=5)
    assert heat.shape == (5, 5) and heat.dtype == np.float32
    assert heat.min() >= 0 and 0.3 < heat.max() <= 1
    assert scaled(heat).max() == 1 and scaled(np.zeros((2, 2), np.float32)).max() == 0


def test_integrated_gradients_add_up(sees):
    picture = squares(2, 5)[0][0]
    mean = np.full_like(picture, round(255 * 0.25))
    before, after = (np.log(sees.scores(each[None])[0, 1]) for each in (mean, picture))
    assert gradients.integrated_pixels(sees, picture, 1).sum() == pytest.approx(after - before, abs=0.35)


MAPS = {
    "resnet18": True,
    "mobilenetv3_small_050": True,
    "convnext_atto": True,
    "vit_tiny_patch16_224": False,
    "swin_tiny_patch4_window7_224": False,
}


@pytest.mark.parametrize(("name", "has"), MAPS.items())
def test_the_last_feature_map_is_chosen(name, has):
    timm = pytest.importorskip("timm")
    size = {"img_size": 64} if name.startswith(("vit", "swin")) else {}
    model = timm.create_model(name, num_classes=3, **size).eval()
    shapes = {}
    layer = gradients.feature_map(model, torch.zeros(1, 3, 64 if size else 96, 64 if size else 96))
    assert (layer is not None) == has
    if layer is not None:
        layer.register_forward_hook(lambda module, given, out: shapes.update(out=tuple(out.shape)))
        model(torch.zeros(1, 3, 96, 96))
        assert min(shapes["out"][2:]) >= gradients.LEAST_SIDE


# --- texts: one word decides ----------------------------------------------------------------------------------------

FILLING = "the cat sat on a red mat near big old door with its small friend and some milk today".split()
CHINESE = "今天天气我们一起去公园看书吃饭散步聊天然后回家休息"


def sentences(count, seed):
    """Words in any order, in every second text one that decides."""
    rng = np.random.default_rng(seed)
    texts = []
    for number in range(count):
        words = list(rng.choice(FILLING, 9))
        words += list(rng.choice(list(CHINESE), 5))
        words.insert(int(rng.integers(0, 14)), ("excellent" if number % 4 else "极好") if number % 2 == 0 else "plain")
        texts.append(" ".join(words))
    return texts


@pytest.fixture(scope="module")
def reads():
    from fromzero.data.tokens import opened, train_tokenizer

    torch.manual_seed(0)
    texts = sentences(300, 1)
    tokenizer = train_tokenizer(texts, 400)
    how = Tokens(length=24, vocabulary=opened(tokenizer).get_vocab_size(), padding=0, tokenizer=tokenizer)
    inputs = torch.tensor(np.stack([prepared(each, how) for each in texts]))
    entry = torch.nn.Identity()
    model = learnt(Transformer(2, how.vocabulary, width=32, layers=1), entry, inputs, torch.tensor([1, 0] * 150), 80)
    return TorchClassifier("transformer", ("no", "yes"), how, Deployed(model, entry).eval(), "text")


WORDS = {"occlusion": hidden_words, "integrated-gradients": gradients.integrated_words}


@pytest.mark.parametrize("method", WORDS)
def test_the_word_is_found(reads, method):
    hits = []
    for text in sentences(24, 2)[::2]:
        words = words_of(text, reads.preprocessing)
        effects = WORDS[method](reads, prepared(text, reads.preprocessing), 1, words)
        assert effects.shape == (len(words),)
        best = words[int(effects.argmax())]
        hits.append(text[best.start : best.end] in ("excellent", "极好"))
    assert sum(hits) >= 11, hits


@pytest.mark.parametrize("method", WORDS)
def test_words_depend_on_what_was_learnt(reads, method):
    forgot, alike = randomised(reads, 11), []
    for text in sentences(24, 3)[::2]:
        words, tokens = words_of(text, reads.preprocessing), prepared(text, reads.preprocessing)
        alike.append(correlation(*(WORDS[method](each, tokens, 1, words) for each in (reads, forgot))))
    assert abs(np.mean(alike)) < 0.5


def test_words_are_those_of_the_text(reads):
    text = "Excellent!  The CAT，今天天气 x"
    words = words_of(text, reads.preprocessing)
    assert [text[each.start : each.end] for each in words][:5] == ["Excellent", "!", "The", "CAT", "，"]
    taken = [place for each in words for place in each.tokens]
    assert sorted(taken) == sorted(set(taken))


# --- tables: one column decides -------------------------------------------------------------------------------------

HOW = Columns(
    numbers=(("age", 0.0, 1.0), ("income", 0.0, 1.0), ("debt", 0.0, 1.0)),
    flagged=("income",),
    words=(("city", ("a", "b", "c")), ("job", ("x", "y"))),
)


def rows(count, deciding, seed):
    """Inputs float32 (count, 6) by HOW and the class that the column `deciding` decides."""
    rng = np.random.default_rng(seed)
    inputs = np.concatenate([rng.normal(size=(count, 3)), np.zeros((count, 1)), rng.integers(1, 4, (count, 1)),
                             rng.integers(1, 3, (count, 1))], 1).astype(np.float32)  # fmt: skip
    labels = inputs[:, 2] > 0 if deciding == "debt" else inputs[:, 5] == 1
    return inputs, labels.astype(np.int64)


MODELS = {
    "mlp": lambda: Mlp(2, 4, (3, 2), width=32),
    "transformer": lambda: FtTransformer(2, 4, (3, 2), width=16, layers=1),
    "recurrent": lambda: TableRnn(2, 4, (3, 2), width=16),
}
COLUMNS = {"occlusion": hidden_columns, "integrated-gradients": gradients.integrated_columns}


@pytest.mark.parametrize("deciding", ["debt", "job"])
@pytest.mark.parametrize("model", MODELS)
def test_the_column_is_found_and_depends_on_what_was_learnt(model, deciding):
    torch.manual_seed(0)
    entry = torch.nn.Identity()
    inputs, labels = rows(400, deciding, 1)
    network = learnt(MODELS[model](), entry, torch.tensor(inputs), torch.tensor(labels), 120, rate=1e-2)
    knows = TorchClassifier(model, ("no", "yes"), HOW, Deployed(network, entry).eval(), "table")
    forgot = [randomised(knows, seed) for seed in range(3)]
    names = [name for name, _ in columns_of(HOW)]
    tried, classes = rows(12, deciding, 2)
    for method, effects in COLUMNS.items():
        found = [effects(knows, row, int(label)) for row, label in zip(tried, classes, strict=True)]
        assert [names[int(np.abs(each).argmax())] for each in found].count(deciding) >= 10, (method, found)
        without = [
            [effects(each, row, int(label)) for row, label in zip(tried, classes, strict=True)] for each in forgot
        ]
        assert np.mean([correlation(np.array(found), np.array(each)) for each in without]) < 0.6, method


def test_a_window_is_explained_by_its_columns():
    torch.manual_seed(0)
    how = Columns(numbers=HOW.numbers, flagged=(), words=HOW.words, window=4, group="who", time="when")
    model = TableRnn(2, 4, (3, 2), window=4, width=16)
    classifier = TorchClassifier("rnn", ("no", "yes"), how, Deployed(model, torch.nn.Identity()).eval(), "table")
    given = [{"age": 1, "debt": 2, "city": "a", "job": "x"}, {"age": -1, "income": 1, "city": "b"}]
    sample = prepared(given, how)
    for effects in COLUMNS.values():
        assert effects(classifier, sample, 0).shape == (5,)


# --- the command ----------------------------------------------------------------------------------------------------


def told(capsys, *words):
    from fromzero.cli import main

    status = main(["explain", *map(str, words), "--json"])
    return status, json.loads(capsys.readouterr().out or "{}")


def test_a_run_and_an_artifact_are_explained(tiny_run, tiny_artifact, tiny_data, tmp_path, capsys):
    from PIL import Image

    picture = next(tiny_data.rglob("*.png"))
    for model, method, expected in (
        (tiny_run.path, "auto", "grad-cam"),
        (tiny_run.path, "integrated-gradients", "integrated-gradients"),
        (tiny_artifact, "auto", "occlusion"),
    ):
        file = tmp_path / f"{method}.png"
        status, found = told(capsys, model, picture, "--method", method, "--label", "猫", "-o", file)
        assert (status, found["method"], found["label"]) == (0, expected, "猫")
        heat = np.array(found["heat"])
        assert heat.ndim == 2 and heat.min() >= 0 and heat.max() <= 1
        assert Image.open(file).width > 600


def test_what_cannot_be_explained_so_says_why(tiny_artifact, tiny_data, tmp_path, capsys):
    from PIL import Image

    from fromzero.cli import main

    picture = str(next(tiny_data.rglob("*.png")))
    for words, code in (
        (["--method", "grad-cam"], "method_needs_run"),
        (["--label", "狗"], "unknown_label"),
        (["-o", str(tmp_path / "a.txt")], "explained_kind"),
        (["-o", picture], "explained_itself"),
    ):
        assert main(["explain", str(tiny_artifact), picture, *words]) == 2
        assert code in capsys.readouterr().err
    Image.open(picture).verify()  # it is as it was


def test_occlusion_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, fromzero.explaining, fromzero.predicting; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
