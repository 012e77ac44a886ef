"""The algorithm itself: merges learned from words, and applied to one.

**The tie rule.** Of equally frequent pairs the one with the smaller ids is merged first (the left
id decides, then the right one); ids are special tokens, bytes, merges, in this order.
"""

import heapq
from collections import defaultdict
from itertools import pairwise


def learn_merges(
    counts: dict[bytes, int], tokens: list[bytes], vocab_size: int
) -> list[tuple[bytes, bytes]]:
    """The merges that bring `tokens` (id -> bytes, appended to) to vocab_size, or fewer.

    `counts` says how often each pre-token occurs, at least once. Only pre-tokens that hold the
    merged pair are touched and recounted (Sennrich et al. 2016, section 3.2), so the work follows
    the changes and not the length of the text. Ends early where no pair is left.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    words = [[ids[bytes([b])] for b in word] for word in counts]
    number = list(counts.values())
    pair_counts, where = defaultdict(int), defaultdict(set)
    for i, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += number[i]
            where[pair].add(i)
    queue = [(-n, pair) for pair, n in pair_counts.items()]
    heapq.heapify(queue)
    merges = []
    while len(tokens) < vocab_size and queue:
        minus_count, pair = heapq.heappop(queue)
        if -minus_count != pair_counts[pair]:  # it shrank since it was queued: back in its place
            if pair_counts[pair]:
                heapq.heappush(queue, (-pair_counts[pair], pair))
            continue
        left, right = (tokens[i] for i in pair)
        new = ids.setdefault(left + right, len(tokens))
        if new == len(tokens):  # else `tokens` had it already
            tokens.append(left + right)
        merges.append((left, right))
        grown = set()
        for i in where.pop(pair):
            before, words[i] = words[i], merge(words[i], pair, new)
            for old in pairwise(before):
                pair_counts[old] -= number[i]
            for now in pairwise(words[i]):
                pair_counts[now] += number[i]
                if new in now:  # only such a pair can have grown
                    where[now].add(i)
                    grown.add(now)
        for pair in grown:
            heapq.heappush(queue, (-pair_counts[pair], pair))
    return merges


def merge(word: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`word` with each `pair` of neighbours replaced by `new`, from left to right.

    >>> merge([1, 2, 3, 1, 2], (1, 2), 9)
    [9, 3, 9]
    """
    merged = []
    for token in word:
        if merged and (merged[-1], token) == pair:
            merged[-1] = new
        else:
            merged.append(token)
    return merged


def apply_merges(symbols: list[int], ranks: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    """The ids that one pre-token's bytes become: the pair of the lowest rank is merged first, of
    equal ones the leftmost, until there is none. `ranks` is pair -> (rank, id of the two merged).

    A heap of candidates over a linked list: n log n, so that a line of ten thousand "=" (one
    pre-token) takes no minute. An entry that a neighbour's merge has outdated is skipped.
    """
    symbols, queue = list(symbols), []
    before, after = list(range(-1, len(symbols) - 1)), [*range(1, len(symbols)), -1]

    def queue_pair(at: int):
        if at >= 0 and after[at] >= 0:
            found = ranks.get((symbols[at], symbols[after[at]]))
            if found:
                heapq.heappush(queue, (found[0], at, found[1]))

    for at in range(len(symbols)):
        queue_pair(at)
    while queue:
        _, at, new = heapq.heappop(queue)
        right = after[at]
        if symbols[at] is None or right < 0:
            continue
        found = ranks.get((symbols[at], symbols[right]))
        if not found or found[1] != new:
            continue
        symbols[at], symbols[right] = new, None  # None: swallowed by its left neighbour
        after[at] = after[right]
        if after[at] >= 0:
            before[after[at]] = at
        queue_pair(before[at])
        queue_pair(at)
    return [i for i in symbols if i is not None]
