"""Right answers to the exercises, most with switches that make of them the likely mistakes."""

import struct
from itertools import pairwise

import torch
import torch.nn.functional as F

from smol.bench.tokenizer import naive_merges
from smol.tokenizer import byte_alphabet
from smol.train.optimizer import parameter_groups
from smol.train.schedule import wsd


def parameters(
    config, tied=None, kv=None, layers=None, norms=2, last=1, mlp=3, square=2, biases=""
):
    """The number of parameters; each switch makes one mistake; `biases` are those of some parts:
    q, kv, o, gu (gate and up), d(own)."""
    D, F_, V = config.hidden_size, config.intermediate_size, config.vocab_size
    kv = kv or config.num_key_value_heads * config.head_dim
    sizes = {"q": D, "kv": 2 * kv, "o": D, "gu": 2 * F_, "d": D}
    tables = (1 if config.tie_word_embeddings else 2) if tied is None else 2 - tied
    block = square * D * D + 2 * D * kv + mlp * D * F_ + norms * D
    block += sum(sizes[part] for part in biases.split())
    return tables * V * D + (layers or config.num_hidden_layers) * block + last * D


def rope(x, positions, theta, sign=1.0):
    half = x.size(-1) // 2
    angles = sign * positions.float()[:, None] * theta ** (-torch.arange(half).float() / half)
    turned = torch.complex(*x.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat((turned.real, turned.imag), dim=-1)


def window(T, size, extra=0):
    return torch.ones(T, T, dtype=torch.bool).tril().triu(1 - size + extra)


def loss(logits, ids):
    z = logits[:, :-1]
    z = z - z.amax(-1, keepdim=True)
    log_p = z - z.exp().sum(-1, keepdim=True).log()
    return -log_p.gather(-1, ids[:, 1:, None]).mean()


def largest_off_in_the_sum_only(logits, ids):
    z = logits[:, :-1]
    log_p = z - (z - z.amax(-1, keepdim=True)).exp().sum(-1, keepdim=True).log()
    return -log_p.gather(-1, ids[:, 1:, None]).mean()


def largest_of_all_off(logits, ids):
    z = logits[:, :-1] - logits.max()
    log_p = z - z.exp().sum(-1, keepdim=True).log()
    return -log_p.gather(-1, ids[:, 1:, None]).mean()


def exp_loss(logits, ids):
    p = logits[:, :-1].exp() / logits[:, :-1].exp().sum(-1, keepdim=True)
    return -p.gather(-1, ids[:, 1:, None]).log().mean()


def log_p_loss(logits, ids):
    """A probability that is 0 has no logarithm."""
    return -logits[:, :-1].softmax(-1).gather(-1, ids[:, 1:, None]).log().mean()


def unmoved(model, ids, change=1, wrap=True, clone=True, place=-1, rows=slice(None, -1)):
    before = model(ids)[:, rows]
    other = ids.clone() if clone else ids
    other[:, place] = (other[:, place] + change) % (256 if wrap else 10**6)
    return torch.equal(model(other)[:, rows], before)


def puts(token, equal=torch.equal, rows=slice(None, -1), texts=slice(None)):
    """An is_causal that puts in `token` always (None: the next one), and compares by `equal`."""

    def is_causal(model, ids):
        other = ids.clone()
        other[texts, -1] = (ids[texts, -1] + 1) % 256 if token is None else token
        return bool(equal(model(other)[:, rows], model(ids)[:, rows]))

    return is_causal


def unpack_q4_1(block, fp16="<ee", swapped=False, minimum=True, neighbours=False, skip=4, shift=4):
    d, m = struct.unpack(fp16, block[:4])[:: -1 if swapped else 1]
    low = [byte & 15 for byte in block[skip:]]
    high = [(byte & 240) >> shift for byte in block[skip:]]
    q = [x for pair in zip(low, high, strict=True) for x in pair] if neighbours else low + high
    return [d * x + m * minimum for x in q]


def high_half_first(block):
    d, m = struct.unpack("<ee", block[:4])
    return [d * half + m for byte in block[4:] for half in (byte >> 4, byte & 15)]


def by_formula(block, low=lambda byte: byte & 15, weight=lambda d, q, m: d * q + m):
    d, m = struct.unpack("<ee", block[:4])
    halves = [low(byte) for byte in block[4:]] + [byte >> 4 for byte in block[4:]]
    return [weight(d, q, m) for q in halves]


def numbers_alone(block):
    return [byte & 15 for byte in block[4:]] + [byte >> 4 for byte in block[4:]]


def interleave(weight, heads):
    rows, D = weight.shape
    return weight.view(heads, 2, rows // heads // 2, D).transpose(1, 2).reshape(rows, D)


def cosine_nearest(table, token, dim=-1, sign=1.0):
    unit = table / table.norm(dim=dim, keepdim=True) if dim is not None else table
    cosines = sign * unit @ unit[token]
    cosines[token] = -torch.inf
    return cosines.argmax().item()


def second_nearest(table, token, dim=-1):
    """Leaves the token out by taking the second best: wrong where another one beats it."""
    unit = table / table.norm(dim=dim, keepdim=True) if dim is not None else table
    return (unit @ unit[token]).topk(2).indices[1].item()


def euclid_nearest(table, token):
    distances = (table - table[token]).norm(dim=-1)
    distances[token] = torch.inf
    return distances.argmin().item()


def nearest_in_place(table, token):
    rows = table.detach()
    rows /= rows.norm(dim=-1, keepdim=True)
    return cosine_nearest(rows, token)


def nearest_with_its_row_zeroed(table, token):
    table[token] = 0
    return cosine_nearest(table, token)


def nearest_with_its_row_cut_out(table, token):
    unit = table / table.norm(dim=-1, keepdim=True)
    others = torch.cat((unit[:token], unit[token + 1 :]))
    return (others @ unit[token]).argmax().item()


def largest_cosine(table, token, itself=-1.0):
    unit = table / table.norm(dim=-1, keepdim=True)
    cosines = unit @ unit[token]
    cosines[token] = itself
    return cosines.max().item()


def go_on(model, ids, count, row=-1, choose=torch.Tensor.argmax, seen=0):
    """The greedy loop; `seen` is where the part of the text begins that the model is shown."""
    text = list(ids)
    for _ in range(count):
        text.append(choose(model(text[seen:])[row]).item())
    return text


def go_on_in_place(model, ids, count):
    for _ in range(count):
        ids.append(model(ids)[-1].argmax().item())
    return ids


def go_on_that_returns_at_once(model, ids, count):
    ids = list(ids)
    for _ in range(count):
        ids.append(model(ids)[-1].argmax().item())
        return ids


def go_on_with_what_append_returns(model, ids, count):
    ids = list(ids)
    for _ in range(count):
        likeliest = model(ids)[-1].argmax().item()
        ids = ids.append(likeliest)
    return ids


def go_on_with_what_append_returns_apart(model, ids, count):
    text = list(ids)
    for _ in range(count):
        text = text.append(model(ids)[-1].argmax().item())
    return text


def go_on_asking_the_same(model, ids, count):
    return [*ids, *(model(ids)[-1].argmax().item() for _ in range(count))]


def go_on_by_place(model, ids, count):
    """Takes argmax along the wrong axis: for one token the place where it is likeliest."""
    text = list(ids)
    for _ in range(count):
        text.append(model(text).argmax(0)[-1].item())
    return text


def go_on_over_the_table(model, ids, count):
    text = list(ids)
    for _ in range(count):
        text.append(model(text).argmax().item())
    return text


def cache_bytes(config, tokens, size, heads="num_key_value_heads"):
    return 2 * config.num_hidden_layers * getattr(config, heads) * config.head_dim * tokens * size


def without_an_end(pieces, vocab_size):
    """Asks for a best pair where there is none."""
    merges, tokens = naive_merges(pieces, vocab_size), byte_alphabet()
    if len(merges) < vocab_size - len(tokens):
        min({})
    return merges


def in_ids(pieces, vocab_size):
    """The merges as pairs of ids."""
    ids = {token: i for i, token in enumerate(byte_alphabet())}
    merges = naive_merges(pieces, vocab_size)
    ids |= {left + right: 256 + k for k, (left, right) in enumerate(merges)}
    return [(ids[left], ids[right]) for left, right in merges]


def encode_word(symbols, ranks, first=min):
    while pairs := [p for p in pairwise(symbols) if p in ranks]:
        best = first(pairs, key=lambda pair: ranks[pair][0])
        at = list(pairwise(symbols)).index(best)
        symbols = [*symbols[:at], ranks[best][1], *symbols[at + 2 :]]
    return symbols


def whole_characters(chunks, four=4):
    printed, waiting = [], b""
    for chunk in chunks:
        waiting += chunk
        end = 0
        while end < len(waiting):
            first = waiting[end]
            size = 1 if first < 128 else 2 if first < 224 else 3 if first < 240 else four
            if end + size > len(waiting):
                break
            end += size
        printed.append(waiting[:end].decode(errors="replace"))
        waiting = waiting[end:]
    return printed


def too_long_by_one(chunks):
    return whole_characters(chunks, four=5)


def in_parts(tokenizer, text):
    start, end = tokenizer.special_tokens["<|im_start|>"], tokenizer.special_tokens["<|im_end|>"]
    parts = [tokenizer.encode(part, special=False) for part in ("user\n", text)]
    return [start, *parts[0], *parts[1], end, *tokenizer.encode("\n")]


def safe_turn(tokenizer, text, special=False):
    start, end = tokenizer.special_tokens["<|im_start|>"], tokenizer.special_tokens["<|im_end|>"]
    content = tokenizer.encode(f"user\n{text}", special=special)
    return [start, *content, end, *tokenizer.encode("\n")]


def clip(gradients, longest, at_least=True, together=True):
    norm = sum(g.pow(2).sum() for g in gradients).sqrt()
    norms = [norm if together else g.norm() for g in gradients]
    scales = [longest / n for n in norms]
    return [
        g * (s.clamp(max=1) if at_least else s) for g, s in zip(gradients, scales, strict=True)
    ]


def adamw(w, g, m, v, t, lr, betas, eps, weight_decay, corrected=True, decoupled=True):
    g = g if decoupled else g + weight_decay * w
    m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g**2
    by = [1 - beta**t if corrected else 1 for beta in betas]
    step = (m / by[0]) / ((v / by[1]).sqrt() + eps)
    return w - lr * (step + (weight_decay * w if decoupled else 0)), m, v


def over_all_windows(model, windows, config):
    """The windows never end, and so this loop would not."""
    for inputs, labels in windows:
        F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten()).backward()


def in_another_style(model, windows, config, first=True):
    """The loop, with the gradients dropped first, the sum divided, and the rate set otherwise."""
    optimizer = torch.optim.AdamW(parameter_groups(model, config.weight_decay), betas=config.betas)
    losses = []
    pairs = zip(range(config.steps), windows, strict=False)
    if not first:  # one batch more is drawn before the steps end
        pairs = ((step, batch) for batch, step in zip(windows, range(config.steps), strict=False))
    for step, (inputs, labels) in pairs:
        optimizer.zero_grad()
        rate = config.learning_rate * wsd(step, config)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = rate
        nats = F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten(), reduction="sum")
        (nats / labels.numel()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        losses.append(nats.item() / labels.numel())
    return losses


def verdict(train, held_out, floor, uniform):
    if held_out < floor:
        return "leak"
    if train < max(floor, held_out / 2):
        return "by heart"
    return "nothing" if held_out >= uniform else "learning"


def choices(logits):
    p = logits.softmax(-1)
    return torch.special.entr(p).sum(-1).exp()


def longest_beginning(held, stop):
    return max((n for s in stop for n in range(len(s)) if held.endswith(s[:n])), default=0)


def until(pieces, stop, hold_back=longest_beginning):
    held = ""
    for piece in pieces:
        held += piece
        ends = [(held.index(s) + len(s), held.index(s)) for s in stop if s in held]
        if ends:
            held = held[: min(ends)[1]]
            break
        sure = len(held) - hold_back(held, stop)
        yield held[:sure]
        held = held[sure:]
    yield held


def until_without_holding_back(pieces, stop):
    for piece in pieces:
        if any(s in piece for s in stop):
            yield piece[: min(piece.index(s) for s in stop if s in piece)]
            return
        yield piece


def until_all_is_there(pieces, stop):
    yield from until(["".join(pieces)], stop)


def until_held_back_too_much(pieces, stop):
    yield from until(pieces, stop, lambda held, stop: min(len(held), max(map(len, stop)) - 1))


def beam_search(log_probs, prompt, width, steps):
    ids, scores = torch.tensor([prompt]), torch.zeros(1)
    for _ in range(steps):
        longer = scores[:, None] + log_probs(ids)
        scores, best = longer.flatten().topk(min(width, longer.numel()))
        rows = best // longer.size(1)
        ids = torch.cat((ids[rows], (best % longer.size(1))[:, None]), dim=1)
    return ids[0].tolist()


def speculate(p, q, generator):
    token = torch.multinomial(q, 1, generator=generator).item()
    if torch.rand(1, generator=generator).item() < p[token] / q[token]:
        return token, True
    return torch.multinomial((p - q).clamp(min=0), 1, generator=generator).item(), False


def speculate_anew(p, q, generator):
    """Draws from p where the draft is refused: what the draft likes comes too often."""
    token = torch.multinomial(q, 1, generator=generator).item()
    if torch.rand(1, generator=generator).item() < p[token] / q[token]:
        return token, True
    return torch.multinomial(p, 1, generator=generator).item(), False
