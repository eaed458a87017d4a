"""The head sees the same features, cached or not; whatever is random before it forbids the cache."""

import pytest
import timm
import torch

from fromzero.models.adapt import freeze, train_mode
from fromzero.models.build import build
from fromzero.models.frozen import features_of, frozen_head, weights_digest


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
