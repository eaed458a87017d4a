"""Any module traces: what a file shows as its inputs, models that read numbers while they are built, models with other
heads and other ways of calling them."""

import pytest
import torch

from fromzero.models.build import build, build_on_meta, usual_size
from fromzero.planning import plan

CARD = "RTX 3060 12 GB"
FILE = """
import torch
from dataclasses import dataclass
from torch import nn

class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)
    def forward(self, x): return self.layer(x)

class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.LSTM(16, 32, batch_first=True)
    def forward(self, x): return self.layer(x)

@dataclass
class Found:
    boxes: torch.Tensor
    scores: torch.Tensor

class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.table = nn.Conv2d(3, 8, 1), nn.Embedding(10, 8)
    def forward(self, image, ids):
        features = self.layer(image).mean((2, 3)) + self.table(ids)
        return Found(features, features.amax(1))

def dense(): return Dense()
def shown(): return Dense(), torch.randn(2, 3, 64, 48)
def recurrent(): return Recurrent(), (torch.randn(2, 10, 16),)
def detector(): return Detector(), {"image": torch.randn(4, 3, 32, 32), "ids": torch.zeros(4, dtype=torch.long)}
def classifier(classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
def reads(classes):
    width = int(torch.linspace(3, 9, 4)[1].item())
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))
def old():
    class Old(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.FloatTensor(3, 8))
        def forward(self, x): return x.mean((2, 3)) @ self.weight
    return Old()
"""


@pytest.fixture
def own_file(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(FILE, encoding="utf-8")
    return path


@pytest.mark.parametrize("purpose", ["train", "infer"])
@pytest.mark.parametrize("name", ["dense", "shown", "recurrent", "detector", "classifier", "reads", "old"])
def test_any_module_of_a_file(own_file, name, purpose):
    made = plan(f"{own_file}:{name}", card=CARD, batch=16, imgsz=32, purpose=purpose, precision="amp-fp16")
    assert made.workload.task == "custom"
    assert made.memory.parts["activations"] > 0 and made.time.step > 0


def test_the_batch_is_the_first_dimension_of_what_is_shown(own_file):
    one, other = (plan(f"{own_file}:shown", card=CARD, batch=n).memory.parts["activations"] for n in (16, 32))
    assert other - one >= 16 * 3 * 64 * 48 * 4  # at least the inputs


def test_a_file_gives_inputs_for_a_batch_and_its_loss(tmp_path):
    (tmp_path / "m.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = torch.nn.Linear(64, 64)\n"
        "    def forward(self, x): return {'code': self.layer(x), 'count': 3}\n"
        "def example_inputs(batch): return torch.randn(batch, 64)\n"
        "def loss(outputs, inputs): return ((outputs['code'] - inputs) ** 2).mean()\n"
    )
    made = plan(f"{tmp_path / 'm.py'}:Net", card=CARD, batch=8)
    assert made.memory.parts["weights"] >= 4 * (64 * 64 + 64)


def test_models_that_read_numbers_come_out_as_they_are(own_file):
    for name in (f"{own_file}:reads", "torchvision:regnet_x_400mf"):
        made, real = build_on_meta(name, 10, 3, 32), build(name, 10, 3, 32)
        assert str(made) == str(real)
        assert all(each.is_meta for each in made.state_dict().values())


def test_parameters_of_old_constructors_lose_their_numbers_too(own_file):
    assert build_on_meta(f"{own_file}:old", 10, 3, 32).weight.is_meta


@pytest.mark.parametrize("name, size", [("resnet18", 224), ("halonet26t", 256), ("crossvit_9_240", 240), ("cnn", 224)])
def test_pictures_are_of_a_size_the_model_takes(name, size):
    assert usual_size(name) == size


def test_an_encoder_of_pictures_gets_a_classifier():
    made = build_on_meta("qwen3_vit_88m_enc", 5, 3, 768)
    assert made.eval()(torch.empty(1, 3, 768, 768, device="meta")).shape == (1, 5)
