"""The head sees the same features, cached or not; whatever is random before it forbids the cache."""

import pytest
import timm
import torch

from fromzero.errors import UsageError
from fromzero.models.adapt import adapt, freeze, train_mode
from fromzero.models.build import build
from fromzero.models.frozen import features_of, frozen_head, weights_digest
from fromzero.records import Recipe
from fromzero.step import make_optimizer


def frozen(name, **words):
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **words)
    freeze(model, "backbone")
    return model


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0", "vit_tiny_patch16_224"])
def test_the_head_of_the_features_is_the_model(name):
    model = frozen(name)
    head = frozen_head(model)
    inputs = torch.randn(2, 3, 224, 224)
    train_mode(model)
    with torch.no_grad():
        whole = model(inputs)
        assert torch.allclose(head(features_of(model, head, inputs)), whole, atol=1e-5)
    assert not head._forward_pre_hooks


def test_what_is_random_before_the_head_forbids_it():
    assert frozen_head(frozen("resnet18", drop_rate=0.2)) is None
    assert frozen_head(frozen("vit_tiny_patch16_224", drop_path_rate=0.1)) is None
    assert frozen_head(timm.create_model("resnet18")) is None  # everything learns
    assert frozen_head(build("torchvision:efficientnet_b0", 3, 3, 64)) is None


def test_other_weights_are_another_backbone():
    one, other = frozen("resnet18"), frozen("resnet18")
    first = weights_digest(one, frozen_head(one))
    assert first == weights_digest(other, frozen_head(other))
    with torch.no_grad():
        frozen_head(other).weight.add_(1)
    assert first == weights_digest(other, frozen_head(other))
    with torch.no_grad():
        other.conv1.weight[0, 0, 0, 0] += 1
    assert first != weights_digest(other, frozen_head(other))


@pytest.mark.parametrize("what", ["none", "1-2", "gradual"])
def test_frozen_norms_keep_statistics_and_weights_while_the_rest_learns(what):
    torch.manual_seed(0)
    model = timm.create_model("resnet18", num_classes=5)
    recipe = Recipe(freeze_norms=True, freeze=what, lr=0.1)
    adapt(model, recipe)
    norms = [each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d)]
    before = [{name: each.clone() for name, each in norm.state_dict().items()} for norm in norms]
    convolution = model.layer4[1].conv2.weight.clone()
    optimizer = make_optimizer(model, recipe)
    train_mode(model)
    model(torch.randn(4, 3, 64, 64)).sum().backward()
    optimizer.step()
    for norm, old in zip(norms, before, strict=True):
        assert all(torch.equal(each, old[name]) for name, each in norm.state_dict().items())
    assert not torch.equal(model.layer4[1].conv2.weight, convolution)


def test_a_model_without_batch_norms_has_none_to_freeze():
    with pytest.raises(UsageError) as caught:
        adapt(timm.create_model("vit_tiny_patch16_224"), Recipe(freeze_norms=True))
    assert caught.value.code == "no_batch_norms"
