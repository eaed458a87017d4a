"""Near copies among pictures: re-encoded, resized, slightly recoloured, cropped by up to a tenth off each side.

Everything is done on the looks that the scan took (32 x 32 grey values, 4 x 4 colours). Each picture is cropped in
VARIANTS ways and described by a few numbers in which a crop, seen again, moves little and another picture moves much
(Fisher's discriminant, fitted to the data set's own pictures); its nearest descriptions of whole pictures are the
candidates. A candidate is then laid over the picture by least squares (Lucas and Kanade 1981), and is a near copy if
what remains is small: in itself, and against what remains between pictures of this data set that are merely alike.
Thousands of plain shirts look alike; a copy is closer than that.
"""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from fromzero.data.folder import COLOURS, SIDE, looks_of
from fromzero.data.manifest import Manifest, state_folder
from fromzero.files import only, replacing
from fromzero.language import say
from fromzero.machine.process import usable_cores
from fromzero.terminal import Console

HALF = SIDE // 2  # descriptions are taken at half the size
WAVES = 9  # cosines in a direction
DIMENSIONS = 24  # of a description
SIDES = ((0, 1), (0.02, 0.93), (0.07, 0.98), (0.06, 0.94), (0.08, 0.92))  # what a crop leaves of a direction
CROP = 0.1  # the share that may be missing at a side
FAINT = 2.0  # standard deviation of the grey values below which nothing can be compared
SAMPLE = 1500  # pictures that the discriminant is fitted to
CHUNK = 8192  # rows whose variants are held at once
MOST = 0.25  # the share of contrast that may remain unexplained between near copies
SURE = 0.05  # what little remains of it between copies only, however many there are
CLOSER = 0.55  # near copies leave less than this share of what others leave
HUE = 16.0  # root mean square difference of colours, of 255, beside brightness
LARGEST = 50  # near copies that may hang together
KEPT = 3  # candidates a picture
PROBES = 2  # cells that are searched for a variant


@dataclass(frozen=True, eq=False)
class Pairs:
    """Near copies: rows `first` and `second` (part or whole of `first`), how alike they are (1: the same), and the
    share of `first` that `second` shows. A row stands for all that are equal to it to the byte."""

    first: np.ndarray
    second: np.ndarray
    alike: np.ndarray
    share: np.ndarray

    def __len__(self) -> int:
        return len(self.first)


def mark(manifest: Manifest, console: Console | None = None) -> Manifest:
    """The manifest with its column `cluster`: samples that are nearly equal share a number, others have -1."""
    return manifest.with_column("cluster", clusters(manifest, pairs(manifest, console)))


def pairs(manifest: Manifest, console: Console | None = None) -> Pairs:
    """All near copies among the good pictures of a manifest, searched for once and kept; copies that are equal to the
    byte are counted once."""
    path = state_folder(manifest.root) / f"pairs-{zlib.crc32(manifest['hash'].tobytes()):08x}.npz"
    try:
        with np.load(path) as kept:
            return Pairs(**kept)
    except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile):
        found = _searched(manifest, console)
    only(path, "pairs-*")
    with replacing(path) as beside, beside.open("wb") as file:
        np.savez(file, **vars(found))
    return found


def _searched(manifest: Manifest, console: Console | None) -> Pairs:
    rows = _comparable(manifest)
    none = np.zeros(0, np.int64)
    if len(rows) < 2:
        return Pairs(none, none, none.astype(float), none.astype(float))
    looks = looks_of(manifest)
    whole, part, variant, apart = _candidates(looks, rows, console or Console())
    order = np.lexsort((apart, np.maximum(whole, part), np.minimum(whole, part)))
    whole, part, variant = whole[order], part[order], variant[order]  # of a pair, the direction that is alike more
    ends = np.minimum(whole, part) * len(rows) + np.maximum(whole, part)
    once = np.flatnonzero(np.diff(ends, prepend=-1))
    whole, part, variant = whole[once], part[once], variant[once]
    sides = np.array(SIDES)
    box = np.concatenate([sides[variant // len(SIDES)], sides[variant % len(SIDES)]], axis=1)
    box, gain, left = _residuals(looks, rows[whole], rows[part], box, 1)
    few = np.flatnonzero((left < 2 * MOST) & (_ratio(whole, part, left, len(rows)) < 0.95))
    if len(few):
        box[few], gain[few], left[few] = _residuals(looks, rows[whole[few]], rows[part[few]], box[few], 2)
    ratio = _ratio(whole, part, left, len(rows))
    usual = np.median(np.minimum(1, _others(whole, part, left, len(rows))[1]))
    same = few[(left[few] < MOST) & ((ratio[few] < CLOSER) | (left[few] < min(SURE, usual / 4)))]
    same = same[(gain[same] > 0.5) & (gain[same] < 2)]
    first, second = rows[whole[same]], rows[part[same]]
    kept = _same_colours(looks, first, second, box[same])
    same, first, second = same[kept], first[kept], second[kept]
    shown = (box[same, 1] - box[same, 0]) * (box[same, 3] - box[same, 2])
    return Pairs(first, second, 1 - left[same].astype(float), np.clip(shown, 0, 1).astype(float))


def clusters(manifest: Manifest, found: Pairs) -> np.ndarray:
    """(rows,) int32: a number for what hangs together by near copies, -1 for a sample that stands alone.

    A chain of likenesses can tie together what nobody would call the same; where more than LARGEST pictures (or a
    fiftieth of all) hang together, the less alike half of their pairs is let go, until they do not."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    good = manifest["problem"] == ""
    contents, content = np.unique(manifest["hash"], return_inverse=True)
    first, second, alike = content[found.first], content[found.second], found.alike
    most = max(LARGEST, len(contents) // 50)
    while True:
        links = coo_matrix((np.ones(len(first), np.int8), (first, second)), shape=(len(contents), len(contents)))
        group = connected_components(links, directed=False)[1]
        large = np.bincount(group, minlength=1)[group[first]] > most
        if not large.any():
            break
        bar = np.median(alike[large])
        keep = ~large | ((alike >= bar) if (alike[large] < bar).any() else (alike > bar))
        first, second, alike = first[keep], second[keep], alike[keep]
    together = good & (np.bincount(group)[group] > 1)[content]  # copies to the byte alone need no number
    group = group[content]
    numbers = np.full(len(manifest), -1, np.int32)
    numbers[together] = np.unique(group[together], return_inverse=True)[1]
    return numbers


def _comparable(manifest: Manifest) -> np.ndarray:
    """Good rows that show something, one of each content."""
    _, first = np.unique(manifest["hash"], return_index=True)
    rows = np.sort(first)
    return rows[(manifest["problem"].codes[rows] == 0) & (manifest["spread"][rows] > FAINT)]


def _residuals(looks: np.ndarray, whole: np.ndarray, part: np.ndarray, box: np.ndarray, rounds: int) -> Any:
    """`_laid_over` for rows of looks, in pieces over the cores."""

    def lay(piece: np.ndarray) -> tuple[np.ndarray, ...]:
        here, there = (
            looks[rows[piece], : SIDE * SIDE].reshape(-1, SIDE, SIDE).astype(np.float32) for rows in (whole, part)
        )
        return _laid_over(here, halved @ there @ halved.T, box[piece], rounds)

    halved = _soft().reshape(HALF, 2, SIDE).mean(1)
    pieces = np.array_split(np.arange(len(whole)), len(whole) // 256 + 1)
    with _spread() as each:
        return tuple(np.concatenate(column) for column in zip(*each(lay, pieces), strict=True))


def _others(first: np.ndarray, second: np.ndarray, left: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(2, pairs): what remains between each of a pair and the nearest of its other candidates (1 if there is none);
    and the same between each picture and its second-nearest."""
    here, there = np.concatenate([first, second]), np.concatenate([second, first])
    twice = np.concatenate([left, left])
    order = np.lexsort((twice, here))
    here, there, twice = here[order], there[order], twice[order]
    start = np.searchsorted(here, np.arange(count + 1))
    nearest, best, next_best = np.full(count, -1), np.ones(count), np.ones(count)
    some = start[1:] > start[:-1]
    nearest[some], best[some] = there[start[:-1][some]], twice[start[:-1][some]]
    more = start[1:] > start[:-1] + 1
    next_best[more] = twice[start[:-1][more] + 1]
    ends = np.stack([first, second])
    return np.where(nearest[ends] == ends[::-1], next_best[ends], best[ends]), next_best


def _ratio(first: np.ndarray, second: np.ndarray, left: np.ndarray, count: int) -> np.ndarray:
    """What remains between a pair against what remains between each of them and others."""
    others = _others(first, second, left, count)[0]
    return left / np.maximum(np.sqrt(others.prod(0)), 1e-6)


def _same_colours(looks: np.ndarray, first: np.ndarray, second: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Whether a pair agrees in hue: a red and a green apple of one shape are two pictures."""
    ramp = ((np.arange(COLOURS) + 0.5) / COLOURS).astype(np.float32)
    here, there = (
        looks[rows, SIDE * SIDE :].reshape(-1, COLOURS, COLOURS, 3).astype(np.float32) for rows in (first, second)
    )
    rows, columns = (_between(box[:, at], box[:, at + 1], ramp, COLOURS) for at in (0, 2))
    here = np.einsum("pyu,puvc,pxv->pyxc", rows, here, columns)
    brighter = np.clip(there.mean((1, 2, 3)) / np.maximum(here.mean((1, 2, 3)), 1), 0.5, 2)
    here *= brighter[:, None, None, None]
    hues = [each - each.mean(3, keepdims=True) for each in (here, there)]
    return np.sqrt(((hues[0] - hues[1]) ** 2).mean((1, 2, 3))) < HUE


def _cosines(cells: int) -> np.ndarray:
    """(WAVES, cells): the first cosines over a row of cells, scaled so that the size of the grid does not matter."""
    places = (np.arange(cells) + 0.5) / cells
    return np.cos(np.pi * np.arange(WAVES)[:, None] * places) * (2 / cells)


def _boxes(low: np.ndarray | float, high: np.ndarray | float, cells: int) -> np.ndarray:
    """(..., cells, cells): what takes a row of cells to the mean values of the cells of its part `low` to `high`."""
    low, high = np.asarray(low)[..., None], np.asarray(high)[..., None]
    edges = low + (high - low) * np.arange(cells + 1) / cells
    grid = np.arange(cells + 1) / cells
    ends = np.minimum(edges[..., 1:, None], grid[1:])
    starts = np.maximum(edges[..., :-1, None], grid[:-1])
    shares = np.maximum(0, ends - starts)
    return shares / shares.sum(-1, keepdims=True)


VARIANTS = len(SIDES) ** 2
_LOW = [(u, v) for u in range(WAVES) for v in range(WAVES) if 0 < u + v <= WAVES]


def _operators() -> np.ndarray:
    """(VARIANTS, waves, HALF * HALF): from a small look to the waves of each of its crops."""
    cosines = _cosines(HALF)
    made = [cosines @ _boxes(low, high, HALF) for low, high in SIDES]
    both = np.stack([np.einsum("ui,vj->uvij", y, x) for y in made for x in made])
    rows, columns = np.array(_LOW).T
    return both[:, rows, columns].reshape(VARIANTS, len(_LOW), -1).astype(np.float32)


def _waves(small: np.ndarray, operator: np.ndarray) -> np.ndarray:
    """Waves of small looks, their contrast taken out."""
    waves = small @ operator.T
    return waves / np.maximum(np.linalg.norm(waves, axis=-1, keepdims=True), 0.5)


def _small(looks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """(rows, HALF * HALF) float32."""
    grey = looks[rows, : SIDE * SIDE].reshape(-1, SIDE, SIDE).astype(np.uint16)
    tall = grey[:, ::2] + grey[:, 1::2]
    return (tall[:, :, ::2] + tall[:, :, 1::2]).reshape(len(rows), -1).astype(np.float32) / 4


def _discriminant(looks: np.ndarray, rows: np.ndarray, operators: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centre and projection of the waves to numbers in which a crop, against the nearest variant of its original, has
    a spread of one."""
    from scipy.linalg import eigh

    draw = np.random.default_rng(0)
    rows = np.sort(draw.choice(rows, min(SAMPLE, len(rows)), replace=False))
    whole = looks[rows, : SIDE * SIDE].reshape(-1, SIDE, SIDE).astype(np.float32)
    cut = draw.uniform(0, CROP, (4, len(rows)))
    noisy = whole + draw.normal(0, 4, whole.shape)
    crops = _boxes(cut[0], 1 - cut[1], SIDE) @ noisy @ _boxes(cut[2], 1 - cut[3], SIDE).swapaxes(1, 2)
    crops = crops.reshape(-1, HALF, 2, HALF, 2).mean((2, 4)).reshape(len(rows), -1)
    there = _waves(crops, operators[0])
    small = _small(looks, rows)
    here = np.stack([_waves(small, each) for each in operators])
    off = here - there
    off = off[(off**2).sum(-1).argmin(0), np.arange(len(rows))]
    whole_waves = here[0]
    within = off.T @ off / len(rows)
    between = np.cov(whole_waves.T)
    within += np.eye(len(within)) * (1e-6 + 1e-4 * np.trace(within) / len(within))
    _, axes = eigh(between, within)
    return whole_waves.mean(0), axes[:, ::-1][:, :DIMENSIONS].astype(np.float32)


def _cells(base: np.ndarray) -> np.ndarray:
    """Centres of the cells that descriptions are searched in: a few rounds of k-means on a sample."""
    count = max(1, min(4096, int(2 * len(base) ** 0.5), len(base) // 32))
    draw = np.random.default_rng(0)
    some = base[draw.choice(len(base), min(len(base), 16 * count), replace=False)]
    centres = some[:count].copy()
    for _ in range(3):
        nearest = _nearest(some, centres, 1)[:, 0]
        counts = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, some[:, d], count) for d in range(some.shape[1])], axis=1)
        centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres).astype(np.float32)
    return centres


def _nearest(points: np.ndarray, centres: np.ndarray, probes: int) -> np.ndarray:
    """(points, probes): the centres nearest to each point."""
    out = np.empty((len(points), probes), np.int32)
    targets = _targets(centres)
    for start in range(0, len(points), 4096):
        close = _asking(points[start : start + 4096]) @ targets
        for probe in range(probes):
            best = close.argmax(1)
            out[start : start + 4096, probe] = best
            close[np.arange(len(close)), best] = -np.inf
    return out


def _asking(points: np.ndarray) -> np.ndarray:
    """Points as they are multiplied with `_targets`: the product is the greater, the nearer the two are."""
    return np.concatenate([points, np.ones((len(points), 1), np.float32)], axis=1)


def _targets(points: np.ndarray) -> np.ndarray:
    return np.concatenate([points, -(points**2).sum(1, keepdims=True) / 2], axis=1).T.copy()


def _candidates(
    looks: np.ndarray, rows: np.ndarray, console: Console
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Places in `rows` of pictures and of what may be their crops, the variant they are alike in, and how far apart."""
    operators = _operators()
    centre, axes = _discriminant(looks, rows, operators)
    flat = operators.reshape(-1, HALF * HALF).T.copy()
    parts = [slice(start, start + CHUNK) for start in range(0, len(rows), CHUNK)]
    base = np.empty((len(rows), DIMENSIONS), np.float32)
    for part in parts:
        base[part] = (_waves(_small(looks, rows[part]), operators[0]) - centre) @ axes
    centres = _cells(base)
    probes = min(PROBES, len(centres))
    cell = _nearest(base, centres, 1)[:, 0]
    order = np.argsort(cell, kind="stable")
    ends = np.searchsorted(cell[order], np.arange(len(centres) + 1))
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows))
    targets = _targets(base[order])

    def look(part: slice) -> np.ndarray:
        small = _small(looks, rows[part])
        count = len(small)
        waves = (small @ flat).reshape(count * VARIANTS, -1)
        waves /= np.maximum(np.sqrt(np.einsum("ij,ij->i", waves, waves)), 0.5)[:, None]
        queries = (waves - centre) @ axes
        own = np.repeat(place[part], VARIANTS)
        asking = _asking(queries)
        asked_cells = _nearest(queries, centres, probes).reshape(-1)
        by_cell = np.argsort(asked_cells, kind="stable")
        bounds = np.searchsorted(asked_cells[by_cell], np.arange(len(centres) + 1))
        best = np.zeros(count * VARIANTS * probes, np.int64)
        close = np.full(count * VARIANTS * probes, -np.inf, np.float32)
        for low, high, first, last in zip(ends[:-1], ends[1:], bounds[:-1], bounds[1:], strict=True):
            if low == high:
                continue
            for start in range(first, last, 4096):
                asked = by_cell[start : min(last, start + 4096)]
                found = asking[asked // probes] @ targets[:, low:high]
                mine = own[asked // probes] - low
                inside = np.flatnonzero((mine >= 0) & (mine < high - low))
                found[inside, mine[inside]] = -np.inf  # a picture is no copy of itself
                nearest = found.argmax(1)
                best[asked] = low + nearest
                close[asked] = found[np.arange(len(asked)), nearest]
        far = (queries**2).sum(1)[:, None] - 2 * close.reshape(-1, probes)
        return _closest(best.reshape(count, -1), far.reshape(count, -1), probes)

    found = []
    with _spread() as each, console.progress(say("near.searching"), len(rows)) as advance:
        for part, block in zip(parts, each(look, parts), strict=True):
            block[:, 0] += part.start
            found.append(block)
            advance(min(CHUNK, len(rows) - part.start))
    first, second, variant, apart = np.concatenate(found).T
    return first.astype(np.int64), order[second.astype(np.int64)], variant.astype(np.int64), apart


def _closest(best: np.ndarray, far: np.ndarray, probes: int) -> np.ndarray:
    """(number, 4): picture, what is near it, variant and distance, for the KEPT nearest of each picture."""
    line, out = np.arange(len(best)), []
    for _ in range(KEPT):
        at = far.argmin(1)
        there, apart = best[line, at], far[line, at]
        out.append(np.stack([line, there, at // probes, apart], axis=1)[np.isfinite(apart)])
        far[best == there[:, None]] = np.inf
    return np.concatenate(out)


@contextlib.contextmanager
def _spread() -> Iterator[Callable[..., Iterator[Any]]]:
    """`map` over the cores, one thread of linear algebra each: many small products gain nothing from more."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(usable_cores()) as pool:
        yield pool.map


def _laid_over(whole: np.ndarray, part: np.ndarray, box: np.ndarray, rounds: int) -> tuple[np.ndarray, ...]:
    """Lay `part` (pairs, HALF, HALF) over `whole` (pairs, SIDE, SIDE): the box (pairs, 4: top, bottom, left, right as
    shares) of `whole` that it shows, the gain in contrast, and the share of contrast that remains unexplained, the rim
    left out."""
    ramp = ((np.arange(HALF) + 0.5) / HALF).astype(np.float32)
    box, soft, slope = box.astype(np.float32), _soft(), _slope()
    wanted = (part - part.mean((1, 2), keepdims=True)).reshape(len(part), -1, 1)
    slopes = np.empty((len(part), 5, HALF, HALF), np.float32)
    seen = _seen(whole, box, ramp, soft)
    for _ in range(rounds):
        down = (slope @ seen) * (HALF / (box[:, 1] - box[:, 0]))[:, None, None]
        across = _times(seen, slope.T) * (HALF / (box[:, 3] - box[:, 2]))[:, None, None]
        np.multiply(down, 1 - ramp[:, None], out=slopes[:, 0])
        np.multiply(down, ramp[:, None], out=slopes[:, 1])
        np.multiply(across, 1 - ramp, out=slopes[:, 2])
        np.multiply(across, ramp, out=slopes[:, 3])
        slopes[:, 4] = seen - seen.mean((1, 2), keepdims=True)
        bent = slopes.reshape(len(slopes), 5, -1)
        normal = bent @ bent.swapaxes(1, 2)
        normal += np.eye(5, dtype=np.float32) * (1e-3 * np.trace(normal, axis1=1, axis2=2) / 5 + 1e-3)[:, None, None]
        step = np.linalg.solve(normal, bent @ wanted)[..., 0]
        box = box + np.clip(step[:, :4] / np.maximum(step[:, 4:], 0.2), -0.05, 0.05)
        box[:, ::2] = np.clip(box[:, ::2], -0.03, CROP + 0.03)
        box[:, 1::2] = np.clip(box[:, 1::2], 1 - CROP - 0.03, 1.03)
        seen = _seen(whole, box, ramp, soft)
    inner = slice(1, -1)
    here, there = (each[:, inner, inner].reshape(len(part), -1) for each in (seen, part))
    here, there = here - here.mean(1, keepdims=True), there - there.mean(1, keepdims=True)
    power, other = np.einsum("pi,pi->p", here, here) + 1e-3, np.einsum("pi,pi->p", there, there) + 1e-3
    product = np.einsum("pi,pi->p", here, there)
    left = np.where(product > 0, 1 - product**2 / (power * other), 1)
    return box, product / power, np.sqrt(np.clip(left, 0, 1))


def _seen(whole: np.ndarray, box: np.ndarray, ramp: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """(pairs, len(ramp), len(ramp)): a box of each softened picture."""
    rows, columns = (_between(box[:, at], box[:, at + 1], ramp, SIDE) for at in (0, 2))
    return _times(rows, soft) @ whole @ _times(columns, soft).swapaxes(1, 2)


def _times(many: np.ndarray, one: np.ndarray) -> np.ndarray:
    """The product of each of many matrices with one, as one product."""
    return (many.reshape(-1, many.shape[-1]) @ one).reshape(*many.shape[:-1], one.shape[1])


def _soft() -> np.ndarray:
    """(SIDE, SIDE): a binomial blur of a row (1, 4, 6, 4, 1): it takes out what re-encoding and resizing change."""
    once = np.eye(SIDE, dtype=np.float32) / 2
    once += (np.eye(SIDE, k=1, dtype=np.float32) + np.eye(SIDE, k=-1, dtype=np.float32)) / 4
    once[0, 0] = once[-1, -1] = 0.75
    return once @ once


def _slope() -> np.ndarray:
    """(HALF, HALF): differences of neighbours along a column."""
    slope = (np.eye(HALF, k=1, dtype=np.float32) - np.eye(HALF, k=-1, dtype=np.float32)) / 2
    slope[0, :2] = slope[-1, -2:] = -1, 1
    return slope


def _between(low: np.ndarray, high: np.ndarray, ramp: np.ndarray, cells: int) -> np.ndarray:
    """(pairs, len(ramp), cells): linear interpolation of a row of cells at places from `low` to `high`."""
    places = np.clip((low[:, None] + (high - low)[:, None] * ramp) * cells - 0.5, 0, cells - 1)
    return np.maximum(0, 1 - np.abs(places[:, :, None] - np.arange(cells, dtype=np.float32)))
