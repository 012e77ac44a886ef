"""What is saved is what is loaded: whatever is accepted comes back equal, the rest is refused."""

import dataclasses
import json
import math
import random
import string

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from smol import SmolLM2, SmolLM2Config, load_pretrained, save_pretrained
from smol.data import Corpus, encode, tokenise
from smol.pretrained import SHIPPED
from smol.tests.kills import write_text
from smol.tests.reference import random_ids, tiny_config
from smol.tokenizer import BPETokenizer, byte_alphabet
from smol.tokenizer.pieces import as_bytes
from smol.train import Log, TrainConfig, load_checkpoint, read_log, train
from smol.train import loop as looping

# -- tokenizers -----------------------------------------------------------------------------------

NAMES = [
    "<|x|>",
    "<x>",
    "<",
    "x>",
    "é",
    "ab",
    " ab",
    "a b",
    "Ġ",
    "\n",
    "\0",
    "你好",
    "🎉",
    '"',
    "\\",
]
NAMES += ["</s>", "a", "Ġab", "\u2028", "\ufeff", "\u0301", "[UNK]", "\x7f", "'s", "1", "<|x|><x>"]
TEXTS = [*NAMES, "ab", "abab", " a", "b", "aé", "1984", "  ", "don't", "你", "ĠĠ", "<|endoftext|>"]


def random_tokenizer(draw: random.Random) -> BPETokenizer:
    """Anything that the constructor takes; ValueError for what it does not."""
    tokens = draw.sample(byte_alphabet(), draw.choice([1, 20, 200, 256]))
    tokens = list(dict.fromkeys([*tokens, *(bytes([b]) for b in "ab é你".encode())]))
    merges = []
    for _ in range(draw.choice([0, 3, 30])):
        pair = (draw.choice(tokens), draw.choice(tokens))
        merges.append(pair)
        if b"".join(pair) not in tokens:
            tokens.append(b"".join(pair))
    if draw.random() < 0.3:
        tokens += [b"", b"of no merge"]
    tokens = list(dict.fromkeys(tokens))
    spread = draw.choice([1, 1, 3, 1000])  # ids with holes between them
    ids = draw.sample(range(spread * (len(tokens) + 60)), len(tokens) + 40)
    vocab = dict(zip(tokens, ids, strict=False))
    left, added = ids[len(tokens) :], ({}, {})
    for name in draw.sample(NAMES, draw.choice([0, 1, 5, 15])):
        inside = vocab.get(as_bytes(name), left.pop())  # mostly the id that it has already
        added[draw.random() < 0.5][name] = inside if draw.random() < 0.98 else left.pop()
    normalized = [name for names in added for name in names if draw.random() < 0.3]
    return BPETokenizer(vocab, merges, added[0], draw.random() < 0.5, added[1], normalized)


def parts(tokenizer: BPETokenizer) -> tuple:
    return (
        tokenizer.vocab,
        tokenizer.merges,
        tokenizer.special_tokens,
        tokenizer.added_tokens,
        tokenizer.normalized,
        tokenizer.split_digits,
        len(tokenizer),
        tokenizer.fingerprint,
    )


def texts_of(tokenizer: BPETokenizer, draw: random.Random) -> list[str]:
    added = [*tokenizer.special_tokens, *tokenizer.added_tokens]
    return ["".join(draw.choices([*TEXTS, *added], k=draw.randint(1, 8))) for _ in range(25)]


def assert_comes_back(tokenizer: BPETokenizer, folder, draw: random.Random) -> None:
    """From its file, to this class and to the library: parts, ids and texts."""
    tokenizer.save(folder)
    again = BPETokenizer.load(folder)
    assert parts(again) == parts(tokenizer)
    assert again.to_dict() == tokenizer.to_dict()
    rust = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text in texts_of(tokenizer, draw):
        for special in (True, False):
            rust.encode_special_tokens = not special
            ids = tokenizer.encode(text, special)
            assert ids == again.encode(text, special) == rust.encode(text).ids, text
            for skip in (True, False):
                got = tokenizer.decode(ids, skip)
                assert got == again.decode(ids, skip) == rust.decode(ids, skip), text


def test_whatever_tokenizer_is_accepted_comes_back_from_its_file(tmp_path):
    draw, refused = random.Random(0), 0
    for _ in range(150):
        try:
            tokenizer = random_tokenizer(draw)
        except ValueError as error:
            assert "another id in the vocabulary" in str(error)
            refused += 1
            continue
        assert_comes_back(tokenizer, tmp_path, draw)
    assert refused < 75


def test_transformers_reads_the_same_ids(tmp_path):
    """The class that users load a tokenizer with, which sets more than the file says."""
    from transformers import PreTrainedTokenizerFast

    draw, compared = random.Random(1), 0
    while compared < 15:
        try:
            tokenizer = random_tokenizer(draw)
        except ValueError:
            continue
        tokenizer.save(tmp_path)
        theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
        for text in texts_of(tokenizer, draw):
            assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
        compared += 1


def test_whatever_is_trained_comes_back_from_its_file(tmp_path):
    draw = random.Random(2)
    signs = string.punctuation
    for _ in range(30):
        letters = draw.choice(["ab ", "abc 12\n", "é你a ", string.printable])
        text = "".join(draw.choices(letters, k=300))
        special = {f"<{''.join(draw.choices('ab1' + signs, k=4))}|>" for _ in range(4)}
        try:
            size = 260 + draw.randrange(60)
            tokenizer = BPETokenizer.train([text], size, special, draw.random() < 0.5)
        except ValueError as error:
            assert "could be text" in str(error)
            continue
        assert_comes_back(tokenizer, tmp_path, draw)


def test_a_file_comes_back_as_it_was_read(tmp_path):
    """Of what `tokenizers` writes, in its own order and with its own idea of what to say."""
    draw, read = random.Random(3), 0
    while read < 20:
        try:
            tokenizer = random_tokenizer(draw)
        except ValueError:
            continue
        if len(set(tokenizer.merges)) < len(tokenizer.merges):
            continue  # of a merge that comes twice the library keeps the last
        content = json.loads(Tokenizer.from_str(json.dumps(tokenizer.to_dict())).to_str())
        content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
        again = BPETokenizer.from_dict(content)
        assert parts(again) == parts(tokenizer)
        assert_comes_back(again, tmp_path, draw)
        read += 1


def test_a_byte_stands_for_itself_as_an_added_token(tmp_path):
    """A name that is also a letter of the alphabet: both ways to it have its id."""
    vocab = {token: i for i, token in enumerate(byte_alphabet())}
    a = vocab[b"a"]
    tokenizer = BPETokenizer({**vocab, b"aa": 256}, [(b"a", b"a")], {"a": a}, True, {"aa": 256})
    assert tokenizer.vocab == {**vocab, b"aa": 256}
    assert tokenizer.encode("aab a", special=False)[:2] == [256, vocab[b"b"]]
    assert_comes_back(tokenizer, tmp_path, random.Random(0))
    alone = BPETokenizer({b"b": 0}, [], {"a": 1})  # and without the byte it is one all the same
    assert alone.vocab == {b"a": 1, b"b": 0} and alone.encode("aab", special=False) == [1, 1, 0]
    assert_comes_back(alone, tmp_path, random.Random(0))


# -- tokens ---------------------------------------------------------------------------------------

CORPORA = [
    Corpus("a:b?.txt", ["one", "two"], ["three"]),
    Corpus("x" * 300 + ".jsonl", ["one"], ["two"]),
    Corpus("../up/and\\down", [" ", "\n"], ["\0"]),
    Corpus("", ["a"], [""]),
    Corpus(".", ["", ""], ["b"]),
    Corpus("für/Müller 你好 🎉\n\t.md", ["ü🎉" * 50], ["x"]),
    Corpus("con", ["<|endoftext|>"], ["<|endoftext|>" * 3]),
    Corpus("\udcff.txt", ["a"], ["b"]),  # a file's name need not be UTF-8
    Corpus("empty", [], ["a"]),
]


def large_tokenizer() -> BPETokenizer:
    """Ids that need more than 16 bits, also in the middle of the vocabulary."""
    vocab = {token: 70_000 + i for i, token in enumerate(byte_alphabet())}
    return BPETokenizer(vocab, [], {"<|endoftext|>": 0})


@pytest.mark.parametrize("corpus", CORPORA, ids=lambda corpus: ascii(corpus.name)[:20])
@pytest.mark.parametrize("large", [False, True])
def test_tokens_come_back_from_their_files(tmp_path, corpus, large):
    small = BPETokenizer.train(["one two three"], 260, "<|endoftext|>")
    tokenizer = large_tokenizer() if large else small
    first = tokenise(corpus, tokenizer, tmp_path / "cache")
    files = list((tmp_path / "cache").iterdir())
    assert len(files) == 2 and [p.name for p in tmp_path.iterdir()] == ["cache"]
    for file in files:  # a name that Windows takes as well
        assert not set(file.name) & set('<>:"/\\|?*\n\t') and len(file.name.encode()) < 230
    stamps = {file: file.stat().st_mtime_ns for file in files}
    again = tokenise(corpus, tokenizer, tmp_path / "cache")
    assert stamps == {file: file.stat().st_mtime_ns for file in files}
    for documents, a, b in zip(corpus[1:], first, again, strict=True):
        want = encode(documents, tokenizer)
        assert a.dtype == b.dtype == want.dtype == (np.uint32 if large else np.uint16)
        assert np.array_equal(a, want) and np.array_equal(b, want)


# -- models ---------------------------------------------------------------------------------------


def random_model(draw: random.Random) -> SmolLM2:
    """A shape, a dtype and ids of special tokens that the config takes, with odd numbers in it."""
    kv, group, half = draw.choice([1, 2, 3]), draw.choice([1, 2, 3]), draw.choice([1, 2, 8])
    config = SmolLM2Config(
        vocab_size=draw.choice([1, 2, 97]),
        hidden_size=2 * half * kv * group,
        intermediate_size=draw.choice([1, 5, 16]),
        num_hidden_layers=draw.choice([1, 2]),
        num_attention_heads=kv * group,
        num_key_value_heads=kv,
        max_position_embeddings=draw.choice([1, 512]),
        rms_norm_eps=draw.choice([1e-5, 1e-12, 1]),
        rope_theta=draw.choice([1.5, 10_000, np.float32(77.0)]),
        initializer_range=draw.choice([1e-8, 0.02, 3]),
        tie_word_embeddings=draw.random() < 0.5,
        bos_token_id=draw.choice([None, 0, -1, np.int64(5)]),
        eos_token_id=draw.choice([None, 0, [1, 2], (3,), []]),
        pad_token_id=draw.choice([None, 7, -1]),
    )
    model = SmolLM2(config)
    with torch.no_grad():
        for weight in model.parameters():
            if draw.random() < 0.1:
                weight.flatten()[:1] = draw.choice([math.nan, math.inf, -0.0, 1e-45])
    return model.to(draw.choice([torch.float32, torch.bfloat16, torch.float16, torch.float64]))


def test_whatever_model_there_is_comes_back_from_its_folder(tmp_path):
    draw = random.Random(0)
    torch.manual_seed(0)
    for number in range(60):
        model = random_model(draw)
        folder = tmp_path / draw.choice(["a b", "ü你", f"deep/er{number}", "-", "x.json", "."])
        save_pretrained(model, folder)
        again = load_pretrained(folder, model.norm.weight.dtype)
        assert again.config == model.config and type(again.config.rope_theta) in (int, float)
        for (key, a), (other, b) in zip(
            model.state_dict().items(), again.state_dict().items(), strict=True
        ):
            assert key == other
            assert same(a, b), key
        tied = again.lm_head.weight is again.embed_tokens.weight
        assert tied == model.config.tie_word_embeddings


def same(a, b) -> bool:
    """To the bit, NaN and the sign of zero included."""
    if isinstance(a, torch.Tensor):
        bits = [t.detach().contiguous().flatten().view(torch.uint8) for t in (a, b)]
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*bits)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def test_transformers_computes_the_same_from_what_is_saved(tmp_path):
    from transformers import AutoModelForCausalLM

    for number, changes in enumerate(
        ({}, {"eos_token_id": [1, 2]}, {"tie_word_embeddings": False})
    ):
        torch.manual_seed(number)
        model = SmolLM2(tiny_config(**changes)).eval()
        save_pretrained(model, tmp_path)
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
        ids = random_ids(1, 9)
        with torch.no_grad():
            assert torch.equal(theirs(ids, use_cache=False).logits, model(ids))
        assert theirs.config.eos_token_id == model.config.eos_token_id


# -- checkpoints and logs -------------------------------------------------------------------------

RUNS = [
    {},
    {"optimizer": "muon", "schedule": "cosine"},
    {"data": "fresh", "tokenizer": str(SHIPPED), "dtype": "bfloat16", "clip": math.inf},
    {
        "batch_size": np.int64(2),
        "learning_rate": np.float32(1e-3),
        "betas": [0, 0.5],
        "seed": 2**40,
    },
    {"weight_decay": 0, "warmup": 0, "decay": 1, "accumulate": 2, "preset": "small"},
]


@pytest.mark.parametrize("changes", RUNS, ids=lambda changes: ",".join(changes) or "plain")
def test_a_checkpoint_gives_back_what_was_put_in(tmp_path, monkeypatch, changes):
    """Whatever the settings: what `save_checkpoint` is given, `load_checkpoint` gives, and a run
    can go on with it."""
    if changes.get("optimizer") == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this torch has no Muon")
    given, save = [], looping.save_checkpoint

    def noted(out, step, state, *rest):
        save(out, step, state, *rest)
        given.append((step, torch.utils._pytree.tree_map(clone, state)))

    monkeypatch.setattr(looping, "save_checkpoint", noted)
    small = {"data": write_text(tmp_path), "steps": 2, "batch_size": 4, "seq_len": 16}
    config = TrainConfig(**{**small, "device": "cpu", "save_every": 1, **changes})
    train(config, tmp_path / "out")
    for step, state in given:
        loaded = load_checkpoint(tmp_path / "out" / f"step-{step:06}", config)
        assert loaded.pop("step") == step and len(loaded.pop("weights")) == 64
        assert same(state, loaded)
    train(dataclasses.replace(config, steps=3), tmp_path / "out", resume=True)


def clone(value):
    return value.clone() if isinstance(value, torch.Tensor) else value


def test_a_log_gives_back_its_rows(tmp_path):
    samples = ["", "\n\r\u2028\u2029\x85", "🎉\ufffd", '"\\', "\0", "a" * 10_000]
    numbers = [0.1, 1e-320, 10**30, -0.0, math.inf]
    rows = [{"step": n, "loss": x, "sample": t} for n, x in enumerate(numbers) for t in samples]
    log = Log(tmp_path / "metrics.jsonl", after=0)
    for row in rows:
        log.add(row)
    assert read_log(log.file) == rows
    again = Log(log.file, after=2)
    assert read_log(again.file) == [row for row in rows if row["step"] <= 2]
