"""The portable trace against fake CUDA tensors: the same training step must hold the same bytes."""

from __future__ import annotations

import importlib.util
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest


def _oracle():
    spec = importlib.util.spec_from_file_location("planner_oracle", Path(__file__).with_name("oracle.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


oracle = _oracle()
GATE = 0.005  # of the live peak; measured: 0 bytes in every case

# A sample of models x precision x optimizer x layout that a minute is enough for; `oracle.py` itself runs the matrix.
SAMPLE = """
cnn                         amp-fp16 sgd-momentum channels-last clip
resnet                      bf16     sgd-momentum channels-last
resnet-bottleneck           amp-bf16 adamw
mobilenet                   amp-fp16 adamw        channels-last
regnet                      fp32     sgd-momentum accumulate
vgg                         amp-fp16 sgd-momentum
alexnet                     bf16     adamw
googlenet                   fp32     adamw
shufflenet                  amp-bf16 sgd-momentum channels-last
squeezenet                  bf16     sgd-momentum
mnasnet                     fp32     adamw        channels-last
convnext                    amp-bf16 adamw        channels-last
vit                         amp-fp16 adamw
vit-drop-path               bf16     adamw
mixer                       amp-bf16 sgd-momentum
bert                        amp-fp16 adamw        clip
distilbert                  fp32     adamw
roberta                     bf16     adamw
gpt2                        amp-bf16 adamw        accumulate
llama                       amp-fp16 sgd-momentum
qwen2                       bf16     adamw
rms-norm                    amp-fp16 adamw
own-autocast                fp32     adamw
own-autocast                amp-bf16 sgd-momentum
island                      amp-fp16 adamw
checkpoint                  amp-fp16 adamw
checkpoint-reentrant        amp-bf16 sgd-momentum
vit-checkpoint              amp-fp16 adamw
gpt2-checkpoint             amp-bf16 adamw
llama-checkpoint-reentrant  amp-fp16 adamw
attention-grouped           amp-bf16 adamw
attention-odd-head          amp-fp16 adamw
attention-wide-head         bf16     adamw
attention-mask              fp32     adamw
attention-mask-grouped      amp-fp16 adamw
fused                       amp-fp16 fused-adamw
fused                       fp32     fused-sgd
"""


def cases():
    for line in SAMPLE.strip().splitlines():
        model, precision, optimizer, *rest = line.split()
        layout = "channels-last" in rest
        yield oracle.Case(
            model, precision, optimizer, layout, "".join(each for each in rest if each != "channels-last")
        )


@pytest.mark.skipif(bool(oracle.no_oracle()), reason=oracle.no_oracle())
def test_live_peak_is_that_of_fake_cuda_tensors():
    sample = list(cases())
    with ThreadPoolExecutor(1) as other:  # the oracle's process runs beside this one
        asked = other.submit(oracle.peaks, sample)
        traced = [oracle.traced_peak(each) for each in sample]
        answers = asked.result()
    wrong = [
        f"{case}: traced {found:,} bytes, oracle {answer['peak']:,} {answer['error']}"
        for case, found, answer in zip(sample, traced, answers, strict=True)
        if answer["error"] or abs(found - answer["peak"]) > GATE * answer["peak"]
    ]
    assert not wrong, "\n".join(wrong)


def test_the_sample_covers_what_it_should():
    sample = list(cases())
    assert len({each.model for each in sample} & set(oracle.MODELS)) >= 20
    assert {each.precision for each in sample} >= {"fp32", "amp-fp16", "amp-bf16", "bf16"}
    assert {each.optimizer for each in sample} >= {"sgd-momentum", "adamw"}
