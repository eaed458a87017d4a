"""Tables of medicine and of finance: a small network beside gradient boosting, over five folds.

    fromzero data get breast-cancer       # Wisconsin: 569 tumours, 30 measures
    fromzero data get german-credit       # 1,000 customers, 20 columns
    python examples/tables.py breast-cancer
    python examples/tables.py german-credit

Each fold is tested once, by models that saw none of it: the network's best epoch, the baseline's trees, the temperature
and the threshold are chosen on a validation part of what is left. `--repeats 2` deals the folds out anew.
"""

import argparse
import tempfile

import numpy as np

import fromzero
from fromzero import metrics
from fromzero.baselines import baseline
from fromzero.data.manifest import save
from fromzero.data.opening import open_data
from fromzero.data.split import split
from fromzero.predicting import open_classifier
from fromzero.preparing import prepare
from fromzero.tasks import table

FOLDS = 5
# What it costs to overlook a case, in needless alarms: an assumption; the data's own cost matrix.
COSTS = {"breast-cancer": 20, "german-credit": 5}


def scores(run, manifest, part):
    """Probabilities and true classes of a part, by the run's best epoch."""
    classifier, rows = open_classifier(run), manifest.rows(part)
    inputs, truth = table.samples(manifest, classifier.preprocessing).batch([(row, 0) for row in rows])
    return classifier.scores(inputs), truth


def cost(called, bad):
    return (MISS * (bad & ~called) + (called & ~bad)).mean()


words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
words.add_argument("set", choices=COSTS)
words.add_argument("--data", help="where it lies (data/SET)")
words.add_argument("--model", default="mlp")
words.add_argument("--repeats", type=int, default=1)
words.add_argument("--epochs", type=int, default=30)
words.add_argument("--lr", type=float, default=1e-3)
asked = words.parse_args()
MISS, DATA = COSTS[asked.set], asked.data or f"data/{asked.set}"

found = {"network": [], "tempered": [], "boosting": []}
costs, tested = [], []
for repeat in range(asked.repeats):
    save(split(open_data(DATA), seed=repeat))
    for fold in range(FOLDS):
        this = {"fold": (fold, FOLDS), "seed": fold, "epochs": asked.epochs, "batch": 64, "lr": asked.lr}
        with tempfile.TemporaryDirectory() as folder:
            run = fromzero.train(DATA, model=asked.model, output=f"{folder}/run", device="cpu", **this)
            manifest = prepare(DATA, fold=(fold, FOLDS))
            (held, known), (test, truth) = scores(run.path, manifest, "val"), scores(run.path, manifest, "test")
        found["network"].append(metrics.measures(test, truth))
        found["boosting"].append(baseline(manifest).measures["test"])
        power = metrics.temperature(held, known)
        held, test = metrics.tempered(held, power), metrics.tempered(test, power)
        cut = metrics.threshold(held, known, MISS)
        bad = metrics.positive(truth)
        limits = (cut.threshold, 1 / (1 + MISS), 0.5)  # the second is best where probabilities are what they say
        costs.append([cost(test[:, bad] >= limit, truth == bad) for limit in limits])
        tested.append((test, truth))
        found["tempered"].append(metrics.measures(test, truth))
        first, other = (found[name][-1]["auc"] for name in ("network", "boosting"))
        print(f"fold {repeat}.{fold}: AUC {first:.4f}, boosting {other:.4f}; T {power:.2f}, cut {cut.threshold:.2f}")

for name in ("auc", "pr_auc", "loss", "brier", "ece"):
    each = {who: np.array([row[name] for row in rows]) for who, rows in found.items()}
    each["difference"] = each["network"] - each["boosting"]
    told = {who: metrics.interval(values, 1 / FOLDS) for who, values in each.items()}
    print(f"{name:7}", ", ".join(f"{who} {m:.4f} [{low:.4f}, {high:.4f}]" for who, (m, low, high) in told.items()))
for name, value in zip(("the validation's", "1 / (1 + cost)", "one half"), np.mean(costs, axis=0), strict=True):
    print(f"cost of a case with the threshold {name}: {value:.3f}")
for each in metrics.calibration(*map(np.concatenate, zip(*tested, strict=True)), 10):
    bar = "#" * round(40 * each.accuracy)
    print(f"sure {each.confidence:.2f} right {each.accuracy:.2f} of {each.samples:4} |{bar}")
