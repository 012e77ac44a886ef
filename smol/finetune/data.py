"""What fine-tuning reads: conversations, or pairs of them, in batches; and those held out."""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, count, islice

import numpy as np
from torch import Tensor

from smol import stories
from smol.checks import flag, whole
from smol.checks import seed as seed_of
from smol.finetune.messages import SMOLTALK, read_messages, smoltalk
from smol.finetune.packing import pad
from smol.finetune.pairs import Pair, read_pairs, story_pairs
from smol.finetune.render import Chat, answer_ends, render, truncate
from smol.finetune.settings import ECHO, EVERY, STORIES, FinetuneConfig, lengths_of
from smol.stories.chat import FILE, conversations
from smol.stories.exercises import echo, opening, story
from smol.terminal import say
from smol.tokenizer import BPETokenizer
from smol.train.data import Reading, Validation

DRAWN = 8  # batches that are drawn at once, so that rows of like length meet
# What the grammar writes are not only conversations. Half of the tokens that are learned are of
# stories as the base has read them, or it forgets in a few hundred steps how to tell one. And of a
# hundred rows so many are beginnings of stories that were wished for, and echoes, which keep it
# copying what no story says twice.
ALONE = 0.5
BEGUN, ECHOES = 10, 5
# And of the conversations in which a whole story is told so many stay. What a story draws nobody
# can foretell: most of its gradient is noise, in which what is rarely asked gets lost.
TOLD = 0.3
HELD_OUT = 96  # by the grammar; of a file the last tenth, and no more than 1,024
# ChatML without a system message, with the marks by which transformers finds the answers: for a
# tokenizer that has no template of its own.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' "
    "%}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ m['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# What is learned from at once: a conversation, or the chosen and the rejected one of a pair.
Item = Chat | tuple[Chat, Chat]


class Chats:
    """Batches of conversations, without end: those given, shuffled anew each time round, or for
    None those of the grammar, none of which comes twice, with other rows among them (`ALONE`). Of
    these only what is of one of the `kinds`; the stories alone are always there. Of `pairs` each
    has 2B rows, a rejected conversation after the chosen one.

    `next()` gives inputs and labels, (B, T) int64, as `pad` lays them: T is the longest one's
    length, or a little more: there are eight lengths, so that a compiler meets no others. Those of
    the grammar lie beside others of like length. (Filled up to seq_len = 512 they would be a half
    longer, and take a CPU as much more time.) Batch n of a seed is always the same, so that the
    position is a number. A state is refused once the conversations, or the sentences for new ones,
    have changed, or the `base`: a hash of the model that the run keeps beside what it trains.
    `tokens_seen` counts what is learned. ValueError for settings of another type.
    """

    def __init__(
        self,
        chats: list[Item] | None,
        tokenizer: BPETokenizer,
        batch_size: int,
        seq_len: int,
        seed: int = 0,
        pairs: bool = False,
        base: str | None = None,
        kinds: Sequence[str] = EVERY,
    ):
        self._settings = {
            "batch_size": whole("batch_size", batch_size),
            "seq_len": whole("seq_len", seq_len),
            "seed": seed_of("seed", seed),
            "conversations": _hash_of(chats),
            "tokenizer": tokenizer.fingerprint,
            "template": tokenizer.chat_template,
            "base": base,
            "kinds": list(kinds),
        }
        self._chats, self._tokenizer, self._pad_id = chats, tokenizer, filler_of(tokenizer)
        self._pairs, self._lengths = flag("pairs", pairs), lengths_of(seq_len)
        self._drawn = self.tokens_seen = 0  # batches, targets
        self._order = (-1, [])  # of which time round, or of which draw, and how it goes
        self.corpus_tokens = None
        if chats is not None:
            self.corpus_tokens = sum(sum(chat.mask) for chat in _rows(chats))

    @property
    def unique_tokens(self) -> int:
        """`tokens_seen` without what came again."""
        return min(self.tokens_seen, self.corpus_tokens or self.tokens_seen)

    def __iter__(self) -> "Chats":
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        items = self._fresh() if self._chats is None else self._next()
        batch = pad(_rows(items), self._pad_id, self._lengths)
        self._drawn += 1
        self.tokens_seen += (batch.labels != -100).sum().item()
        return batch.inputs, batch.labels

    def _fresh(self) -> list[Item]:
        (draw, at), B = divmod(self._drawn, DRAWN), self._settings["batch_size"]
        if draw != self._order[0]:
            rng = random.Random(f"{self._settings['seed']} {draw}")
            items = self._drawn_pairs(rng) if self._pairs else self._drawn_chats(rng)
            items = sorted(islice(items, DRAWN * B), key=_length)
            starts = sorted(range(0, DRAWN * B, B), key=lambda _: rng.random())
            self._order = draw, [items[i : i + B] for i in starts]
        return self._order[1][at]

    def _drawn_pairs(self, rng: random.Random) -> Iterator[Item]:
        said = story_pairs(10**9, rng.getrandbits(63))
        return _fit(said, self._tokenizer, self._settings["seq_len"])

    def _drawn_chats(self, rng: random.Random) -> Iterator[Item]:
        """Stories alone, without end, beside `_talks`: their share of the tokens is `ALONE`."""
        talks, alone, others = self._talks(rng), 0, 0
        while True:
            if alone < ALONE * (alone + others):
                yield (chat := self._alone(story(rng)))
                alone += sum(chat.mask)
            else:
                yield (chat := next(talks))
                others += sum(chat.mask)

    def _talks(self, rng: random.Random) -> Iterator[Item]:
        """Of what is drawn at once: beginnings and echoes in their shares, then conversations."""
        kinds, rows = self._settings["kinds"], DRAWN * self._settings["batch_size"]
        shares = BEGUN * ("story" in kinds), ECHOES * (ECHO in kinds)
        begun, echoes = (round(share * rows / 100) for share in shares)
        yield from (self._begun(opening(rng)) for _ in range(begun))
        asked = [kind for kind in kinds if kind != ECHO]
        said = (echo(rng) for _ in (range(echoes) if asked else count()))
        if asked:
            talks = conversations(10**9, rng.getrandbits(63), kinds=asked)
            kept = (talk for talk in talks if talk.kinds[0] != "story" or rng.random() < TOLD)
            said = chain(said, (talk.messages for talk in kept))
        yield from _fit(said, self._tokenizer, self._settings["seq_len"])

    def _alone(self, text: str) -> Chat:
        """A story as the base reads it, between two ends of text; as much of it as fits."""
        end = self._tokenizer.eos_id
        ids = [end, *self._tokenizer.encode(text), end][: self._settings["seq_len"]]
        return Chat(ids, [False] + [True] * (len(ids) - 1))

    def _begun(self, messages: list[dict[str, str]]) -> Chat:
        """An answer that is only begun: its end is not learned, for it is none."""
        chat = render(messages, self._tokenizer)
        room = min(answer_ends(chat.mask)[0], self._settings["seq_len"])
        return Chat(chat.ids[:room], chat.mask[:room])

    def _next(self) -> list[Item]:
        B, found = self._settings["batch_size"], []
        for number in range(self._drawn * B, self._drawn * B + B):
            epoch, at = divmod(number, len(self._chats))
            if epoch != self._order[0]:
                draw = np.random.default_rng([self._settings["seed"], epoch])
                self._order = epoch, draw.permutation(len(self._chats)).tolist()
            found.append(self._chats[self._order[1][at]])
        return found

    def state_dict(self) -> dict:
        """How far it has come, as `torch.load(weights_only=True)` takes it."""
        return {**self._settings, "drawn": self._drawn, "tokens_seen": self.tokens_seen}

    def load_state_dict(self, state: dict) -> None:
        """Goes on where `state` was taken. ValueError for other conversations or settings."""
        if changed := [k for k, v in self._settings.items() if state.get(k) != v]:
            raise ValueError(
                f"the run that is resumed had another {changed[0]}: resume with the data, the "
                "model and the settings that it began with"
            )
        self._drawn, self.tokens_seen = state["drawn"], state["tokens_seen"]


def _hash_of(chats: list[Item] | None) -> str:
    """Of the conversations, or of the sentences that they are written with."""
    files = (*stories.FILES, FILE) if chats is None else ()
    text = json.dumps(
        [chats, ALONE, BEGUN, ECHOES, TOLD, *(file.read_text(encoding="utf-8") for file in files)]
    )
    return hashlib.sha256(text.encode()).hexdigest()


def reading_of(
    config: FinetuneConfig, tokenizer: BPETokenizer, base: str | None = None
) -> Reading:
    """The conversations, for DPO the pairs, that the settings name, and those that are held out of
    them. `base` is as in `Chats`.

    ValueError for a file of fewer than two that fit seq_len; those that do not are left out.
    """
    B, T, pairs = config.batch_size, config.seq_len, config.method == "dpo"
    if config.data == STORIES:
        talks = conversations(HELD_OUT, 0, held_out=True)
        said = list(
            story_pairs(HELD_OUT, 0, held_out=True) if pairs else (t.messages for t in talks)
        )
        held_out, chats = _fitting(said, tokenizer, T), None
    else:
        read = read_pairs if pairs else read_messages
        said = list(smoltalk() if config.data == SMOLTALK else read(config.data))
        chats = _fitting(said, tokenizer, T)
        if len(chats) < 2:
            what = "pairs" if pairs else "conversations"
            raise ValueError(
                f"{config.data} has {len(chats)} {what} with an answer within {T} tokens: "
                "give two or more, one to learn from and one to be held out, or a larger seq_len"
            )
        cut = len(chats) - max(1, len(chats) // 10)
        chats, held_out = chats[:cut], chats[cut:][:1024]
    if not held_out:
        raise ValueError(f"no conversation has an answer within {T} tokens: take 512")
    kinds = config.kinds.split(",") if config.kinds else EVERY
    batches = Chats(chats, tokenizer, B, T, config.seed, pairs, base, kinds)
    return Reading(tokenizer, batches, _validation_of(held_out, tokenizer, B))


def _fitting(said: list, tokenizer: BPETokenizer, seq_len: int) -> list[Item]:
    fit = list(_fit(said, tokenizer, seq_len))
    if left := len(said) - len(fit):
        what = "pairs" if isinstance(said[0], Pair) else "conversations"
        say(f"left out: {left} {what} of {len(said)}, no answer within {seq_len} tokens")
    return fit


def _fit(said: Iterable, tokenizer: BPETokenizer, seq_len: int) -> Iterator[Item]:
    """Each conversation up to its last answer that fits, each pair whole, for of a pair the last
    answers count; those of which none does are left out."""
    for one in said:
        if isinstance(one, Pair):
            pair = tuple(render(messages, tokenizer, last_only=True) for messages in one)
            if all(answer_ends(chat.mask)[0] <= seq_len for chat in pair):
                yield pair
        elif answer_ends((chat := render(one, tokenizer)).mask)[0] <= seq_len:
            yield truncate(chat, seq_len)[0]


def _rows(items: Iterable[Item]) -> list[Chat]:
    """Each conversation; of each pair the chosen one, then the rejected one."""
    return [chat for item in items for chat in ([item] if isinstance(item, Chat) else item)]


def _length(item: Item) -> int:
    return max(len(chat.ids) for chat in _rows([item]))


def _validation_of(items: list[Item], tokenizer: BPETokenizer, batch_size: int) -> Validation:
    """What is held out as batches; of its bytes those of the answers."""
    items = sorted(items, key=_length)  # so that little is padding
    rows = [pad(_rows(items[i : i + batch_size]), pad_of(tokenizer))[:2]
            for i in range(0, len(items), batch_size)]  # fmt: skip
    answered = [i for chat in _rows(items) for i, here in zip(*chat, strict=True) if here]
    said = tokenizer.decode(answered, skip_special_tokens=True)
    return Validation(rows, len(said.encode()), None)


def end_of(tokenizer: BPETokenizer) -> int:
    """The token that ends an answer by the tokenizer's template. ValueError where none does."""
    said = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
    chat = render(said, tokenizer)
    return chat.ids[answer_ends(chat.mask)[-1]]


def pad_of(tokenizer: BPETokenizer) -> int:
    """What fills rows: the end of text, where that ends no answer; else another special token.
    ValueError where there is none."""
    if (pad_id := tokenizer.pad_for(end_of(tokenizer))) is None:
        raise ValueError(
            "the tokenizer's only special token ends answers, and none is left to fill rows with: "
            "take a tokenizer with <|endoftext|> beside it"
        )
    return pad_id


def filler_of(tokenizer: BPETokenizer) -> int:
    """The same for rows of which some end a text: where it can be, a token that ends neither."""
    ends = (end_of(tokenizer), tokenizer.eos_id)
    others = [i for i in tokenizer.special_tokens.values() if i not in ends]
    return others[0] if others else pad_of(tokenizer)
