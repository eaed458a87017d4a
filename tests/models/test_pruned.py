"""A pruned network is rebuilt from the file that says what was taken from which network."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from fromzero.errors import UsageError
from fromzero.models.adapt import adapt
from fromzero.models.build import build, build_on_meta, family_of, task_of
from fromzero.planning import plan
from fromzero.records import Recipe
from fromzero.shrink import NothingToGain
from fromzero.shrink.structured import cut


def started(model):
    """With norms and shortcuts that carry something: several networks start their last norm at 0."""
    torch.manual_seed(0)
    for each in model.modules():
        if isinstance(each, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(each.weight, 0.5, 1.5)
            torch.nn.init.normal_(each.bias)
            torch.nn.init.uniform_(each.running_var, 0.5, 1.5)
    return model.eval()


def written(path, model, history, **more):
    path.write_text(json.dumps({"model": model, "blocks": "all", "head": "linear", "history": history} | more))
    return f"pruned:{path}"


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "cnn"])
def test_the_same_shapes_and_the_same_answers_come_back(name, tmp_path):
    model = started(build(name, 5, 1, 32))
    whole = sum(each.numel() for each in model.parameters())
    model, history = cut(model, torch.zeros(1, 1, 32, 32), 0.5)
    again = build(written(tmp_path / "structure.json", name, history), 5, 1, 32)
    again.load_state_dict(model.state_dict())
    given = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        one, other = model.eval()(given), again.eval()(given)
    assert torch.equal(one, other)
    assert one.std(dim=0).min() > 0, "pictures that all get the same answer would show nothing"
    assert sum(each.numel() for each in again.parameters()) < 0.6 * whole


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "transformer"])
def test_of_a_transformer_the_hidden_layers_are_thinned_out(name, tmp_path):
    sizes = (5, 1, 32) if name != "transformer" else (5, 24, 0)
    given = torch.rand(3, 1, 32, 32) if name != "transformer" else torch.randint(0, 256, (3, 24))
    torch.manual_seed(0)
    whole = build(name, *sizes).eval()
    model, history = cut(whole, given[:1], 0.5)
    again = build(written(tmp_path / "structure.json", name, history), *sizes).eval()
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model(given), again(given))
        assert not torch.equal(model(given), whole(given))
    parameters = [sum(each.numel() for each in one.parameters()) for one in (model, whole)]
    assert parameters[0] < 0.9 * parameters[1]  # tokens and attention stay


def test_a_network_that_counts_on_its_widths_is_not_pruned():
    with pytest.raises(NothingToGain, match="not_prunable"):
        cut(build("torchvision:shufflenet_v2_x0_5", 5, 1, 32), torch.zeros(1, 1, 32, 32), 0.5)


def test_other_classes_and_no_numbers(tmp_path):
    model = started(build("cnn", 5, 1, 32))
    name = written(tmp_path / "structure.json", "cnn", cut(model, torch.zeros(1, 1, 32, 32), 0.5)[1])
    assert build(name, 7, 3, 24)(torch.zeros(2, 3, 24, 24)).shape == (2, 7)
    assert next(build_on_meta(name, 7, 3, 24).parameters()).is_meta
    assert task_of(name) == "image" and family_of(name).normalisation(name) is None


def test_a_plan_sees_the_smaller_network(tmp_path):
    model = started(build("cnn", 5, 1, 32))
    name = written(tmp_path / "structure.json", "cnn", cut(model, torch.zeros(1, 1, 32, 32), 0.5)[1])
    words = {"card": "RTX 3060 12 GB", "imgsz": 32, "channels": 1, "classes": 5, "batch": 64}
    whole, less = plan("cnn", **words), plan(name, **words)
    assert less.memory.parts["weights"] < 0.6 * whole.memory.parts["weights"]


def test_the_head_that_a_recipe_had_made_is_what_was_pruned(tmp_path):
    model = build("cnn", 5, 1, 32)
    adapt(model, Recipe(head="mlp"))
    started(model)
    model, history = cut(model, torch.zeros(1, 1, 32, 32), 0.25)
    again = build(written(tmp_path / "s.json", "cnn", history, head="mlp"), 5, 1, 32)
    again.load_state_dict(model.state_dict())


def test_missing_and_damaged_files_are_said(tmp_path):
    with pytest.raises(UsageError) as missing:
        task_of(f"pruned:{tmp_path / 'nothing.json'}")
    assert missing.value.code == "structure_missing"
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(UsageError) as damaged:
        task_of(f"pruned:{tmp_path / 'list.json'}")
    assert damaged.value.code == "structure_damaged"


def test_a_run_keeps_its_own_copy_and_can_be_moved(tiny_run, tmp_path):
    from fromzero.predicting import open_classifier
    from fromzero.runs import Run
    from fromzero.shrink import Source, way

    made = tmp_path / "made" / "run"
    made.parent.mkdir()
    source = Source(tiny_run.path, tiny_run.path, tmp_path, 1)
    way("structured").make(source, "0.5", made, None)
    assert sorted(each.name for each in made.parent.iterdir()) == ["run"]
    moved = shutil.move(made, tmp_path / "elsewhere")
    assert Run(moved).plan().workload.model == f"pruned:{moved / 'cnn-pruned.json'}"
    noise = torch.randint(0, 255, (4, 24, 24, 3), dtype=torch.uint8).numpy()
    assert open_classifier(moved).scores(noise).shape == (4, 3)

    twice = tmp_path / "twice"  # what was pruned is pruned further
    way("structured").make(Source(moved, moved, tmp_path, 1), "0.5", twice, None)
    sizes = [sum(each.numel() for each in open_classifier(path).module.parameters()) for path in (moved, twice)]
    assert sizes[1] < 0.6 * sizes[0]
