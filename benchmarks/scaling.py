"""Growth on paper, for docs/distributed.md: the planner's step time and memory from 1 to 64 cards. Nothing is measured.

    python benchmarks/scaling.py [--lang zh]

Prints Markdown: a table a job, a row for each number of cards (eight in a machine), a column for each way and network.
"""

from __future__ import annotations

import argparse
import platform
import sys
from datetime import date

CARDS = (1, 2, 4, 8, 16, 32, 64)
MACHINE = 8  # cards in each
# (what, card, model, words)
JOBS = (
    (
        "ResNet-50, 224 px, 128 a card",
        "RTX 4090",
        "resnet50",
        {"batch": 128, "samples": 1281167, "channels_last": True},
    ),
    ("ViT-L/16, 224 px, 32 a card", "RTX 4090", "vit_large_patch16_224", {"batch": 32, "samples": 1281167}),
)
WAYS = (("ddp", 10), ("ddp", 100), ("fsdp", 100))  # how, Gbit/s of each machine


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lang", choices=("en", "zh"), default="en")
    options = parser.parse_args()
    import torch

    import fromzero
    from fromzero import language
    from fromzero.terminal import bytes_text

    language.use(options.lang)
    zh = options.lang == "zh"
    heads = ["显卡数" if zh else "cards", "机器数" if zh else "machines"]
    for how, network in WAYS:
        heads += [f"{how}, {network} Gbit/s", "显存" if zh else "memory"]
    print(f"<!-- python benchmarks/scaling.py; {date.today()}, torch {torch.__version__}, {platform.machine()} -->\n")
    for what, card, model, words in JOBS:
        print(f"### {what}, {card}\n\n| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        alone = 0.0
        for cards in CARDS:
            nodes = max(1, cards // MACHINE)
            row = [str(cards), str(nodes)]
            for how, network in WAYS:
                shape = {"cards": cards, "nodes": nodes, "parallel": how, "network": network}
                made = fromzero.plan(model, card=card, precision="amp-bf16", **words, **shape)
                alone = alone or made.time.samples_per_second
                rate = made.time.samples_per_second
                row += [f"{rate:,.0f}/s ({rate / alone / cards:.0%})", bytes_text(made.memory.process_peak)]
            print("| " + " | ".join(row) + " |")
            sys.stdout.flush()
        print()


if __name__ == "__main__":
    main()
