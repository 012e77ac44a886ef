"""The queue of `learn_merges` at work: what is popped, what is stale, what is pushed."""

import heapq
from collections import defaultdict
from itertools import pairwise

from smol.tokenizer import merge


def trace_merges(counts: dict[str, int], merges: int) -> None:
    """Prints a line for each pop, for words of letters with their counts.

    It is `learn_merges` with words for numbers; the tests compare the two.
    """
    tokens = sorted(set("".join(counts)))
    words = [[tokens.index(letter) for letter in word] for word in counts]
    number = list(counts.values())
    pair_counts, where = defaultdict(int), defaultdict(set)
    for i, word in enumerate(words):
        for pair in pairwise(word):
            pair_counts[pair] += number[i]
            where[pair].add(i)
    queue = [(-n, pair) for pair, n in pair_counts.items()]
    heapq.heapify(queue)

    def said(pairs) -> str:
        rows = sorted(pairs, key=lambda pair: (-pair_counts[pair], pair))
        return ", ".join(f"{_name(pair, tokens)} {pair_counts[pair]}" for pair in rows)

    print("in the heap:", said(pair_counts), "\n")
    print(f"{'popped':<9}{'now':>4}  {'what is done':<14} {'shrunk':<20} pushed")
    made = 0
    while made < merges and queue:
        n, pair = heapq.heappop(queue)
        now, done, shrunk, pushed = pair_counts[pair], "stale: dropped", set(), set()
        name = f"{_name(pair, tokens)} {-n}"
        if -n != now and now:
            done, pushed = "stale: back", {pair}
        elif -n == now:
            new = len(tokens)
            tokens.append(tokens[pair[0]] + tokens[pair[1]])
            made += 1
            done = f"merge {made}: {tokens[-1]}"
            for i in where.pop(pair):
                before, words[i] = words[i], merge(words[i], pair, new)
                for old in pairwise(before):
                    pair_counts[old] -= number[i]
                for seen in pairwise(words[i]):
                    pair_counts[seen] += number[i]
                    where[seen].add(i)
                    pushed |= {seen} if new in seen else set()
                shrunk |= set(pairwise(before)) - set(pairwise(words[i])) - {pair}
        for grown in pushed:
            heapq.heappush(queue, (-pair_counts[grown], grown))
        print(f"{name:<9}{now:>4}  {done:<14} {said(shrunk):<20} {said(pushed)}".rstrip())


def _name(pair: tuple[int, int], tokens: list[str]) -> str:
    return "+".join(tokens[i] for i in pair)
