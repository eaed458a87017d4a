"""Names become modules of the right shape, trained weights come from where they were said to, unknown names are
errors with near matches."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fromzero.errors import DataError, SourceError, UnknownName, UsageError
from fromzero.models import weights
from fromzero.models.adapt import freeze
from fromzero.models.build import build, family_of, names
from fromzero.models.deploy import Deployed, Normalise
from fromzero.models.weights import load_pretrained
from fromzero.records import Preprocessing
from fromzero.terminal import Console


class Heard(Console):
    def __init__(self):
        self.lines = []

    def line(self, text):
        self.lines.append(text)


def logits(name, classes, channels, size, batch=2):
    torch.manual_seed(0)
    model = build(name, classes, channels, size).eval()
    with torch.no_grad():
        return model(torch.rand(batch, channels, size, size))


# --- building -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 9, 28, 65])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_cnn_at_any_size(size, channels):
    assert logits("cnn", 7, channels, size).shape == (2, 7)


def test_cnn_takes_pictures_that_are_not_square():
    assert build("cnn", 3, 1, 28).eval()(torch.rand(1, 1, 20, 50)).shape == (1, 3)


@pytest.mark.parametrize(
    "name, channels, size",
    [
        ("torchvision:squeezenet1_1", 1, 64),
        ("torchvision:vit_b_16", 3, 32),
        ("mobilenetv3_small_050", 1, 32),
        ("resnet10t.c3_in1k", 3, 32),
        ("vit_tiny_patch16_224", 1, 64),
    ],
)
def test_families(name, channels, size):
    assert logits(name, 5, channels, size).shape == (2, 5)


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "my 模型.py"
    path.write_text(
        "import torch\n"
        "def plain(): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(4))\n"
        "def asked(size, classes): return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(size**2, classes))\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self, classes, channels=3):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Conv2d(channels, classes, 1)\n"
        "    def forward(self, x): return self.layer(x).mean((2, 3))\n"
        "def wrong(): return 'no module'\n"
        "number = 3\n",
        encoding="utf-8",
    )
    return path


@pytest.mark.parametrize("function, classes", [("plain", 4), ("asked", 6), ("Net", 6)])
def test_a_function_of_a_file(own_file, function, classes):
    assert logits(f"{own_file}:{function}", 6, 1, 12).shape == (2, classes)


def test_a_file_called_wrongly(own_file):
    with pytest.raises(UnknownName) as caught:
        build(f"{own_file}:askd", 6, 1, 12)
    assert "asked" in caught.value.near
    with pytest.raises(UnknownName):
        build(f"{own_file}:number", 6, 1, 12)
    for name, code in ((f"{own_file}:wrong", "model_file_no_module"), ("nowhere.py:f", "model_file_missing")):
        with pytest.raises(UsageError) as caught:
            build(name, 6, 1, 12)
        assert caught.value.code == code


def test_the_line_is_found_by_a_relative_path_too(tmp_path, monkeypatch):
    (tmp_path / "m.py").write_text("def f(classes):\n    raise ValueError('no')\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        build("m.py:f", 6, 1, 12)
    assert caught.value.values["line"] == 2


@pytest.mark.parametrize(
    "content, line",
    [
        ("import torch\nimport nothing_there\n", 2),
        ("def f(:\n", 1),
        ("def g(classes):\n    raise ValueError('no')\ndef f(classes):\n    return g(classes)\n", 2),
        ("def f(something):\n    pass\n", "?"),
    ],
)
def test_a_file_that_fails_is_one_sentence_with_its_line(tmp_path, content, line):
    (tmp_path / "m.py").write_text(content)
    with pytest.raises(UsageError) as caught:
        build(f"{tmp_path / 'm.py'}:f", 6, 1, 12)
    assert caught.value.code == "model_file_failed" and caught.value.values["line"] == line


@pytest.mark.parametrize(
    "name, near",
    [
        ("restnet50", "resnet50"),
        ("CNN", "cnn"),
        ("torchvision:resnet5", "torchvision:resnet50"),
        ("torchvision:cnn", None),
        ("resnet18.a1_in2k", "resnet18"),
        ("", None),
    ],
)
def test_unknown_names_give_near_ones(name, near):
    with pytest.raises(UnknownName) as caught:
        family_of(name)
    assert caught.value.status == 2
    assert near is None or near in caught.value.near
    assert all(each.startswith("torchvision:") for each in caught.value.near if name.startswith("torchvision:"))


def test_every_name_listed_finds_its_family():
    listed = names()
    assert len(listed) == len(set(listed)) > 500
    for name in ("cnn", "resnet50", "torchvision:resnet50"):
        assert name in listed
    for name in listed[:: len(listed) // 100]:
        assert name in family_of(name).names()


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0.in1k", "torchvision:resnet18"])
def test_published_weights_say_how_they_were_trained(name):
    published = family_of(name).normalisation(name)
    assert len(published["mean"]) == len(published["std"]) == 3
    assert 0 < published["crop"] <= 1 and published["size"] >= 128


# --- freezing -----------------------------------------------------------------------------------------------------


def trainable(model):
    return {name for name, each in model.named_parameters() if each.requires_grad}


@pytest.mark.parametrize(
    "name, head",
    [
        ("cnn", {"head.weight", "head.bias"}),
        ("torchvision:resnet18", {"fc.weight", "fc.bias"}),
        ("torchvision:squeezenet1_1", {"classifier.1.weight", "classifier.1.bias"}),
        ("mobilenetv3_small_050", {"classifier.weight", "classifier.bias"}),
        (
            "deit_tiny_distilled_patch16_224",
            {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"},
        ),
    ],
)
def test_a_frozen_backbone_leaves_the_classifier(name, head):
    with torch.device("meta"):
        model = build(name, 3, 3, 224)
    everything = trainable(model)
    freeze(model, "none")
    assert trainable(model) == everything
    freeze(model, "backbone")
    assert trainable(model) == head


def test_what_is_frozen_does_not_learn():
    model = build("cnn", 3, 1, 16)
    freeze(model, "backbone")
    before = {name: each.clone() for name, each in model.named_parameters()}
    optimizer = torch.optim.SGD([each for each in model.parameters() if each.requires_grad], 0.1)
    model(torch.rand(4, 1, 16, 16)).square().sum().backward()
    optimizer.step()
    changed = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    assert changed == {"head.weight", "head.bias"}


def test_one_layer_is_not_frozen():
    with pytest.raises(UsageError) as caught:
        freeze(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), "backbone")
    assert caught.value.code == "nothing_to_freeze"


# --- deploying ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mean, std", [((0.286,), (0.353,)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))])
def test_normalise_is_its_formula(mean, std):
    how = Preprocessing(size=8, channels=len(mean), crop=1.0, mean=mean, std=std)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, len(mean)), dtype=np.uint8)
    seen = Normalise(how)(torch.from_numpy(pixels))
    wanted = ((pixels / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    assert seen.dtype == torch.float32 and seen.shape == wanted.shape and seen.is_contiguous()
    assert np.abs(seen.numpy() - wanted).max() < 1e-5


def test_a_deployed_model_gives_probabilities():
    how = Preprocessing(size=16, channels=3, crop=1.0, mean=(0.5,) * 3, std=(0.2,) * 3)
    model = build("cnn", 4, 3, 16).eval()
    pixels = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    with torch.no_grad():
        scores = Deployed(model, Normalise(how)).eval()(pixels)
        wanted = torch.softmax(model(Normalise(how)(pixels)), dim=-1)
    assert torch.allclose(scores.sum(dim=1), torch.ones(3)) and torch.equal(scores, wanted)


# --- trained weights ----------------------------------------------------------------------------------------------


def equal(model, state, but=()):
    return all(torch.equal(each, state[name]) for name, each in model.state_dict().items() if name not in but)


@pytest.fixture
def trained():
    """The tensors of a cnn for 10 classes."""
    torch.manual_seed(1)
    return build("cnn", 10, 3, 16).state_dict()


@pytest.fixture
def no_weights_here(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMZERO_WEIGHTS", str(tmp_path / "weights"))
    (tmp_path / "weights").mkdir()
    return tmp_path / "weights"


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
def test_from_a_file(tmp_path, trained, wrapped):
    files = [tmp_path / "重量.pth"] if wrapped else [tmp_path / "w.safetensors", tmp_path / "w.pth"]
    for path in files:
        if path.suffix == ".safetensors":
            save_file(trained, path)
        else:
            torch.save({wrapped: trained, "epoch": 3} if wrapped else trained, path)
        model = build("cnn", 10, 3, 16)
        assert load_pretrained(model, "cnn", str(path)) == str(path)
        assert equal(model, trained)


def test_a_head_for_other_classes_starts_small(tmp_path, trained):
    save_file(trained, tmp_path / "w.safetensors")
    model = build("cnn", 3, 3, 16)
    torch.nn.init.uniform_(model.head.weight, -5, 5)  # as some authors start theirs
    load_pretrained(model, "cnn", str(tmp_path / "w.safetensors"))
    head = {name: model.state_dict()[name] for name in ("head.weight", "head.bias")}
    assert equal(model, {**trained, **head})
    assert 0 < head["head.weight"].abs().max() <= model.head.in_features**-0.5


def test_tensors_in_the_same_order_under_other_names(tmp_path, trained):
    torch.save({f"w{number}": each for number, each in enumerate(trained.values())}, tmp_path / "w.pth")
    model = build("cnn", 10, 3, 16)
    load_pretrained(model, "cnn", str(tmp_path / "w.pth"))
    assert equal(model, trained)


def test_tensors_in_another_order_are_not_poured_in(tmp_path, trained):
    torch.save({f"w{number}": each for number, each in enumerate(reversed(trained.values()))}, tmp_path / "w.pth")
    with pytest.raises(DataError):
        load_pretrained(build("cnn", 10, 3, 16), "cnn", str(tmp_path / "w.pth"))


def test_weights_of_another_model_are_refused(tmp_path, trained):
    save_file(trained, tmp_path / "w.safetensors")
    model = build("mobilenetv3_small_050", 10, 3, 32)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with pytest.raises(DataError) as caught:
        load_pretrained(model, "mobilenetv3_small_050", str(tmp_path / "w.safetensors"))
    assert caught.value.code == "weights_do_not_fit"
    assert equal(model, before)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"<html>not found</html>"], ids=["empty", "zeros", "page"])
def test_a_damaged_file_is_one_sentence(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        load_pretrained(build("cnn", 3, 3, 16), "cnn", str(tmp_path / name))
    assert caught.value.code == "weights_unreadable"


def test_a_file_that_would_run_code_is_refused(tmp_path):
    torch.save({"weight": nn.Linear(2, 2)}, tmp_path / "w.pth")
    with pytest.raises(DataError) as caught:
        load_pretrained(build("cnn", 3, 3, 16), "cnn", str(tmp_path / "w.pth"))
    assert caught.value.code == "weights_unreadable"


def test_a_missing_file(tmp_path):
    with pytest.raises(UsageError) as caught:
        load_pretrained(build("cnn", 3, 3, 16), "cnn", str(tmp_path / "w.pth"))
    assert caught.value.code == "weights_missing"


def test_from_the_folder(no_weights_here, trained):
    save_file(trained, no_weights_here / "cnn.safetensors")
    model, heard = build("cnn", 10, 3, 16), Heard()
    source = load_pretrained(model, "cnn", "auto", heard)
    assert str(no_weights_here) in source and equal(model, trained)
    assert len(heard.lines) == 1 and str(no_weights_here) in heard.lines[0]


def test_a_name_with_a_colon_is_a_file_name_in_the_folder(no_weights_here):
    torch.manual_seed(1)
    state = build("torchvision:squeezenet1_1", 10, 3, 32).state_dict()
    save_file(state, no_weights_here / "torchvision-squeezenet1_1.safetensors")
    model = build("torchvision:squeezenet1_1", 10, 3, 32)
    load_pretrained(model, "torchvision:squeezenet1_1", "auto")
    assert equal(model, state)


def test_from_an_installed_package(no_weights_here, tmp_path, monkeypatch, trained):
    package = tmp_path / "site" / "carries_cnn_weights"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('a package of weights is read, never run')\n")
    torch.save({f"w{number}": each for number, each in enumerate(trained.values())}, package / "data" / "cnn.pth")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(weights.PACKAGES, "cnn", ("carries_cnn_weights", "*.pth"))
    model, heard = build("cnn", 10, 3, 16), Heard()
    load_pretrained(model, "cnn", "auto", heard)
    assert equal(model, trained)
    assert len(heard.lines) == 2 and str(no_weights_here) in heard.lines[0]  # tried first, and said


@pytest.mark.parametrize("carried", ["absent", "empty"])
def test_nothing_found_names_every_attempt(no_weights_here, tmp_path, monkeypatch, carried):
    if carried == "empty":
        (tmp_path / "site" / "carries_cnn_weights").mkdir(parents=True)
        (tmp_path / "site" / "carries_cnn_weights" / "__init__.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setitem(weights.PACKAGES, "cnn", ("carries_cnn_weights", "*.pth"))
    model, heard = build("cnn", 10, 3, 16), Heard()
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with pytest.raises(SourceError) as caught:
        load_pretrained(model, "cnn", "auto", heard)
    folder, package, hub = caught.value.attempts
    assert str(no_weights_here) in folder and "cnn.safetensors" in folder
    assert "carries_cnn_weights" in package or "*.pth" in package
    assert hub and len(heard.lines) == 3
    assert equal(model, before)


def test_the_hub_is_tried_last_and_its_failure_said(no_weights_here, monkeypatch, tmp_path):
    """The suite keeps the hub's client offline: the attempt fails at once."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    name = "resnet10t.c3_in1k"
    with pytest.raises(SourceError) as caught:
        load_pretrained(build(name, 3, 3, 32), name, "auto")
    assert len(caught.value.attempts) == 3
    assert name in caught.value.cause
