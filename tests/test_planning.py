"""plan(): the contract of its JSON, and answers that must come out in the right order."""

from __future__ import annotations

import dataclasses
import json

import pytest

import fromzero
from fromzero.cli import main
from fromzero.errors import UnknownName, UsageError
from fromzero.planning import plan, plan_many
from fromzero.records import Card, plan_from_json, to_json

CARD = "GeForce RTX 3060 12 GB"
PARTS = {"weights", "gradients", "optimizer", "activations", "workspace", "fragmentation", "context"}


def small(**words):
    return plan("cnn", **{"card": CARD, "imgsz": 28, "channels": 1, "classes": 10, "batch": 32, **words})


def test_json_contract(capsys):
    assert main(["plan", "resnet18", "--card", CARD, "--batch", "auto", "--imgsz", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for name in ("card", "stack", "workload", "recipe", "memory", "time", "energy", "verdict", "max_batch", "advice"):
        assert name in found
    memory = found["memory"]
    assert memory.keys() >= {"allocated_peak", "reserved_peak", "process_peak", "low", "high", "parts"}
    assert memory["parts"].keys() == PARTS
    assert memory["low"] <= memory["process_peak"] <= memory["high"]
    assert memory["allocated_peak"] <= memory["reserved_peak"] < memory["process_peak"]
    assert sum(memory["parts"].values()) == memory["process_peak"]
    time = found["time"]
    assert {"step", "low", "high", "samples_per_second", "epoch", "total", "parts"} <= time.keys()
    assert 0 < time["low"] < time["step"] < time["high"]
    assert found["energy"].keys() == {"kwh", "cost", "currency"}
    assert found["verdict"] in ("fits", "tight", "does_not_fit")
    assert found["max_batch"] == found["recipe"]["batch"]
    assert {"code", "text", "saves"} == found["advice"][0].keys()


def test_the_python_call_takes_the_same_words():
    made = fromzero.plan("resnet18", card=CARD, batch=8, imgsz=64, precision="amp-fp16")
    assert made.memory.parts["context"] > 0
    assert made.max_batch is None
    assert (made.recipe.batch, made.recipe.precision) == (8, "amp-fp16")


def test_a_plan_is_a_config():
    made = small()
    assert plan_from_json(json.loads(json.dumps(to_json(made)))) == dataclasses.replace(
        made, card=dataclasses.replace(made.card)
    )


def test_more_pictures_take_more_memory_and_time():
    one, two = small(batch=64), small(batch=256)
    assert two.memory.process_peak > one.memory.process_peak
    assert two.time.step > one.time.step


def test_a_faster_card_is_faster_and_needs_the_same_memory():
    words = {"model": "resnet18", "batch": 32, "imgsz": 128}
    old, new = plan_many([{**words, "card": card} for card in ("GTX 1080 Ti", "RTX 4090")])
    assert new.time.step < old.time.step
    assert new.memory.reserved_peak == old.memory.reserved_peak


def test_half_precision_saves_memory():
    words = {"batch": 32, "imgsz": 128, "card": CARD}
    full, half = plan("resnet18", **words), plan("resnet18", precision="amp-fp16", **words)
    assert half.memory.allocated_peak < full.memory.allocated_peak


def test_inference_needs_less_than_training():
    train, infer = small(), small(purpose="infer")
    assert infer.memory.allocated_peak < train.memory.allocated_peak
    assert infer.memory.parts["optimizer"] == infer.memory.parts["gradients"] == 0


def test_frozen_backbone_drops_gradients_and_state():
    words = {"card": CARD, "batch": 8, "imgsz": 64}
    whole, frozen = plan("resnet18", **words), plan("resnet18", freeze="backbone", **words)
    assert frozen.memory.parts["optimizer"] < 0.1 * whole.memory.parts["optimizer"]
    assert frozen.memory.allocated_peak < whole.memory.allocated_peak


def test_verdict_and_largest_batch_agree():
    made = plan("resnet50", card="GTX 1080 Ti", batch="auto")
    assert made.verdict == "fits"
    assert made.max_batch and 16 <= made.max_batch <= 256
    too_much = plan("resnet50", card="GTX 1080 Ti", batch=made.max_batch * 4)
    assert too_much.verdict == "does_not_fit"
    advice = {each.code: each for each in too_much.advice}["smaller_batch"]
    assert advice.saves > 0


def test_what_does_not_fit_at_all_is_said():
    tiny = Card(
        name="one quarter", compute_capability="8.6", memory_bytes=2**28, usable_bytes=2**28, bandwidth=1e11,
        rates={"fp32": 1e12}, tdp_watts=50,
    )  # fmt: skip
    made = plan("resnet50", card=tiny, batch="auto")
    assert (made.verdict, made.max_batch) == ("does_not_fit", 0)
    assert "no_batch_fits" in {each.code for each in made.advice}


def test_does_not_fit_is_exit_status_1(capsys):
    assert main(["plan", "resnet50", "--card", "GTX 1060 3 GB", "--batch", "256", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["verdict"] == "does_not_fit"


def test_pascal_is_told_that_half_is_not_faster():
    codes = {each.code for each in plan("cnn", card="GTX 1080 Ti", imgsz=28, precision="amp-fp16").advice}
    assert {"half_not_faster", "learning_rate"} <= codes


def test_this_machines_cpu_is_a_card():
    made = small(card="cpu")
    assert made.card.is_cpu and made.card.rates["fp32"] > 1e9
    assert made.memory.parts["context"] > 0


@pytest.mark.parametrize(
    "words", [{"batch": 0}, {"batch": -3}, {"accumulate": 0}, {"samples": 10, "batch": 32}, {"epochs": 0}]
)
def test_impossible_words_are_refused(words):
    with pytest.raises(UsageError):
        small(**words)


@pytest.mark.parametrize(
    "words", [{"optimizer": "adamx"}, {"colour": "red"}, {"purpose": "trian"}, {"precision": "fp8"}]
)
def test_unknown_words_are_refused_with_what_is_known(words):
    with pytest.raises(UnknownName):
        small(**words)


def test_a_model_of_the_users_own(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\n"
        "def make(classes, channels):\n"
        "    layers = nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 26 * 26, classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    made = plan(f"{file}:make", card=CARD, imgsz=28, channels=1, classes=5, batch=4)
    weights = 4 * (4 * 9 + 4 + 4 * 26 * 26 * 5 + 5)
    assert made.memory.parts["weights"] == weights


def test_a_model_that_reads_numbers_while_it_is_built():
    made = plan("regnety_002", card=CARD, batch=2, imgsz=64)
    assert made.memory.parts["weights"] > 3_000_000 * 4


@pytest.mark.parametrize(
    "words", [{"lr": -1.0}, {"label_smoothing": 3.0}, {"imgsz": 0}, {"classes": 0}, {"warmup": 2.0}]
)
def test_words_out_of_their_limits_are_refused(words):
    with pytest.raises(UsageError):
        small(**words)


def test_a_size_the_model_cannot_take_is_one_line():
    with pytest.raises(UsageError) as error:
        plan("torchvision:inception_v3", card=CARD, batch=2, imgsz=32)
    assert error.value.code == "step_failed"


@pytest.mark.parametrize(
    ("words", "less"),
    [
        ({"checkpointing": True}, True), ({"checkpointing": "1-4"}, True), ({"optimizer": "adamw8bit"}, True),
        ({"lora_rank": 8}, True), ({"offload": "optimizer"}, True), ({"precision": "amp-bf16"}, True),
        ({"cards": 4, "parallel": "fsdp"}, True), ({"cards": 2}, False),
    ],
    ids=lambda each: str(each),
)  # fmt: skip
def test_what_a_recipe_does_to_memory(words, less):
    job = {"card": "RTX 3090", "batch": 8, "imgsz": 64, "optimizer": "adamw"}
    plain = plan("vit_small_patch16_224", **job)
    changed = plan("vit_small_patch16_224", **{**job, **words})
    assert (changed.memory.process_peak < plain.memory.process_peak) == less
    assert changed.memory.low < changed.memory.process_peak < changed.memory.high


def test_an_average_is_a_second_copy_of_the_weights():
    job = {"card": "RTX 3090", "batch": 8, "imgsz": 64}
    plain, averaged = plan("vit_small_patch16_224", **job), plan("vit_small_patch16_224", ema=0.999, **job)
    extra = averaged.memory.parts["optimizer"] - plain.memory.parts["optimizer"]
    assert extra == pytest.approx(plain.memory.parts["weights"], rel=0.01)
    assert averaged.memory.process_peak > plain.memory.process_peak


def test_a_text_longer_than_the_table_of_positions_is_refused():
    with pytest.raises(UsageError) as caught:
        plan("hf:openai-community/gpt2", card="RTX 3090", batch=1, seq=4096)
    assert caught.value.code == "seq_too_long" and "1024" in caught.value.fix
    assert plan("hf:Qwen/Qwen2.5-0.5B", card="RTX 3090", batch=1, seq=64, lora_rank=2).verdict == "fits"


def test_sharing_needs_several_cards(capsys):
    assert main(["plan", "resnet18", "--card", "RTX 3090", "--batch", "8", "--parallel", "fsdp"]) == 2
    assert "one_card" in capsys.readouterr().err


def test_checkpointing_costs_a_second_forward_pass():
    job = {"card": "RTX 3090", "batch": 64, "imgsz": 128}
    plain, saved = plan("vit_small_patch16_224", **job), plan("vit_small_patch16_224", checkpointing=True, **job)
    extra = saved.time.parts["backward"] - plain.time.parts["backward"]
    # recomputing a block stops at the last tensor that is needed, before its last product
    assert 0.6 * plain.time.parts["forward"] < extra < 1.1 * plain.time.parts["forward"]


def test_micro_batches_beyond_the_second_cost_time_and_no_memory():
    two, eight = (plan("resnet18", card="RTX 3060 12 GB", batch=64, accumulate=k) for k in (2, 8))
    assert eight.memory.process_peak == two.memory.process_peak
    assert eight.time.step == pytest.approx(4 * two.time.step, rel=0.05)
    assert eight.time.samples_per_second == pytest.approx(two.time.samples_per_second, rel=0.05)


def test_several_cards_are_faster_but_wait_for_each_other():
    job = {"card": "RTX 3090", "batch": 64}
    one, four = plan("resnet18", **job), plan("resnet18", cards=4, **job)
    assert four.time.parts["waiting"] > 0
    assert one.time.samples_per_second < four.time.samples_per_second < 4 * one.time.samples_per_second
    assert "time_several_cards" in {each.code for each in four.advice}


def test_a_quantised_base_takes_half_a_byte_a_weight():
    job = {"card": "RTX 3090", "batch": 1, "seq": 64, "precision": "bf16", "lora_rank": 4}
    plain = plan("hf:Qwen/Qwen2.5-0.5B", **job)
    packed = plan("hf:Qwen/Qwen2.5-0.5B", base_quantisation="nf4", **job)
    linear = 24 * (896 * (896 + 2 * 128 + 896 + 3 * 4864))  # the weights of its blocks
    saved = plain.memory.parts["weights"] - packed.memory.parts["weights"]
    assert saved == pytest.approx(linear * (2 - 0.5 - 1 / 64), rel=0.02)


def test_a_tariff_is_the_users_and_energy_counts_every_card():
    job = {"card": "RTX 3090", "batch": 64, "samples": 100_000, "epochs": 10}
    free, paid = plan("resnet18", **job), plan("resnet18", tariff=0.3, currency="EUR", **job)
    assert free.energy.cost is None
    assert paid.energy.cost == pytest.approx(0.3 * paid.energy.kwh)
    both = plan("resnet18", cards=2, **job)
    assert both.energy.kwh == pytest.approx(free.energy.kwh, rel=0.2)  # half as long, twice as many


def test_fp32_products_took_tf32_before_torch_1_12():
    job = {"card": "NVIDIA A100-SXM4-40GB", "batch": 32, "imgsz": 224, "precision": "fp32"}
    old, new = (plan("vit_small_patch16_224", torch=each, **job) for each in ("1.9", "2.4"))
    asked = plan("vit_small_patch16_224", torch="2.4", **{**job, "precision": "tf32"})
    assert asked.time.step < new.time.step and old.time.step < new.time.step
    assert asked.memory.allocated_peak == new.memory.allocated_peak


def test_compiling_widens_the_interval_downwards():
    job = {"card": "RTX 3090", "batch": 32, "imgsz": 64}
    eager, compiled = plan("resnet18", **job), plan("resnet18", compile=True, **job)
    assert compiled.memory.low < eager.memory.low and compiled.memory.high == eager.memory.high
    assert compiled.time.low < eager.time.low


def test_where_the_memory_is():
    made = plan("resnet18", card="RTX 3090", batch=32, imgsz=64)
    assert 1 <= len(made.memory.modules) <= 10
    assert "layer1.0" in made.memory.modules
    assert "layer" in made.memory.peak_at or "backward" in made.memory.peak_at


def test_the_ledger_corrects_later_plans(tmp_path, monkeypatch):
    from fromzero.machine.ledger import Entry, note

    monkeypatch.setenv("FROMZERO_STATE", str(tmp_path))
    before = plan("resnet18", card="RTX 3090", batch=32, imgsz=64)
    note(
        Entry(
            when="2026-11-22T06:00+00:00", device=before.card.title, model="resnet18", batch=32, precision="fp32",
            torch="2.14.1", predicted_step=1.0, measured_step=1.5, predicted_bytes=1, measured_bytes=1,
        )
    )  # fmt: skip
    after = plan("resnet18", card="RTX 3090", batch=32, imgsz=64)
    assert 1.1 < after.time.correction < 1.5
    assert after.time.step == pytest.approx(before.time.step * after.time.correction)
    assert plan("resnet18", card="RTX 3060 12 GB", batch=32, imgsz=64).time.correction == 1.0


def test_the_ledger_command_and_the_picture_of_a_step(capsys, tmp_path):
    assert main(["plan", "--ledger"]) == 0
    assert "train" in capsys.readouterr().out
    words = ["plan", "resnet18", "--card", "RTX 3090", "--batch", "8", "--imgsz", "64"]
    assert main([*words, "--picture", str(tmp_path / "step.png")]) == 0
    assert (tmp_path / "step.png").read_bytes().startswith(b"\x89PNG")
    assert main(["plan"]) == 2


def test_cores_that_cannot_keep_up_bound_the_step():
    words = {"card": "RTX 4090", "batch": 32, "samples": 3200, "precision": "amp-fp16"}
    free = plan("resnet18", **words)
    few, many = plan("resnet18", cores=1, **words), plan("resnet18", cores=64, **words)
    assert few.time.step == few.time.parts["loading"] > 2 * free.time.step
    assert many.time.step == free.time.step and many.time.parts["loading"] < free.time.step
    assert few.time.epoch == pytest.approx(few.time.step * 100)
    assert free.energy.kwh < few.energy.kwh < free.energy.kwh * few.time.step / free.time.step  # waiting draws less
    assert {each.code for each in few.advice} >= {"loader_bound"}
    assert {each.code for each in many.advice} & {"loader_bound", "workers"} == {"workers"}


def test_on_a_cpu_loading_takes_from_the_same_cores():
    free = plan("resnet18", card="cpu", batch=4, imgsz=64)
    shared = plan("resnet18", card="cpu", batch=4, imgsz=64, cores=2)
    assert shared.time.step == pytest.approx(shared.time.parts["loading"] + free.time.step, rel=0.3)
    assert "loading" not in plan("hf:google-bert/bert-base-uncased", card="RTX 4090", batch=4, cores=1).time.parts


def test_the_loader_of_this_machine_counts_where_it_was_measured(tmp_path, monkeypatch):
    from fromzero.machine.detect import cpu_name
    from fromzero.machine.measured import Bench, store_bench
    from fromzero.planner.loading import TYPICAL, loader, workers_for

    monkeypatch.setenv("FROMZERO_STATE", str(tmp_path))
    assert (loader().per_core, loader().measured) == (TYPICAL, False)
    store_bench(Bench(when="2026-11-22T00:00:00", cpu=cpu_name(), cores=4, loader=1000.0))
    assert (loader().per_core, loader().measured) == (250.0, True)
    assert workers_for(1001) == 5
