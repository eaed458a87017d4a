"""The files of transformers models: what is found where, what masks padding, and which tensors are taken over."""

from __future__ import annotations

import json

import pytest
import torch

from fromzero.errors import SourceError, UsageError
from fromzero.models import hub
from fromzero.models.build import build, task_of
from fromzero.models.families import huggingface
from fromzero.models.weights import load_pretrained

transformers = pytest.importorskip("transformers")
SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
         "intermediate_size": 16, "max_position_embeddings": 34}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """A small encoder as sentence-transformers keeps it."""
    torch.manual_seed(0)
    transformers.BertModel(transformers.BertConfig(**SMALL)).save_pretrained(tmp_path)
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    return tmp_path


def test_minilm_is_known_by_its_name_alone():
    name = "hf:all-minilm-l6-v2"
    assert task_of(name) == "text" and huggingface.plain_name(name) == "sentence-transformers/all-MiniLM-L6-v2"
    with torch.device("meta"):
        count = sum(each.numel() for each in build(name, 8, 16, 0).model.parameters())
    assert count == 22_713_216
    assert huggingface.limits(name) == (512, 30_522)
    assert huggingface.limits("hf:FacebookAI/roberta-base") == (512, 50_265)  # of 514 rows two are no positions


def test_an_encoder_of_sentences_is_averaged_and_its_weights_are_taken_over(folder):
    name = f"hf:{folder}"
    model = build(name, 3, 8, 0, vocabulary=40).eval()
    load_pretrained(model, name, "auto")
    real = transformers.AutoModel.from_pretrained(folder)
    for key, each in real.state_dict().items():
        torch.testing.assert_close(model.model.state_dict()[key], each)
    tokens = torch.randint(1, 40, (2, 6))
    padded = torch.nn.functional.pad(tokens, (0, 4))
    torch.testing.assert_close(model(padded), model(tokens), atol=1e-5, rtol=1e-5)
    states = real.eval()(tokens).last_hidden_state
    torch.testing.assert_close(model(tokens), model.head(states.mean(1)), atol=1e-5, rtol=1e-5)


def test_a_classifier_s_own_head_starts_anew_and_padding_is_masked(tmp_path):
    made = transformers.BertForSequenceClassification(transformers.BertConfig(**SMALL, num_labels=7))
    made.save_pretrained(tmp_path)
    name = f"hf:{tmp_path}"
    model = build(name, 3, 8, 0, vocabulary=40).eval()
    load_pretrained(model, name, str(tmp_path))
    assert model.model.classifier.weight.abs().max() <= model.model.classifier.in_features**-0.5
    torch.testing.assert_close(model.model.bert.pooler.dense.weight, made.bert.pooler.dense.weight)
    tokens = torch.randint(1, 40, (2, 6))
    padded = torch.nn.functional.pad(tokens, (0, 4))
    torch.testing.assert_close(model(padded), model(tokens), atol=1e-5, rtol=1e-5)
    assert [type(each).__name__ for each in model.get_classifier()] == ["Linear"]


def test_a_vocabulary_made_for_the_data_replaces_the_configuration_s(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**SMALL, "model_type": "roberta", "pad_token_id": 1}))
    own, other = (build(f"hf:{tmp_path}", 3, 8, 0, vocabulary=each) for each in (40, 30))
    assert (own.padding, other.padding) == (1, 0)
    assert other.model.get_input_embeddings().num_embeddings == 30
    assert build(f"hf:{tmp_path}", 3, 8, 0).__class__.__name__ == "RobertaForSequenceClassification"  # as it is planned


def test_what_is_not_there_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMZERO_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SourceError) as error:
        hub.folder("openai-community/gpt2", "auto")
    assert len(error.value.attempts) == 4 and "127.0.0.1:9" in error.value.attempts[-1]
    with pytest.raises(UsageError):
        hub.folder("openai-community/gpt2", str(tmp_path / "nowhere"))
    with pytest.raises(UsageError):
        hub.folder(str(tmp_path), "auto")


def test_a_model_that_was_fetched_is_built_from_what_came(tmp_path, monkeypatch):
    monkeypatch.setenv("FROMZERO_WEIGHTS", str(tmp_path))
    assert not huggingface.takes("hf:somebody/something")
    transformers.BertModel(transformers.BertConfig(**SMALL)).save_pretrained(hub.kept("somebody/something"))
    assert huggingface.takes("hf:somebody/something")
    assert hub.folder("somebody/something", "auto") == hub.kept("somebody/something")
