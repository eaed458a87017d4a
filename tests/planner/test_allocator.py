"""The caching allocator's rules, one by one, on sequences small enough to work out by hand."""

from __future__ import annotations

import random

import pytest

from fromzero.planner.allocator import MIB, replay


def take(*sizes):
    return [(+1, number, size) for number, size in enumerate(sizes, 1)]


def test_sizes_round_up_to_512_bytes_and_small_ones_share_2_mib():
    usage = replay(take(1, 513))
    assert (usage.allocated, usage.reserved) == (512 + 1024, 2 * MIB)


def test_above_1_mib_a_20_mib_segment_is_shared():
    assert replay(take(3 * MIB, 4 * MIB)).reserved == 20 * MIB
    assert replay(take(9 * MIB, 9 * MIB, 9 * MIB)).reserved == 40 * MIB


def test_from_10_mib_on_a_segment_of_its_own_rounded_to_2_mib():
    assert replay(take(11 * MIB)).reserved == 12 * MIB
    assert replay(take(10 * MIB + 1)).reserved == 12 * MIB


def test_large_rest_up_to_1_mib_is_not_split_off():
    usage = replay(take(11 * MIB))  # a segment of 12 MiB: the rest of 1 MiB stays with the block
    assert usage.allocated == 12 * MIB
    assert replay(take(int(10.5 * MIB))).allocated == 12 * MIB - int(1.5 * MIB)


def test_a_freed_block_is_used_again_best_fit_first():
    sizes = take(30 * MIB, 20 * MIB, 30 * MIB)
    usage = replay([*sizes, (-1, 1, 30 * MIB), (-1, 2, 20 * MIB), (+1, 4, 20 * MIB), (+1, 5, 30 * MIB)])
    assert usage.reserved == 80 * MIB


def test_neighbours_merge_when_freed():
    parts = take(5 * MIB, 5 * MIB, 5 * MIB)  # one segment of 20 MiB
    freed = [(-1, 2, 0), (-1, 1, 0), (-1, 3, 0)]
    assert replay([*parts, *freed, (+1, 9, 20 * MIB)]).reserved == 20 * MIB


def test_fragmentation_reserves_more_than_is_in_use():
    parts = take(*[5 * MIB] * 4)
    freed = [(-1, 1, 0), (-1, 3, 0)]  # 10 MiB are free, in two pieces
    usage = replay([*parts, *freed, (+1, 9, 10 * MIB)])
    assert usage.reserved == 30 * MIB


def test_full_card_gives_unused_segments_back_before_it_fails():
    grow = [(+1, 1, 30 * MIB), (-1, 1, 0), (+1, 2, 40 * MIB)]
    assert replay(grow).reserved == 70 * MIB
    capped = replay(grow, capacity=50 * MIB)
    assert capped.fits and capped.reserved == 40 * MIB
    assert not replay(grow, capacity=39 * MIB).fits


def test_small_and_large_blocks_never_share_a_segment():
    usage = replay([*take(1 * MIB, 30 * MIB), (-1, 2, 0), (+1, 3, 1 * MIB), (+1, 4, 1 * MIB)])
    assert usage.reserved == 30 * MIB + 2 * 2 * MIB


def test_a_segment_with_one_live_block_is_not_given_back():
    pinned = [*take(5 * MIB, 5 * MIB, 5 * MIB, 5 * MIB), (-1, 1, 0), (-1, 2, 0), (-1, 3, 0)]
    assert replay([*pinned, (+1, 9, 30 * MIB)], capacity=50 * MIB).fits
    assert not replay([*pinned, (+1, 9, 30 * MIB)], capacity=49 * MIB).fits


def test_expandable_segments_grow_by_pages_and_do_not_fragment():
    grow = [(+1, 1, 30 * MIB), (-1, 1, 0), (+1, 2, 40 * MIB)]
    assert replay(grow).reserved == 70 * MIB
    assert replay(grow, expandable=True).reserved == 40 * MIB  # the free block at the end is grown
    assert replay(take(3 * MIB), expandable=True).reserved == 20 * MIB
    assert replay(take(3 * MIB), expandable=True).allocated == 3 * MIB
    assert replay(take(21 * MIB), expandable=True).reserved == 40 * MIB


def test_expandable_segments_unmap_whole_free_pages_when_the_card_is_full():
    pinned = [*take(60 * MIB, 10 * MIB), (-1, 1, 0)]  # 80 MiB of pages; the first 60 are free, but in front
    full = [*pinned, (+1, 9, 70 * MIB)]
    assert replay(full, expandable=True).reserved == 140 * MIB
    capped = replay(full, capacity=100 * MIB, expandable=True)
    assert capped.fits
    assert not replay(full, capacity=79 * MIB, expandable=True).fits


@pytest.mark.parametrize("expandable", [False, True])
def test_accounts_balance_over_random_sequences(expandable):
    random.seed(7)
    for _ in range(20):
        requests, live, bytes_live = [], {}, 0
        peak = 0
        for block in range(400):
            if live and random.random() < 0.45:
                gone = random.choice(list(live))
                bytes_live -= live.pop(gone)
                requests.append((-1, gone, 0))
            size = random.choice([random.randint(1, 2000), random.randint(1, 3 * MIB), random.randint(1, 40 * MIB)])
            requests.append((+1, block, size))
            live[block] = size
            bytes_live += size
            peak = max(peak, bytes_live)
        usage = replay(requests, expandable=expandable)
        assert peak <= usage.allocated <= usage.reserved
        assert replay(requests, usage.reserved, expandable).fits
        assert not replay(requests, peak - 1, expandable).fits
