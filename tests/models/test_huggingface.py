"""Language models by configuration: the right network, no hub, and a plan for each task."""

from __future__ import annotations

import json

import pytest
import torch

from fromzero.errors import UnknownName, UsageError
from fromzero.models.build import build, task_of
from fromzero.planning import plan

# Millions of parameters as their model cards give them, tied weights once.
PARAMETERS = {
    "EleutherAI/gpt-neo-125M": 125.2,
    "facebook/opt-350m": 331.2,
    "google-t5/t5-base": 222.9,
    "google-t5/t5-small": 60.5,
    "openai-community/gpt2": 124.4,
    "openai-community/gpt2-medium": 354.8,
    "meta-llama/Llama-2-7b": 6738.4,
    "meta-llama/Llama-2-13b": 13015.9,
    "meta-llama/Llama-3.1-70B": 70553.7,
    "meta-llama/Llama-3.2-1B": 1235.8,
    "mistralai/Mistral-7B-v0.1": 7241.7,
    "mistralai/Mixtral-8x7B-v0.1": 46702.8,
    "Qwen/Qwen2.5-0.5B": 494.0,
    "Qwen/Qwen2.5-72B": 72706.2,
    "Qwen/Qwen3-0.6B": 596.0,
    "Qwen/Qwen3-4B": 4022.5,
    "TinyLlama/TinyLlama-1.1B": 1100.0,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": 1777.1,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_known_configurations_have_the_published_size(name):
    with torch.device("meta"):
        model = build(f"hf:{name}", 2, 0, 0)
    count = sum(each.numel() for each in model.parameters()) / 1e6
    assert count == pytest.approx(PARAMETERS[name], rel=0.002)


def test_tasks_follow_the_architecture():
    assert task_of("hf:gpt2") == task_of("hf:t5") == "lm"
    assert task_of("hf:bert") == task_of("hf:google-bert/bert-base-chinese") == "text"
    assert task_of("cnn") == task_of("torchvision:resnet18") == "image"
    assert task_of("hf:vit") == task_of("hf:levit") == "image"


@pytest.mark.parametrize("name", ["hf:vit", "hf:levit"])
def test_models_of_pictures_give_logits_at_any_size_and_channels(name):
    with torch.device("meta"):
        model = build(name, 7, 1, 64).eval()
        assert model(torch.empty(2, 1, 64, 64)).shape == (2, 7)


@pytest.mark.parametrize("card", ["RTX 3060 12 GB", "RTX 2080"])  # with a kernel for groups, and without
def test_experts_trace(tmp_path, card):
    values = {"model_type": "mixtral", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "num_local_experts": 4,
              "num_experts_per_tok": 2}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    made = plan(f"hf:{tmp_path}", card=card, batch=2, seq=16, precision="amp-fp16")
    assert made.memory.parts["weights"] >= 4 * 2 * 4 * 3 * 64 * 96


def test_a_configuration_saved_from_a_classifier_is_one(tmp_path):
    values = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
              "num_attention_heads": 4, "vocab_size": 300}  # fmt: skip
    for architecture, task in (("LlamaForSequenceClassification", "text"), ("LlamaForCausalLM", "lm")):
        (tmp_path / "config.json").write_text(json.dumps({**values, "architectures": [architecture]}))
        assert task_of(f"hf:{tmp_path}") == task


def test_an_architecture_without_a_head_says_so():
    with pytest.raises(UsageError) as error:
        plan("hf:sam", card="RTX 3090")
    assert error.value.code == "config_no_head"


def test_a_config_of_the_users_own(tmp_path):
    values = {"model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
              "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    made = plan(f"hf:{tmp_path}", card="RTX 3060 12 GB", batch=2, seq=16, precision="amp-bf16")
    attention = 64 * 64 * 2 + 2 * 64 * 32
    weights = 2 * 300 * 64 + 2 * (attention + 3 * 64 * 96 + 2 * 64) + 64
    assert made.memory.parts["weights"] - 4 * weights in range(4096)  # and the table of rotations
    assert made.workload.task == "lm" and made.workload.input_shape == (16,)


def test_longer_texts_take_more():
    short, long = (plan("hf:openai-community/gpt2", card="RTX 3090", batch=2, seq=n) for n in (64, 256))
    assert long.memory.allocated_peak > short.memory.allocated_peak and long.time.step > short.time.step


def test_wrong_names_and_types(tmp_path):
    with pytest.raises(UnknownName) as error:
        plan("hf:openai-community/gpt3", card="RTX 3090")
    assert any("gpt2" in each for each in error.value.near)
    (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}')
    with pytest.raises(UsageError):
        plan(f"hf:{tmp_path}", card="RTX 3090")
