"""What the mistakes of fine-tuning cost, in right answers: `python -m smol.bench traps`.

A small model learns to answer questions about a sentence, once as it should and once with each
mistake: with the same conversations in the same order, the same steps and seeds. Then each answers
questions about heroes that it never met, and a right answer is right to the letter. Beside it
stands by how much the mistake turns the first step's gradient.
"""

import itertools
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from smol.bench.timing import Run
from smol.finetune import Batch, Chat, pack, pad, render, truncate
from smol.finetune.data import TEMPLATE, end_of, pad_of
from smol.generate import generate, left_pad
from smol.model import SmolLM2
from smol.pretrained import load_pretrained
from smol.pretrained.weights import SHIPPED
from smol.stories.chat import Conversation, short_conversations
from smol.tokenizer import BPETokenizer
from smol.train import LossModel

SEEDS = range(3)
STEPS, CHATS = 200, 8  # conversations of a step
RATE, WARM_UP = 2e-3, 10  # AdamW's learning rate, and the steps in which it comes
ASKED = 120  # conversations that are held out, of two questions each
ANSWER = 24  # tokens, at the most
AT_ONCE = 64  # prompts
ROW = 512  # places of a packed row
AGAIN, WORDS = "What is the sentence?", 20  # what has a long answer, and the tokens of that
HELD_OUT = 2**40  # the seed of the held-out questions
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}


class Ids(NamedTuple):
    """The token that ends answers, the one that fills rows, and the new line."""

    end: int
    pad: int
    line: int


class Trap(NamedTuple):
    """A mistake: where it differs from the clean run, and nowhere else.

    `chats` does something to each conversation, and `cut` shortens those that exceed a length;
    `lay` makes inputs, labels and the model's layout of them; `parts` of equal weight make the
    loss, whatever they hold; the rate is multiplied by `faster`; `prompt` writes what is asked.
    """

    says: str
    chats: Callable[[Chat, Ids], Chat] | None = None
    cut: Callable[[Chat, int], Chat] | None = None
    lay: Callable[[list[Chat], Ids], tuple[Tensor, Tensor, dict]] | None = None
    parts: int = 1
    faster: float = 1.0
    prompt: Callable[[list[dict], BPETokenizer, Ids], list[int]] | None = None
    like: str = ""  # learns what that one learns, to the bit: it is not run again
    runs: bool = True  # or only its gradient is computed


# -- the mistakes ---------------------------------------------------------------------------------


def without_end(chat: Chat, ids: Ids) -> Chat:
    """An answer's text is learned, and not that it ends."""
    learned = [here and i != ids.end for i, here in zip(*chat, strict=True)]
    return Chat(chat.ids, learned)


def everything(chat: Chat, ids: Ids) -> Chat:
    return Chat(chat.ids, [True] * len(chat.ids))


def early(chat: Chat, ids: Ids) -> Chat:
    return Chat(chat.ids, [*chat.mask[1:], False])


def late(chat: Chat, ids: Ids) -> Chat:
    return Chat(chat.ids, [False, *chat.mask[:-1]])


def cut_anywhere(chat: Chat, length: int) -> Chat:
    """As many ids as fit, and of their mask as much."""
    return Chat(chat.ids[: length + 1], chat.mask[: length + 1])


def cut_after_an_answer(chat: Chat, length: int) -> Chat:
    return truncate(chat, length)[0]


def padded(chats: list[Chat], ids: Ids) -> tuple[Tensor, Tensor, dict]:
    """As it should be: padding is no end."""
    batch = pad(chats, ids.pad)
    return batch.inputs, batch.labels, {}


def padded_with_ends(chats: list[Chat], ids: Ids) -> tuple[Tensor, Tensor, dict]:
    """As a collator has it that knows padding by its id (transformers'
    DataCollatorForLanguageModeling): labels that are this id teach nothing."""
    batch = pad(chats, ids.pad)
    inputs = batch.inputs.masked_fill(batch.documents < 0, ids.end)
    return inputs, batch.labels.masked_fill(batch.labels == ids.end, -100), {}


def packed(chats: list[Chat], ids: Ids, keep: Iterable[str] = ()) -> tuple[Tensor, Tensor, dict]:
    """Many in a row, with so much of the layout that keeps them apart: mask, positions."""
    batch: Batch = pack(chats, ROW, ids.pad)
    layout = batch.layout()
    return batch.inputs, batch.labels, {name: layout[name] for name in keep}


def plain_prompt(messages: list[dict], tokenizer: BPETokenizer, ids: Ids) -> list[int]:
    return tokenizer.apply_chat_template(messages, True)


def with_system(messages: list[dict], tokenizer: BPETokenizer, ids: Ids) -> list[int]:
    return tokenizer.apply_chat_template([SYSTEM, *messages], True)


def without_lines(messages: list[dict], tokenizer: BPETokenizer, ids: Ids) -> list[int]:
    """The "\\n" after each <|im_end|>, which no model writes, is missing."""
    prompt = plain_prompt(messages, tokenizer, ids)
    after = zip([None, *prompt], prompt, strict=False)
    return [i for before, i in after if (before, i) != (ids.end, ids.line)]


def without_template(messages: list[dict], tokenizer: BPETokenizer, ids: Ids) -> list[int]:
    text = "\n".join(message["content"] for message in messages)
    return [ids.pad, *tokenizer.encode(f"{text}\n")]  # as the base read its stories


CLEAN = Trap("as it should be")
TRAPS = {
    "clean": CLEAN,
    "end not learned": Trap("the end token is outside the mask", chats=without_end),
    "pad = end": Trap(
        "padding is the end token, and no label", lay=padded_with_ends, like="end not learned"
    ),
    "all learned": Trap("the questions are learned as well", chats=everything),
    "one early": Trap("the mask begins and ends a place too early", chats=early),
    "one late": Trap("the mask begins and ends a place too late", chats=late),
    "system message": Trap("in use a system message stands first", prompt=with_system),
    "no line break": Trap("in use the \\n after <|im_end|> is missing", prompt=without_lines),
    "no template": Trap("in use the question stands bare", prompt=without_template),
    "neighbours": Trap("packed rows: all see what is before, positions run on", lay=packed),
    "neighbours, from 0": Trap(
        "packed rows: all see what is before, each counts from 0",
        lay=partial(packed, keep=("positions",)),
        runs=False,
    ),
    "packed": Trap(
        "packed rows as they should be",
        lay=partial(packed, keep=("mask", "positions")),
        runs=False,
    ),
    "packed, run on": Trap(
        "packed rows, each sees itself, positions run on",
        lay=partial(packed, keep=("mask",)),
        runs=False,
    ),
    "rate × 10": Trap("the learning rate is ten times as high", faster=10.0),
    "rate / 10": Trap("the learning rate is a tenth", faster=0.1),
    "mean of means": Trap("each conversation has its own mean", parts=CHATS),
    "cut anywhere": Trap("the longer half is cut, wherever that is", cut=cut_anywhere),
    "cut after an answer": Trap(
        "the longer half is cut, after an answer", cut=cut_after_an_answer
    ),
}


# -- learning and asking --------------------------------------------------------------------------


def ids_of(tokenizer: BPETokenizer) -> Ids:
    return Ids(end_of(tokenizer), pad_of(tokenizer), tokenizer.encode("\n")[0])


def with_long(
    conversations: Iterable[Conversation], tokenizer: BPETokenizer
) -> Iterator[Conversation]:
    """Two questions each; every other time the second asks for the sentence itself."""
    number = itertools.count()
    for messages, kinds in conversations:
        sentence = messages[0]["content"].partition("\n\n")[0]
        if len(tokenizer.encode(sentence)) > WORDS:
            continue
        messages, kinds = messages[:4], kinds[:2]
        if next(number) % 2:
            asked, said = ({**m} for m in messages[2:])
            asked["content"], said["content"] = AGAIN, sentence
            messages, kinds = [*messages[:2], asked, said], [kinds[0], "long"]
        yield Conversation(messages, kinds)


def some(
    count: int, seed: int, tokenizer: BPETokenizer, held_out: bool = False
) -> list[Conversation]:
    found = with_long(short_conversations(seed, held_out), tokenizer)
    return list(itertools.islice(found, count))


def batch_of(trap: Trap, chats: list[Chat], ids: Ids, cut: int) -> tuple[Tensor, Tensor, dict]:
    """Inputs, labels and layout of a step, with the mistake. `cut` is where half are longer."""
    if trap.chats:
        chats = [trap.chats(chat, ids) for chat in chats]
    if trap.cut:
        chats = [trap.cut(c, cut) if len(c.ids) > cut + 1 else c for c in chats]
    return (trap.lay or padded)(chats, ids)


def backward(model: LossModel, batch: tuple[Tensor, Tensor, dict], parts: int) -> None:
    """Adds the gradient of the loss per target; or with parts the mean of their own losses."""
    inputs, labels, layout = batch
    rows = zip(inputs.chunk(parts), labels.chunk(parts), strict=True)
    for x, y in rows:
        nats, targets = model(x, y, **layout)
        (nats / targets / parts).backward()


def tuned(
    model: SmolLM2, trap: Trap, chats: list[Chat], ids: Ids, steps: int, cut: int
) -> SmolLM2:
    """The model after so many steps; `model` itself is changed."""
    loss_model = LossModel(model.train())
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.95), weight_decay=0.0, fused=True
    )
    for step in range(steps):
        batch = batch_of(trap, chats[step * CHATS : (step + 1) * CHATS], ids, cut)
        backward(loss_model, batch, trap.parts)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        share = min(1.0, (step + 1) / WARM_UP, 2 * (steps - step) / steps)
        for group in optimizer.param_groups:
            group["lr"] = RATE * trap.faster * share
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def gradient(model: SmolLM2, trap: Trap, chats: list[Chat], ids: Ids, cut: int) -> Tensor:
    """The first step's, of all parameters in a row."""
    backward(LossModel(model), batch_of(trap, chats[:CHATS], ids, cut), trap.parts)
    parts = [p.grad.flatten() for p in model.parameters()]
    model.zero_grad()
    return torch.cat(parts)


def questions(
    trap: Trap, conversations: list[Conversation], tokenizer: BPETokenizer, ids: Ids
) -> list[tuple[list[int], str, str]]:
    """Prompt, right reply and kind of all that is asked, after the right replies so far."""
    prompt = trap.prompt or plain_prompt
    return [
        (prompt(c.messages[: 2 * i + 1], tokenizer, ids), c.messages[2 * i + 1]["content"], kind)
        for c in conversations
        for i, kind in enumerate(c.kinds)
    ]


def answered(model: SmolLM2, asked: list[tuple], tokenizer: BPETokenizer, ids: Ids) -> dict:
    """[right, asked] of each kind, the share of replies that end, and their mean length.

    Only the token that ends answers ends one, as in a chat: a base that writes its end of text
    goes on after it.
    """
    found = {kind: [0, 0] for kind in ("plain", "open", "long")}
    ended, lengths = 0, []
    asked = sorted(asked, key=lambda question: len(question[0]))
    for begin in range(0, len(asked), AT_ONCE):
        prompts, wanted, kinds = zip(*asked[begin : begin + AT_ONCE], strict=True)
        x, real = left_pad(prompts, ids.pad)
        made = generate(model, x, ANSWER, stop_ids=ids.end, attention_mask=real)[:, x.size(1) :]
        for reply, right, kind in zip(made.tolist(), wanted, kinds, strict=True):
            stop = reply.index(ids.end) if ids.end in reply else None
            count = found[kind if kind in found else "plain"]
            count[0] += stop is not None and tokenizer.decode(reply[:stop]) == right
            count[1] += 1
            ended += stop is not None
            lengths.append(len(reply[:stop]))
    return {
        **{kind: count for kind, count in found.items() if count[1]},
        "ended": ended / len(asked),
        "tokens": statistics.mean(lengths),
    }


# -- the bench ------------------------------------------------------------------------------------


def expect_change(
    name: str, trap: Trap, chats: list[Chat], ids: Ids, cut: int, asked: list[tuple], clean: list
) -> None:
    """AssertionError where a trap learns as the clean run does, and is asked as that is."""
    one, other = (batch_of(t, chats[:CHATS], ids, cut) for t in (trap, CLEAN))
    same = len(one[2]) == len(other[2]) and all(map(torch.equal, one[:2], other[:2]))
    if same and asked == clean and (trap.parts, trap.faster) == (1, 1.0):
        raise AssertionError(f"{name!r} changes nothing of the clean run: it is no trap")


def traps(
    run: Run | None = None,
    base: Callable[[], SmolLM2] | None = None,
    table: dict[str, Trap] = TRAPS,
    seeds: Iterable[int] = SEEDS,
    steps: int = STEPS,
    count: int = ASKED,
) -> dict:
    """For each trap and each seed what is answered right, and by how much the gradient differs.

    `base` gives the model to begin with, new each time: assets/smol-stories. With a `run` whose
    time is over it ends after the part that was begun. AssertionError for a trap that is none.
    """
    run, base = run or Run(), base or (lambda: load_pretrained(SHIPPED))
    tokenizer = BPETokenizer.load(SHIPPED)
    tokenizer.chat_template = TEMPLATE
    ids, held_out = ids_of(tokenizer), some(count, HELD_OUT, tokenizer, held_out=True)
    run.note(base=SHIPPED.name, steps=steps, chats=CHATS, rate=RATE)
    rows = {name: {"says": trap.says, "runs": []} for name, trap in table.items()}
    longest = 0.0
    for seed in seeds:
        chats = [render(c.messages, tokenizer) for c in some(steps * CHATS, seed, tokenizer)]
        cut = statistics.median_low(len(chat.ids) - 1 for chat in chats)
        right = gradient(base(), CLEAN, chats, ids, cut)
        clean = questions(CLEAN, held_out, tokenizer, ids)
        model = None  # what the clean run has learned
        for name, trap in table.items():
            if run.left() < longest:
                return run.figures
            start, row = time.monotonic(), {"seed": seed}
            asked = questions(trap, held_out, tokenizer, ids)
            if trap is not CLEAN:
                expect_change(name, trap, chats, ids, cut, asked, clean)
            if trap is not CLEAN and not trap.prompt and trap.faster == 1:
                off = gradient(base(), trap, chats, ids, cut) - right
                row["gradient"] = (off.norm() / right.norm()).item()
            if trap.like:
                row = {**rows[trap.like]["runs"][-1], **row}
            elif trap.runs:
                learned = model if trap.prompt else tuned(base(), trap, chats, ids, steps, cut)
                model = learned if trap is CLEAN else model
                row |= answered(learned, asked, tokenizer, ids)
            seconds = time.monotonic() - start
            longest = max(longest, seconds)
            rows[name]["runs"].append(row)
            print(f"{told(name, row)} ({seconds:.0f} s)")
            run.note(rows=rows)
    return run.figures


def told(name: str, row: dict) -> str:
    """A run in words."""
    said = [f"{name:20} seed {row['seed']}:"]
    said += [f"{kind} {row[kind][0]} of {row[kind][1]}," for kind in ("plain", "open", "long")
             if kind in row]  # fmt: skip
    if "ended" in row:
        said.append(f"{row['ended']:.0%} end, {row['tokens']:.1f} tokens")
    if "gradient" in row:
        said.append(f"gradient {row['gradient']:.1%} off")
    return " ".join(said)
