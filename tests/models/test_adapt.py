"""Freezing, adapters, checkpointed blocks and quantised bases, on real modules."""

from __future__ import annotations

import copy
import itertools

import pytest
import timm
import torch
import transformers
from torch import nn

from fromzero import checkpoint
from fromzero.engine import packed, unpack
from fromzero.errors import UsageError
from fromzero.models.adapt import adapt, set_trainable
from fromzero.models.adapters import lora_targets, merge_adapters, quantise
from fromzero.models.cnn import Cnn
from fromzero.models.layers import MlpHead, blocks, heads
from fromzero.models.nf4 import Nf4Layer
from fromzero.models.rnn import Rnn
from fromzero.planner.standins import Nf4Linear
from fromzero.records import Recipe
from fromzero.step import make_optimizer


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


# --- what learns ----------------------------------------------------------------------------------------------------


def learning(model):
    return {name for name, each in model.named_parameters() if each.requires_grad}


def tiny_vit(classes=3):
    return timm.create_model("vit_tiny_patch16_224", num_classes=classes, img_size=32, patch_size=16)


def test_a_range_that_begins_at_one_freezes_what_comes_before_it_too():
    model = tiny_vit()
    adapt(model, Recipe(freeze="1-6"))
    left = learning(model)
    assert "pos_embed" not in left and "patch_embed.proj.weight" not in left
    assert not any(name.startswith(tuple(f"blocks.{n}." for n in range(6))) for name in left)
    assert {"blocks.6.mlp.fc1.weight", "norm.weight", "head.weight"} <= left


def test_a_range_further_up_freezes_that_alone():
    model = tiny_vit()
    every = learning(model)
    adapt(model, Recipe(freeze="3-4"))
    assert every - learning(model) == {n for n in every if n.startswith(("blocks.2.", "blocks.3."))}


def test_gradual_unfreezing_goes_from_the_head_down_and_is_done_by_half():
    model, recipe = tiny_vit(), Recipe(freeze="gradual")
    model.pos_embed.requires_grad_(False)  # fixed by its author
    every = learning(model)
    adapt(model, recipe)
    assert learning(model) == every  # what the planner plans for is the heaviest epoch
    optimizer = make_optimizer(model, recipe)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(every)
    seen = []
    for epoch in range(10):
        changed = set_trainable(model, recipe, epoch, 10)
        assert changed == (not seen or learning(model) != seen[-1])
        seen.append(learning(model))
    assert seen[0] == {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    assert all(before < after for before, after in itertools.pairwise(seen[:6]))
    assert all(each == every for each in seen[5:])
    assert "blocks.11.mlp.fc1.weight" in seen[1] and "blocks.0.mlp.fc1.weight" not in seen[4]


def test_gradual_unfreezing_is_a_function_of_the_epoch():
    one, other, recipe = tiny_vit(), tiny_vit(), Recipe(freeze="gradual")
    for epoch in range(4):
        set_trainable(one, recipe, epoch, 10)
    set_trainable(other, recipe, 3, 10)
    assert learning(one) == learning(other)


def test_a_run_of_one_epoch_learns_everything():
    model = tiny_vit()
    every = learning(model)
    set_trainable(model, Recipe(freeze="gradual"), 0, 1)
    assert learning(model) == every


def test_layers_are_thawed_where_there_are_no_blocks():
    model, recipe = Rnn(3, vocabulary=50), Recipe(freeze="gradual")
    set_trainable(model, recipe, 0, 4)
    assert learning(model) == {"head.weight", "head.bias"}
    set_trainable(model, recipe, 1, 4)
    assert {name.split(".")[0] for name in learning(model)} == {"back", "forth", "head"}
    set_trainable(model, recipe, 2, 4)
    assert "embedding.weight" in learning(model)


@pytest.mark.parametrize(
    ("recipe", "code"),
    [
        (Recipe(freeze="bakbone"), "unknown_choice"),
        (Recipe(freeze="1-13"), "no_such_blocks"),
        (Recipe(freeze="gradual", lora_rank=2), "gradual_with_lora"),
        (Recipe(blocks="1-13"), "no_such_blocks"),
        (Recipe(blocks="all but one"), "no_such_blocks"),
    ],
)
def test_what_cannot_be_is_said(recipe, code):
    with pytest.raises(UsageError) as caught:
        adapt(tiny_vit(), recipe)
    assert caught.value.code == code


# --- structure ------------------------------------------------------------------------------------------------------


def test_blocks_are_left_out():
    model = tiny_vit()
    kept = [each for _, each in blocks(model)[:4]]
    adapt(model, Recipe(blocks="1-4"))
    assert [each for _, each in blocks(model)] == kept
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 3)


def test_blocks_are_repeated_as_copies_that_learn_for_themselves():
    model = tiny_vit()
    adapt(model, Recipe(blocks="1-12,11-12"))
    every = [each for _, each in blocks(model)]
    assert len(every) == 14 and every[10] is not every[12]
    torch.testing.assert_close(every[10].mlp.fc1.weight, every[12].mlp.fc1.weight)
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert not torch.equal(every[10].mlp.fc1.weight.grad, every[12].mlp.fc1.weight.grad)


def test_a_language_model_with_fewer_or_more_layers_still_continues_text():
    for which, count in (("1-1", 1), ("1-2,1-2", 4)):
        model = tiny_llama().eval()
        adapt(model, Recipe(blocks=which))
        assert model.config.num_hidden_layers == count
        tokens = torch.randint(0, 50, (1, 6))
        with torch.no_grad():
            given = model.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0)
            for at in range(6, 10):  # with the cache of keys and values as without it
                assert int(model(given[:, :at]).logits[0, -1].argmax()) == int(given[0, at])


def test_blocks_that_do_not_fit_each_other_are_refused_by_the_plan():
    from fromzero.planning import plan

    with pytest.raises(UsageError) as caught:
        plan("resnet18", card="cpu", batch=2, imgsz=32, classes=3, blocks="1-4")
    assert caught.value.code == "blocks_do_not_fit"
    assert plan("vit_tiny_patch16_224", card="cpu", batch=2, classes=3, blocks="1-4").memory.parts["weights"] < (
        plan("vit_tiny_patch16_224", card="cpu", batch=2, classes=3).memory.parts["weights"] / 2
    )


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "deit_tiny_distilled_patch16_224"])
def test_a_head_with_a_hidden_layer(name):
    model = timm.create_model(name, num_classes=5)
    adapt(model, Recipe(head="mlp", freeze="backbone"))
    made = heads(model)
    assert made and all(isinstance(each, MlpHead) for each in made)
    assert learning(model) == {name for name, each in model.named_parameters() if each.requires_grad}
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == sum(
        p.numel() for each in made for p in each.parameters()
    )
    assert model.eval()(torch.randn(2, 3, 224, 224)).shape == (2, 5)


def test_the_hidden_layer_of_an_own_network_is_part_of_its_head():
    model = Cnn(3)
    adapt(model, Recipe(head="mlp", freeze="backbone"))
    assert learning(model) == {"head.0.weight", "head.0.bias", "head.3.weight", "head.3.bias"}


def test_a_language_model_s_head_stays():
    with pytest.raises(UsageError) as caught:
        adapt(tiny_gpt(), Recipe(head="mlp"))
    assert caught.value.code == "head_of_tokens"


def test_dropout_is_set_wherever_it_is():
    model = timm.create_model("vit_tiny_patch16_224", drop_path_rate=0.2)
    adapt(model, Recipe(dropout=0.3))
    assert {each.p for each in model.modules() if isinstance(each, nn.Dropout)} == {0.3}
    assert max(getattr(each, "drop_prob", 0.0) for each in model.modules()) == pytest.approx(0.2)
    adapt(model, Recipe(dropout=0.0))
    assert max(getattr(each, "drop_prob", 0.0) for each in model.modules()) == 0.0
    assert torch.equal(*(model.train()(torch.ones(1, 3, 224, 224)) for _ in range(2)))


def test_dropout_that_is_a_rate_of_the_model_acts():
    model = timm.create_model("resnet18", num_classes=5)
    adapt(model, Recipe(dropout=0.5))
    model.train()
    inputs = torch.randn(4, 3, 32, 32)
    assert not torch.equal(model(inputs), model(inputs))


def test_a_network_without_dropout_says_so():
    with pytest.raises(UsageError) as caught:
        adapt(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), Recipe(dropout=0.1))
    assert caught.value.code == "no_dropout"


# --- adapters with numbers --------------------------------------------------------------------------------------------


def taught(model, recipe, steps=5):
    torch.manual_seed(0)
    tokens = torch.randint(0, 50, (4, 12))
    optimizer = make_optimizer(model, recipe)
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval(), tokens, float(loss.detach()), optimizer


@pytest.mark.parametrize("make", [tiny_gpt, tiny_llama])
@pytest.mark.parametrize("words", [{}, {"dora": True}, {"base_quantisation": "nf4"}])
def test_adapters_learn_and_merge_into_the_model_they_stood_beside(make, words):
    torch.manual_seed(0)
    plain = make()
    names = set(plain.state_dict())
    recipe = Recipe(lora_rank=4, lr=1e-2, weight_decay=0.0, **words)
    adapt(plain, recipe)
    if recipe.base_quantisation != "none":
        quantise(plain, recipe)
    frozen = {name: each.clone() for name, each in plain.named_parameters() if not each.requires_grad}
    first = taught(plain, recipe, steps=1)[2]
    model, tokens, last, _ = taught(plain, recipe, steps=15)
    assert last < first
    assert all(torch.equal(each, dict(model.named_parameters())[name]) for name, each in frozen.items())
    with torch.no_grad():
        before = model(tokens).logits
        merged = merge_adapters(model)
        torch.testing.assert_close(merged(tokens).logits, before, atol=1e-5, rtol=1e-4)
    assert set(merged.state_dict()) == names


def test_a_four_bit_layer_computes_what_bitsandbytes_computes():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    layer = nn.Linear(128, 96)
    real = bitsandbytes.nn.Linear4bit(128, 96, quant_type="nf4", compress_statistics=True)
    real.load_state_dict(layer.state_dict())
    inputs = torch.randn(4, 128, requires_grad=True)
    ours, theirs = Nf4Layer(layer, 128, 96)(inputs), real.to("cpu")(inputs)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-6)
    slopes = [torch.autograd.grad(each.square().sum(), inputs)[0] for each in (ours, theirs)]
    torch.testing.assert_close(*slopes, atol=1e-5, rtol=1e-5)


def test_a_quantised_run_survives_saving_to_the_bit(tmp_path):
    recipe = Recipe(lora_rank=2, base_quantisation="nf4", optimizer="adamw8bit", lr=1e-2)

    def made(seed):
        torch.manual_seed(seed)
        model = tiny_llama()
        adapt(model, recipe)
        quantise(model, recipe)
        return model

    model, tokens, _, optimizer = taught(made(0), recipe)
    groups = {"model": model.state_dict(), "optimizer": packed(optimizer, model)}
    checkpoint.save(tmp_path / "kept", groups, {})
    groups, _ = checkpoint.load(tmp_path / "kept")
    other = made(1).eval()
    other.load_state_dict(groups["model"])
    with torch.no_grad():
        assert torch.equal(other(tokens).logits, model(tokens).logits)
    second = make_optimizer(other, recipe)
    unpack(second, other, groups["optimizer"])
    for each, moved in ((model, optimizer), (other, second)):
        moved.zero_grad()
        each(tokens).logits.square().mean().backward()
        moved.step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
