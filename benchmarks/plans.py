"""The plans that docs/planner.md shows: the same jobs on one card of each generation.

    python benchmarks/plans.py [--lang zh]

Prints Markdown: a table a job, a row a card.
"""

from __future__ import annotations

import argparse
import platform
import sys
from datetime import date

CARDS = ("GTX 1080 Ti", "RTX 2060", "RTX 3060 12 GB", "RTX 4090")
LLAMA = "hf:meta-llama/Llama-2-7b"
ADAPTERS = {"batch": 1, "seq": 512, "lora_rank": 16, "checkpointing": "blocks"}
# (what, model, words); "half" stands for the card's own half precision
JOBS = (
    ("ResNet-50, 224 px", "resnet50", {"batch": 64, "precision": "amp-half"}),
    ("BERT-base, 128 tokens", "hf:google-bert/bert-base-uncased", {"batch": 32, "seq": 128, "precision": "amp-half"}),
    ("GPT-2, 512 tokens", "hf:openai-community/gpt2", {"batch": 4, "seq": 512, "precision": "amp-half"}),
    ("Llama-2 7B, LoRA", LLAMA, {**ADAPTERS, "precision": "half"}),
    ("Llama-2 7B, QLoRA", LLAMA, {**ADAPTERS, "precision": "half", "base_quantisation": "nf4"}),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lang", choices=("en", "zh"), default="en")
    options = parser.parse_args()
    import torch

    import fromzero
    from fromzero import language
    from fromzero.choosing import best_precision
    from fromzero.language import say
    from fromzero.terminal import bytes_text, seconds_text

    language.use(options.lang)
    print(f"<!-- python benchmarks/plans.py; {date.today()}, torch {torch.__version__}, {platform.machine()} -->\n")
    for what, model, words in JOBS:
        heads = [say(f"plan.{name}") for name in ("card", "precision", "peak", "usable", "step", "verdict")]
        print(f"### {what}\n\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        for name in CARDS:
            card = fromzero.find_card(name)
            own = best_precision(card)
            pure = own.removeprefix("amp-") if own != "fp32" else "fp16"  # a 7B base in fp32 fits nowhere here
            precision = {"amp-half": own, "half": pure}[str(words["precision"])]
            made = fromzero.plan(model, card=card, **{**words, "precision": precision})
            memory, time = made.memory, made.time
            print(
                f"| {card.title.removeprefix('NVIDIA GeForce ')} | {precision} "
                f"| {bytes_text(memory.process_peak)} ({bytes_text(memory.low)} – {bytes_text(memory.high)}) "
                f"| {bytes_text(card.usable_bytes)} "
                f"| {seconds_text(time.step)} ({seconds_text(time.low)} – {seconds_text(time.high)}) "
                f"| {say(f'verdict.{made.verdict}')} |"
            )
        print()
        sys.stdout.flush()


if __name__ == "__main__":
    main()
