"""The algorithm itself: merges learned from words, and applied to one.

**The tie rule.** Of equally frequent pairs the one with the smaller ids is merged first (the left
id decides, then the right one); ids are special tokens, bytes, merges, in this order.
"""

import heapq
from collections import Counter, defaultdict
from itertools import pairwise


def learn_merges(
    counts: dict[bytes, int], tokens: list[bytes], vocab_size: int
) -> list[tuple[bytes, bytes]]:
    """The merges that bring `tokens` (id -> bytes, appended to) to vocab_size, or fewer.

    `counts` says how often each pre-token occurs. Only pre-tokens that hold the merged pair are
    touched, and only the pairs next to it recounted (Sennrich et al. 2016, section 3.2), so the
    work follows the changes and not the length of the text. Ends early where no pair is left.
    """
    ids = {token: i for i, token in enumerate(tokens)}
    words = [[ids[bytes([b])] for b in word] for word in counts]
    number = list(counts.values())
    pair_counts, where = Counter(), defaultdict(set)
    for i, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += number[i]
            where[pair].add(i)
    # The serial number keeps Python from comparing sets; it never decides which pair is merged.
    queue = [(-n, pair, k, where[pair]) for k, (pair, n) in enumerate(pair_counts.items())]
    heapq.heapify(queue)
    merges, serial = [], len(queue)
    while len(tokens) < vocab_size and queue:
        minus_count, pair, k, positions = heapq.heappop(queue)
        if -minus_count != pair_counts[pair]:  # it shrank since it was queued: back in its place
            heapq.heappush(queue, (-pair_counts[pair], pair, k, positions))
            continue
        if minus_count == 0:
            break
        left, right = (tokens[i] for i in pair)
        new = ids.setdefault(left + right, len(tokens))
        if new == len(tokens):  # else `tokens` had it from the start
            tokens.append(left + right)
        merges.append((left, right))
        born = defaultdict(set)
        for i in positions:
            words[i], changes = merge_pair(words[i], pair, new)
            for changed, by in changes:
                pair_counts[changed] += by * number[i]
                if by > 0:
                    born[changed].add(i)
        for changed, positions in born.items():
            if pair_counts[changed] > 0:
                heapq.heappush(queue, (-pair_counts[changed], changed, serial, positions))
                serial += 1
    return merges


def merge_pair(
    word: list[int], pair: tuple[int, int], new: int
) -> tuple[list[int], list[tuple[tuple[int, int], int]]]:
    """`word` with each `pair` replaced by `new`, and by how much each neighbouring pair changed.

    >>> merge_pair([1, 2, 3, 1, 2], (1, 2), 9)
    ([9, 3, 9], [((2, 3), -1), ((9, 3), 1), ((3, 1), -1), ((3, 9), 1)])
    """
    merged, changes, i = [], [], 0
    while i < len(word):
        if (word[i], *word[i + 1 : i + 2]) != pair:
            merged.append(word[i])
            i += 1
            continue
        if merged:
            changes += [((merged[-1], pair[0]), -1), ((merged[-1], new), 1)]
        if i + 2 < len(word):
            changes += [((pair[1], word[i + 2]), -1), ((new, word[i + 2]), 1)]
        merged.append(new)
        i += 2
    return merged, changes


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
