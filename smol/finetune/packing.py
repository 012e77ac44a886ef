"""Conversations as rows of equal length: padded one by one, or packed whole, many to a row."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from smol.checks import whole
from smol.finetune.render import Chat, answer_ends
from smol.model import causal_mask

PADDING = -1  # in `documents`: which conversation a place belongs to


class Batch(NamedTuple):
    """`inputs`, `labels` and `documents`, (B, T) int64. A label is the id that follows, or -100
    where that is not to be learned; documents number a row's conversations from 0, -1 is padding.
    """

    inputs: Tensor
    labels: Tensor
    documents: Tensor

    @property
    def padding(self) -> float:
        """The share of all places that hold nothing."""
        return (self.documents == PADDING).double().mean().item()

    def layout(self) -> dict[str, Tensor]:
        """`positions` (B, 1, T) and `mask` (B, 1, T, T), as `SmolLM2.forward` takes them: each
        conversation counts from 0, and sees itself and nothing before it.

        Padding sees padding: a query that sees nothing is NaN where attention is written out, and
        NaN spreads.
        """
        documents, T = self.documents, self.documents.size(1)
        places = torch.arange(T, device=documents.device).expand_as(documents)
        begins = documents.diff(dim=1, prepend=documents[:, :1] - 1) != 0
        positions = places - places.where(begins, 0).cummax(1).values
        same = documents[:, None, :, None] == documents[:, None, None, :]
        return {"positions": positions[:, None], "mask": causal_mask(T, T, same.device) & same}


def pad(chats: Sequence[Chat], pad_id: int, lengths: Sequence[int] = ()) -> Batch:
    """Each conversation in a row of its own, which `pad_id` fills up to the longest one's length,
    or to the first of `lengths` that holds it.

    Causal attention sees no padding behind it: such a batch needs no `layout`. What comes after
    the last label that is learned teaches nothing, and is left out. ValueError for no
    conversation, for one with nothing to learn, and for a `pad_id` that ends answers: code that
    knows padding by its id would leave those ends out.
    """
    longest = max(_lengths(chats))
    T = min((length for length in lengths if length >= longest), default=longest)
    return _laid([[chat] for chat in chats], T, pad_id)


def pack(chats: Sequence[Chat], seq_len: int, pad_id: int) -> Batch:
    """Whole conversations in rows of `seq_len`, as few as `best_fit` finds; the rest is `pad_id`.

    None is cut. ValueError as in `pad`, and for one that is longer than a row.
    """
    rows = best_fit(_lengths(chats), seq_len)
    return _laid([[chats[i] for i in row] for row in rows], seq_len, pad_id)


def best_fit(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Which of the things of these lengths come into which row of `seq_len`: their indices.

    The longest first, each into the row with the least room that still holds it, or into a new
    one. (Best-fit decreasing: Johnson 1973. At most 11/9 of the fewest rows possible, and a few.)
    """
    seq_len, rows = whole("seq_len", seq_len), []
    if lengths and (longest := max(lengths)) > seq_len:
        raise ValueError(f"a conversation of {longest} does not fit {seq_len}: truncate it first")
    room: list[tuple[int, int]] = []  # of each row, the fullest one first
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        at = bisect_left(room, (lengths[i], 0))
        left, row = room.pop(at) if at < len(room) else (seq_len, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(i)
        insort(room, (left - lengths[i], row))
    return rows


def _lengths(chats: Sequence[Chat]) -> list[int]:
    """How many places each conversation takes: up to the one whose label is its last end."""
    if not chats:
        raise ValueError("there is no conversation to lay into rows: give one or more")
    lengths = [max(answer_ends(chat.mask), default=0) for chat in chats]
    if 0 in lengths:
        raise ValueError(f"conversation {lengths.index(0)} has nothing to learn: leave it out")
    return lengths


def _laid(rows: list[list[Chat]], T: int, pad_id: int) -> Batch:
    pad_id = whole("pad_id", pad_id, least=0)
    inputs = torch.full((len(rows), T), pad_id)
    labels, documents = torch.full_like(inputs, -100), torch.full_like(inputs, PADDING)
    for b, row in enumerate(rows):
        at = 0
        for number, chat in enumerate(row):
            ends = answer_ends(chat.mask)
            if any(chat.ids[end] == pad_id for end in ends):
                raise ValueError(
                    f"pad_id {pad_id} is the token that ends an answer: take another, "
                    "<|endoftext|> where that is <|im_end|>"
                )
            ids, mask = torch.tensor(chat.ids[: ends[-1] + 1]), torch.tensor(chat.mask)
            here = slice(at, at := at + ends[-1])
            inputs[b, here], documents[b, here] = ids[:-1], number
            labels[b, here] = ids[1:].where(mask[1 : ends[-1] + 1], -100)
    return Batch(inputs, labels, documents)
