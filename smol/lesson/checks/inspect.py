"""The checks of notebook 1: parameters counted, the nearest token, the loop that writes."""

from collections.abc import Callable

import torch

from smol.config import SmolLM2Config
from smol.lesson import kind
from smol.lesson.exercise import SMALL, UNTIED, ask, exercise, expect
from smol.pretrained import skeleton


@exercise
def check_count(count):
    for config in (SMALL, UNTIED, SmolLM2Config()):
        want = sum(p.numel() for p in skeleton(config).parameters())
        tied = "tied" if config.tie_word_embeddings else "untied"
        got = ask(kind.number, count, config)
        said = f"D = {config.hidden_size}, {tied}: {got:,}, PyTorch has {want:,}"
        fixed = "that is SmolLM2's number: work it out from the config"
        why = fixed if got in FIXED else _miscounted(config).get(got - want)
        expect(got == want, f"{said}: {why}" if why else said)


FIXED = (134_515_008, 162_826_560)  # SmolLM2's parameters, and all tensors of its state dict


def _miscounted(config: SmolLM2Config) -> dict[int, str]:
    """What to say of a count that is wrong by so much."""
    D, F, V = config.hidden_size, config.intermediate_size, config.vocab_size
    L, kv = config.num_hidden_layers, config.num_key_value_heads * config.head_dim
    block = 2 * D * D + 2 * D * kv + 3 * D * F + 2 * D
    tied = config.tie_word_embeddings
    H, K = config.num_attention_heads, config.num_key_value_heads
    biases = {"attention's": 2 * D + 2 * kv, "the MLP's": 2 * F + D}
    biases |= {"q, k and v's": D + 2 * kv, "all": sum(biases.values())}
    said = {L * many: "there are no biases in this model" for many in biases.values()}
    for width in (2 * L * D * (64 * K - kv), 2 * L * D * (64 * (H + K) - D - kv)):
        said[width] = "a head is config.head_dim wide: 64 is SmolLM2's"
    said[-V * D if tied else -2 * V * D] = "the embedding is a matrix too, V × D"
    return said | {
        (1 if tied else -1) * V * D: (
            "the output head is the embedding, count it once"
            if tied
            else "an untied output head is a matrix of its own"
        ),
        -(2 * L + 1) * D: "norms have weights too",
        -2 * L * D: "each block has two norms of D weights",
        -L * D: "each block has two norms, not one",
        -D: "there is one more norm after the last block",
        2 * L * D * (D - kv): "k_proj and v_proj make key/value heads only, and those are fewer",
        -(L - 1) * block: "that is one block, the model has num_hidden_layers of them",
        -L * D * D: "q_proj and o_proj have D × D weights each",
        -L * D * F: "the MLP has three matrices, not two",
    }


@exercise
def check_nearest(nearest):
    # Rows of +1 and -1, all equally long: whichever way it measures, only the token itself and
    # the opposite direction can be taken for the nearest.
    signs = torch.randn(50, 16).sign()
    signs[31], signs[20] = signs[7], -signs[7]
    signs[31, 0] *= -1
    got = _answer(nearest, signs, 7)
    expect(got != 7, "the token nearest to 7 is 7 itself: leave it out")
    expect(got != 20, "row 20 is the opposite of row 7: the nearest has the largest cosine")
    expect(got != 30, f"nearest to 7 is 31, not 30: {SHIFTED}")
    expect(got == 31, f"nearest to 7 is 31, not {got:g}: compare directions: the largest cosine")

    table = torch.randn(50, 8)
    table[7] = 3 * table[31] + 0.01 * torch.randn(8)  # one direction, another length
    table[3] = 0.8 * table[7] + 0.5 * torch.randn(8)  # at less distance than row 31
    table[12] = 30 * (table[31] + 0.7 * torch.randn(8))  # long, and not in this direction
    for token, want in ((7, 31), (31, 7)):
        got = _answer(nearest, table, token)
        why = _measured_by(table, token, got)
        expect(got == want, f"nearest to {token} is {want}, not {got:g}: {why}")


SHIFTED = "is its row left out? Then the ids after it have moved by one"


def _answer(nearest, table: torch.Tensor, token: int) -> int | float:
    """What `nearest` answers on a parameter, as the notebook's table is one."""
    given = torch.nn.Parameter(table.clone())
    in_place = "your function changes `table`: work on a copy"
    try:
        got = ask(kind.number, nearest, given, token)
    except kind.Raised as error:  # PyTorch's words for it: "a leaf Variable that requires grad"
        expect("leaf Variable" not in str(error), in_place)
        raise
    is_cosine = isinstance(got, float) and abs(got) < 1.001 and got not in (0, 1)
    expect(not is_cosine, f"your answer is {got:.3g}: that is a cosine, not an id")
    expect(torch.equal(given, table), in_place)
    return got


def _measured_by(table: torch.Tensor, token: int, got: float) -> str:
    """What to say of a wrong answer: the measure whose nearest it is, without the token or as the
    second best with it."""
    for why, scores in (
        ("length must not count: divide each row by its own", table @ table[token]),
        ("compare directions, not distances", -(table - table[token]).norm(dim=-1)),
    ):
        order = scores.argsort(descending=True).tolist()
        if got in (order[1], next(i for i in order if i != token)):
            return why
    return "compare directions: the largest cosine"


# -- the loop that writes -------------------------------------------------------------------------


def _go_on(model: Callable, ids: list[int], count: int) -> list[int]:
    ids = list(ids)
    for _ in range(count):
        ids.append(model(ids)[-1].argmax().item())
    return ids


@exercise(instead=_go_on)
def check_go_on(go_on):
    for ids, count in (([3, 1, 4], 4), ([7], 5), ([2, 2], 0)):
        given, want = list(ids), _go_on(adds_up, ids, count)
        try:
            got = ask(kind.listed, go_on, adds_up, given, count)
        except kind.Raised as error:
            none = "NoneType" in str(error) or "was given None" in str(error)
            expect(not none, f"it raised {error}: list.append changes the list and returns None")
            raise
        expect(given == ids, "your function changes the list that it was given: work on a copy")
        why = next((why for why, wrong in _gone_wrong(ids, count) if got == wrong), "")
        said = f"from {ids}, {count} more, by a model that says the sum of all digits so far"
        said += f" (its last digit): {got}, should be {want}"
        expect(got == want, f"{said}: {why}" if why else said)


def adds_up(ids: list[int]) -> torch.Tensor:
    """A model of ten tokens, the digits, that can be followed by hand: at each place the likeliest
    next one is the last digit of the sum of all up to there. Returns scores, (T, 10)."""
    if not isinstance(ids, list | tuple) or not ids:
        raise ValueError(f"the model takes a list of ids, it was given {kind.described(ids)}")
    ids = kind.plain([*ids])
    for i in ids:
        if isinstance(i, list | tuple):
            raise ValueError("the model takes a list of ids, it was given a list of lists")
        if isinstance(i, float):
            raise ValueError(f"an id is a whole number, not {i:g}: is that a score? argmax tells")
        if i not in range(10):
            why = "argmax over the last row of scores, not over the whole table"
            raise ValueError(f"the model's ids are 0 to 9, it was given {i}: {why}")
    likeliest = torch.tensor(ids).cumsum(0) % 10
    steps = (torch.arange(10) - likeliest[:, None]) % 10  # 0 for the likeliest, 9 for the least
    return 9.0 - steps + torch.arange(len(ids))[:, None] / 4


def _gone_wrong(ids: list[int], count: int) -> list[tuple[str, list[int]]]:
    """The classic mistakes: what to say of each, and what it makes of these ids."""

    def loop(choose: Callable) -> list[int]:
        text = list(ids)
        for _ in range(count):
            text.append(choose(text))
        return text

    once = adds_up(ids)
    return [
        ("the ids at the start belong to the answer", _go_on(adds_up, ids, count)[len(ids) :]),
        ("one token too few", _go_on(adds_up, ids, max(count - 1, 0))),
        ("too few: is return inside the loop?", _go_on(adds_up, ids, min(count, 1))),
        ("one token too many", _go_on(adds_up, ids, count + 1)),
        (
            "that is the prediction at the first place: the last row of the scores is the next",
            loop(lambda text: adds_up(text)[0].argmax().item()),
        ),
        (
            "only the last token was asked about: give the model the whole text each time",
            loop(lambda text: adds_up(text[-1:])[-1].argmax().item()),
        ),
        (
            "the same text was asked again: put each new token behind it first",
            loop(lambda text: once[-1].argmax().item()),
        ),
        (
            "asked once, and took the best few: ask again after each token",
            [*ids, *once[-1].topk(min(count, 10)).indices.tolist()],
        ),
        (
            "that is the place with the largest score, not the token: argmax over the last row",
            loop(lambda text: adds_up(text).argmax(0)[-1].item()),
        ),
        (
            "the scores have two axes, places and tokens: [-1] is their last row",
            [*ids, *[0] * count],  # argmax of one number
        ),
        (
            "that is the unlikeliest token each time: the largest score is the likeliest",
            loop(lambda text: adds_up(text)[-1].argmin().item()),
        ),
    ]
