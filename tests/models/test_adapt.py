"""Freezing, adapters, checkpointed blocks and quantised bases, on real modules."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
import transformers
from torch import nn

from fromzero.errors import UsageError
from fromzero.models.adapt import adapt, blocks, lora_targets, quantise
from fromzero.models.cnn import Cnn
from fromzero.planner.standins import Nf4Linear
from fromzero.records import Recipe


def tiny_gpt():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(n_embd=32, n_layer=3, n_head=2, vocab_size=50, n_positions=32)
    )


def tiny_llama():
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=50
    )
    return transformers.LlamaForCausalLM(config)


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda: timm.create_model("resnet18"), 8),
        (lambda: timm.create_model("vit_tiny_patch16_224"), 12),
        (lambda: timm.create_model("swin_tiny_patch4_window7_224"), 12),
        (lambda: timm.create_model("convnext_atto"), 12),
        (lambda: timm.create_model("efficientnet_lite0"), 16),
        (tiny_gpt, 3),
        (tiny_llama, 2),
        (lambda: timm.create_model("vgg11"), 0),
    ],
    ids=["resnet18", "vit", "swin", "convnext", "efficientnet", "gpt", "llama", "vgg"],
)
def test_the_repeated_blocks_of_a_network(make, count):
    assert len(blocks(make())) == count


def test_checkpointing_changes_no_gradient():
    torch.manual_seed(0)
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, patch_size=16)
    saved = copy.deepcopy(plain)
    adapt(saved, Recipe(checkpointing="2-5"))
    inputs = torch.randn(2, 3, 32, 32)
    for model in (plain, saved):
        model(inputs).square().sum().backward()
    for (name, one), other in zip(plain.named_parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)


def test_checkpointing_saves_what_it_does_not_keep():
    kept = {}
    for which in ("none", "blocks"):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=32, patch_size=16)
        adapt(model, Recipe(checkpointing=which))
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(torch.randn(2, 3, 32, 32))
        kept[which] = total
    assert kept["blocks"] < kept["none"] / 4


@pytest.mark.parametrize("which", ["0-2", "3-2", "1-13", "all", "-1"])
def test_a_wrong_range_of_blocks_is_said(which):
    with pytest.raises(UsageError) as caught:
        adapt(timm.create_model("vit_tiny_patch16_224"), Recipe(checkpointing=which))
    assert caught.value.code == "no_such_blocks"
    assert "1-12" in caught.value.fix


def test_a_network_without_blocks_cannot_checkpoint_them():
    with pytest.raises(UsageError) as caught:
        adapt(nn.Sequential(nn.Linear(2, 2)), Recipe(checkpointing="blocks"))
    assert caught.value.code == "no_blocks"


def test_lora_trains_adapters_and_a_new_head_only():
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5)
    adapt(model, Recipe(lora_rank=4))
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    assert all("lora_" in name or name.startswith("head.") for name in trained)
    assert sum("lora_A" in name for name in trained) == 12 * 4  # qkv, proj, fc1, fc2
    assert {"head.weight", "head.bias"} <= set(trained)


def test_lora_of_a_language_model_leaves_the_vocabulary_alone():
    model = tiny_llama()
    adapt(model, Recipe(lora_rank=2))
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert not any("lm_head" in name for name in trained)
    assert sum("lora_A" in name for name in trained) == 2 * 7


def test_targets_by_attention_and_by_name():
    assert len(lora_targets(tiny_llama(), "attention")) == 2 * 4
    assert len(lora_targets(tiny_llama(), "q_proj, v_proj")) == 2 * 2
    assert len(lora_targets(tiny_gpt(), "all-linear")) == 3 * 4
    assert len(lora_targets(Cnn(3), "all-linear")) == 5  # a network of convolutions: those
    with pytest.raises(UsageError) as caught:
        lora_targets(tiny_llama(), "nothing_like_it")
    assert "q_proj" in str(caught.value)


def test_only_frozen_linear_layers_are_quantised():
    with torch.device("meta"):
        model = tiny_llama()
    with pytest.raises(UsageError) as caught:
        quantise(model, Recipe(base_quantisation="nf4"))
    assert caught.value.code == "nothing_to_quantise"
    adapt(model, Recipe(lora_rank=2))
    quantise(model, Recipe(lora_rank=2, base_quantisation="nf4"))
    assert sum(isinstance(each, Nf4Linear) for each in model.modules()) == 2 * 7
    assert isinstance(model.lm_head, nn.Linear)


def test_gpt_2_s_own_linear_layers_are_quantised_too():
    with torch.device("meta"):
        model = tiny_gpt()
    adapt(model, Recipe(lora_rank=2))
    quantise(model, Recipe(lora_rank=2, base_quantisation="nf4"))
    assert sum(isinstance(each, Nf4Linear) for each in model.modules()) == 3 * 4
    assert model(torch.zeros((2, 8), dtype=torch.long, device="meta")).logits.shape == (2, 8, 50)


def test_dora_on_a_quantised_base_is_refused():
    with pytest.raises(UsageError) as caught:
        quantise(nn.Linear(2, 2), Recipe(lora_rank=2, dora=True, base_quantisation="nf4"))
    assert caught.value.code == "dora_not_quantised"
