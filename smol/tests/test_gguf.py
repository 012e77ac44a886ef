""".gguf files: what the library `gguf` writes is read to the bit, and everything else refused."""

import random
import re
import shutil

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, dequantize

from smol import BPETokenizer, load_pretrained
from smol.gguf import BLOCK_NAMES, HEAD_DIM_KEYS, KEYS, NAMES, halves, read_gguf, read_header
from smol.pretrained import load_reference
from smol.tests.ggufs import (
    Raw,
    fields_of,
    joined,
    pairs,
    pieces_of,
    small_model,
    small_tokenizer,
    spoilt,
    write,
)
from smol.tests.llama import llama_cpp, next_tokens
from smol.tests.reference import REAL, needs_real, random_ids
from smol.tokenizer import CHAT_TEMPLATE

Q4_1, Q8_0 = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A small .gguf, only to read."""
    return write(tmp_path_factory.mktemp("gguf") / "whole.gguf")


@pytest.fixture
def file(whole, tmp_path):
    """A small .gguf, to spoil."""
    return shutil.copy(whole, tmp_path / "small.gguf")


def refuses(message: str, file, read=load_pretrained, error=ValueError):
    with pytest.raises(error, match=re.escape(message)) as caught:
        read(file)
    text = str(caught.value)
    assert len(text) < 500 and "\n" not in text
    assert str(file) in text


# -- read as it was written ---------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_what_is_written_in_f32_comes_back_to_the_bit(tmp_path, tied):
    model = small_model(tie_word_embeddings=tied)
    loaded = load_pretrained(write(tmp_path / "a.gguf", model))
    assert loaded.config == model.config
    assert not loaded.training
    assert (loaded.lm_head.weight is loaded.embed_tokens.weight) == tied
    state = loaded.state_dict()
    assert state.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(state[key], tensor), key
    ids = random_ids(2, 20)
    with torch.no_grad():
        assert torch.equal(loaded(ids), model(ids))


def test_names_and_keys_are_the_librarys():
    """What the files here are written with, too."""
    theirs = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 7)
    for name, ours in NAMES.items():
        assert theirs.get_name(ours) == name
    for name, ours in BLOCK_NAMES.items():
        assert theirs.get_name(f"model.layers.6.{ours}") == f"blk.6.{name}"
    keys = {
        "vocab_size": gguf.Keys.LLM.VOCAB_SIZE,
        "hidden_size": gguf.Keys.LLM.EMBEDDING_LENGTH,
        "intermediate_size": gguf.Keys.LLM.FEED_FORWARD_LENGTH,
        "num_hidden_layers": gguf.Keys.LLM.BLOCK_COUNT,
        "num_attention_heads": gguf.Keys.Attention.HEAD_COUNT,
        "num_key_value_heads": gguf.Keys.Attention.HEAD_COUNT_KV,
        "max_position_embeddings": gguf.Keys.LLM.CONTEXT_LENGTH,
        "rms_norm_eps": gguf.Keys.Attention.LAYERNORM_RMS_EPS,
        "rope_theta": gguf.Keys.Rope.FREQ_BASE,
    }
    assert {name: key.format(arch="llama") for name, key in keys.items()} == KEYS
    sizes = (gguf.Keys.Rope.DIMENSION_COUNT, gguf.Keys.Attention.KEY_LENGTH)
    sizes = (*sizes, gguf.Keys.Attention.VALUE_LENGTH)
    assert tuple(key.format(arch="llama") for key in sizes) == HEAD_DIM_KEYS
    kinds = {kind.name: int(kind) for kind in gguf.TokenType}
    assert (kinds["NORMAL"], kinds["CONTROL"], kinds["USER_DEFINED"]) == (1, 3, 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_weights_become_the_dtype_asked_for(whole, dtype):
    loaded, plain = load_pretrained(whole, dtype), load_pretrained(whole)
    for key, tensor in plain.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], tensor.to(dtype)), key


def test_q_and_k_left_in_pairs_would_be_seen(tmp_path):
    """What `halves` undoes matters: without it, the model says something else."""
    model = small_model()
    as_ours = {
        f"blk.{i}.attn_{part}.weight": getattr(layer.self_attn, f"{part}_proj").weight.detach()
        for i, layer in enumerate(model.layers)
        for part in "qk"
    }
    twice = load_pretrained(
        write(tmp_path / "a.gguf", model, tensors={k: w.numpy() for k, w in as_ours.items()})
    )
    ids = random_ids(1, 20)
    with torch.no_grad():
        assert not torch.allclose(twice(ids), model(ids), atol=1e-3)
        assert torch.allclose(twice(ids[:, :1]), model(ids[:, :1]))  # place 0 is not rotated


@pytest.mark.parametrize("heads", [1, 3, 9])
def test_halves_undo_the_pairs(heads):
    weight = torch.randn(heads * 8, 5)
    assert torch.equal(halves(pairs(weight, heads), heads), weight)
    rows = halves(torch.arange(8).float()[:, None], 1).flatten().tolist()
    assert rows == [0, 2, 4, 6, 1, 3, 5, 7]


@pytest.mark.parametrize("shape", [(8,), (9, 2), (2, 4, 2)])
def test_halves_of_what_is_no_pairs_are_refused(shape):
    with pytest.raises(ValueError, match="no rows of 3 heads in pairs"):
        halves(torch.zeros(shape), 3)


def kinds_that(can: str) -> list[GGMLQuantizationType]:
    """The types of weights for which the library can do something."""
    found = []
    for kind in GGMLQuantizationType:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        try:
            if can == "quantize":
                gguf.quantize(np.ones((1, block), np.float32), kind)
            else:
                dequantize(np.zeros((1, size), np.uint8), kind)
        except NotImplementedError:
            continue
        found.append(kind)
    return found


@pytest.mark.parametrize("kind", kinds_that("quantize"), ids=lambda kind: kind.name)
def test_each_type_that_can_be_written_equals_the_librarys(tmp_path, kind):
    block = gguf.GGML_QUANT_SIZES[kind][0]
    wide = {"hidden_size": block, "intermediate_size": 2 * block} if block > 32 else {}
    model = small_model(**wide)
    loaded = load_pretrained(write(tmp_path / "a.gguf", model, kind=kind)).state_dict()
    for key, weight in model.state_dict().items():
        if weight.dim() == 1:
            assert torch.equal(loaded[key], weight), key
            continue
        # Rows are quantised one by one: their order does not matter here.
        expected = torch.from_numpy(dequantize(gguf.quantize(weight.numpy(), kind), kind).copy())
        assert torch.equal(loaded[key], expected), key
        coarse = {"TQ1_0", "TQ2_0", "MXFP4", "NVFP4"}
        # A weight moves by a fraction of its row's largest, and is no noise.
        limit = 1 if kind.name in coarse else 0.15
        assert (loaded[key] - weight).abs().max() <= limit * weight.abs().max()


@pytest.mark.parametrize("kind", kinds_that("dequantize"), ids=lambda kind: kind.name)
def test_any_bytes_of_each_type_equal_the_librarys(tmp_path, kind):
    """Also of those that the library cannot write, and with scales of NaN."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    model = small_model(hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    rows, draw = len(small_tokenizer()), np.random.default_rng(0)
    raw = draw.integers(256, size=(rows, 256 // block * size), dtype=np.uint8)
    file = write(tmp_path / "a.gguf", model, tensors={"token_embd.weight": Raw(raw, kind)})
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(dequantize(raw, kind).copy())
    got = load_pretrained(file).embed_tokens.weight
    assert torch.equal(got.nan_to_num(), expected.nan_to_num())
    assert torch.equal(got.isnan(), expected.isnan())


@pytest.mark.parametrize("kind", set(GGMLQuantizationType) - set(kinds_that("dequantize")))
def test_a_type_that_the_library_cannot_read_is_named(tmp_path, kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    model = small_model(hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    raw = np.zeros((len(small_tokenizer()), 256 // block * size), np.uint8)
    file = write(tmp_path / "a.gguf", model, tensors={"token_embd.weight": Raw(raw, kind)})
    refuses(f"holds 'token_embd.weight' as {kind.name}, which cannot be read", file)


def assert_as_the_library_reads(file):
    """Every key, and for every tensor its type, shape and place."""
    ours, theirs = read_header(file), GGUFReader(file)
    keys = {k: field for k, field in theirs.fields.items() if not k.startswith("GGUF.")}
    assert ours.fields.keys() == keys.keys()
    for key, field in keys.items():
        value = field.contents()
        assert ours.fields[key] == value and type(ours.fields[key]) is type(value), key
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        place = ours.tensors[tensor.name]
        assert place.shape == tuple(reversed(tensor.shape.tolist()))
        assert (place.kind, place.start, place.size) == (
            tensor.tensor_type,
            tensor.data_offset,
            tensor.n_bytes,
        )


def test_the_header_is_what_the_library_reads(whole, tmp_path):
    assert_as_the_library_reads(whole)
    every = {
        f"test.{kind.name}": (value, kind)
        for kind, value in {
            **dict.fromkeys((GGUFValueType.UINT8, GGUFValueType.UINT16), 200),
            **dict.fromkeys((GGUFValueType.INT8, GGUFValueType.INT16, GGUFValueType.INT32), -100),
            GGUFValueType.UINT32: 2**32 - 1,
            GGUFValueType.UINT64: 2**64 - 1,
            GGUFValueType.INT64: -(2**63),
            GGUFValueType.FLOAT32: 1.5,
            GGUFValueType.FLOAT64: 0.1,
            GGUFValueType.BOOL: True,
            GGUFValueType.STRING: "Ġ – 漢字",
        }.items()
    }
    lists = {"test.ints": [1, -2], "test.floats": [0.5, 2.0], "test.flags": [True, False]}
    texts = {"test.texts": ["", "ab", "é"]}
    file = write(
        tmp_path / "a.gguf", kind=Q4_1, fields={**every, **lists, **texts, "general.alignment": 64}
    )
    assert_as_the_library_reads(file)
    load_pretrained(file)


def test_version_2_is_read(file):
    file.write_bytes(spoilt(file.read_bytes(), "version", lambda piece: 2))
    assert load_pretrained(file).config.vocab_size == len(small_tokenizer())


def test_read_gguf_gives_config_and_weights(whole):
    config, tensors = read_gguf(whole, torch.bfloat16)
    model = small_model()
    assert config == model.config
    assert torch.equal(tensors["model.norm.weight"], model.norm.weight.bfloat16())
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


def test_a_reference_of_ones_own_gguf(whole, capsys):
    reference = load_reference(repo_id=whole)
    assert capsys.readouterr().out == f"{whole}: the weights there\n"
    assert (reference.weights, reference.place) == ("local", whole)
    ids = random_ids(2, 20)
    with torch.no_grad():
        assert torch.equal(load_pretrained(whole)(ids), reference(ids, use_cache=False).logits)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": False, "rope_theta": 500.0, "num_key_value_heads": 4},
        {"hidden_size": 256, "intermediate_size": 96, "num_key_value_heads": 1},
    ],
    ids=str,
)
def test_llama_cpp_says_the_same_of_it(tmp_path, changes):
    """Every token's probability, after forty: another program, another author, and no rounding."""
    file = write(tmp_path / "a.gguf", small_model(**changes))
    ids = random_ids(1, 40, vocab_size=310)
    theirs = next_tokens(llama_cpp(file, exact=True), ids[0].tolist(), 310)
    with torch.no_grad():
        ours = load_pretrained(file)(ids)[0, -1].log_softmax(-1)
    assert len(theirs) == 310 and ours.max() - ours.min() > 0.5
    for token, value in theirs.items():
        assert abs(ours[token].item() - value) < 1e-4


# -- its tokenizer ------------------------------------------------------------------------------

TEXTS = [
    "The quick brown fox",
    "1234 5678  90",
    "don't <|im_end|> jump",
    "Ünïcödé 漢字 🙂",
    "  \n\t",
]


@pytest.mark.parametrize("split_digits", [True, False])
def test_the_tokenizer_comes_back(tmp_path, split_digits):
    tokenizer = small_tokenizer(split_digits)
    loaded = BPETokenizer.load(write(tmp_path / "a.gguf", tokenizer=tokenizer))
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.chat_template == CHAT_TEMPLATE
    draw = random.Random(0)
    texts = ["".join(chr(draw.randrange(32, 0x3000)) for _ in range(40)) for _ in range(50)]
    for text in TEXTS + texts:
        assert loaded.encode(text) == tokenizer.encode(text)
        assert loaded.encode(text, special=False) == tokenizer.encode(text, special=False)
        assert loaded.decode(loaded.encode(text)) == tokenizer.decode(tokenizer.encode(text))


def test_digits_are_split_as_the_file_says(tmp_path):
    apart = BPETokenizer.load(write(tmp_path / "a.gguf", tokenizer=small_tokenizer(True)))
    as_one = BPETokenizer.load(write(tmp_path / "b.gguf", tokenizer=small_tokenizer(False)))
    assert apart.pieces("in 1234") == ["in", " ", "1", "2", "3", "4"]
    assert as_one.pieces("in 1234") == ["in", " 1234"]


def test_added_tokens_come_back(tmp_path):
    plain = small_tokenizer()
    added = {"<think>": len(plain), "Ġquick!": len(plain) + 1}
    tokenizer = BPETokenizer(plain.vocab, plain.merges, plain.special_tokens, True, added)
    model = small_model(vocab_size=len(tokenizer))
    loaded = BPETokenizer.load(write(tmp_path / "a.gguf", model, tokenizer))
    assert loaded.added_tokens == added
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode("a <think> Ġquick!") == tokenizer.encode("a <think> Ġquick!")


def test_a_file_without_template_chats_as_smollm2(tmp_path):
    messages = [{"role": "user", "content": "Hi"}]
    bare = BPETokenizer.load(write(tmp_path / "a.gguf", template=None))
    assert bare.chat_template is None
    assert bare.apply_chat_template(messages) == small_tokenizer().apply_chat_template(messages)
    short = "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"
    other = BPETokenizer.load(write(tmp_path / "b.gguf", template=short))
    assert other.decode(other.apply_chat_template(messages)) == "Hi<|im_end|>"


# -- refused by name ----------------------------------------------------------------------------


@pytest.mark.parametrize("read", [load_pretrained, BPETokenizer.load, read_header, read_gguf])
def test_a_missing_file_is_named(tmp_path, read):
    refuses("is missing: name a .gguf file", tmp_path / "no.gguf", read, FileNotFoundError)
    (tmp_path / "folder.gguf").mkdir()
    refuses("is missing", tmp_path / "folder.gguf", read, FileNotFoundError)


@pytest.mark.parametrize("read", [load_pretrained, BPETokenizer.load])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cut off or damaged"),
        (b"GGU", "cut off or damaged"),
        (b"PK\3\4 a zip", "is no GGUF"),
        (b"GGUF", "cut off or damaged"),
        (b"GGUF\3\0\0\0", "cut off or damaged"),
        (b"GGUF\0\0\0\3" + bytes(99), "is GGUF in big-endian order"),
        (b"GGUF\1\0\0\0" + bytes(99), "is GGUF of version 1"),
        (b"GGUF\4\0\0\0" + bytes(99), "is GGUF of version 4"),
    ],
)
def test_what_is_no_gguf_is_named(file, read, content, message):
    file.write_bytes(content)
    refuses(message, file, read)


def test_a_file_cut_off_anywhere_is_refused(file):
    """At each border of two pieces of the header, within each, and in the numbers."""
    data = file.read_bytes()
    start = min(place.start for place in read_header(file).tensors.values())
    header = pieces_of(data)[:-1]
    ends = np.cumsum([len(piece.raw) for piece in header]).tolist()
    # of a list only the first ten
    ends = [end for end, p in zip(ends, header, strict=True) if not re.search(r"\[\d\d", p.what)]
    cuts = {0, 2, *ends, *(end - 1 for end in ends), start, start + 1, len(data) - 1}
    assert len(cuts) > 300
    for cut in cuts:
        with file.open("r+b") as f:
            f.truncate(cut)
        with pytest.raises(ValueError, match=r"is cut off or damaged|than it has room for"):
            read_header(file)
        file.write_bytes(data)


@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 2**40, 10**7])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("count of tensors", "tensors, more than it has room for"),
        ("count of keys", "keys, more than it has room for"),
        ("length of key 0", "more are wanted"),
        ("length of general.architecture", "more are wanted"),
        ("count of tokenizer.ggml.tokens", "texts in 'tokenizer.ggml.tokens', more than it has"),
        ("count of tokenizer.ggml.token_type", "numbers in 'tokenizer.ggml.token_type', more"),
        ("length of tokenizer.ggml.merges[0]", "more are wanted"),
        ("length of tensor 0", "more are wanted"),
        ("dimension 0 of token_embd.weight", "cut off or damaged: 'token_embd.weight' would lie"),
        ("offset of token_embd.weight", "cut off or damaged: 'token_embd.weight' would lie"),
    ],
)
def test_what_a_header_claims_is_not_believed(file, what, message, count):
    file.write_bytes(spoilt(file.read_bytes(), what, lambda piece: count))
    refuses(message, file, read_header)


@pytest.mark.parametrize(
    ("what", "value", "message"),
    [
        ("dimensions of output_norm.weight", 0, "has 0 dimensions"),
        ("dimensions of output_norm.weight", 5, "has 5 dimensions"),
        ("dimension 0 of output_norm.weight", 0, "is [0], no whole blocks of 1"),
        ("type of output_norm.weight", 4, "is of an unknown type, 4"),  # Q4_2 that was
        ("type of output_norm.weight", 2**32 - 1, "is of an unknown type, 4294967295"),
        ("offset of output_norm.weight", 1, "cut off or damaged: 'output_norm.weight' would"),
        ("type of general.architecture", 13, "'general.architecture' is of an unknown type, 13"),
        ("type in tokenizer.ggml.tokens", 9, "'tokenizer.ggml.tokens' is of an unknown type, 9"),
        ("type in tokenizer.ggml.tokens", 77, "is of an unknown type, 77"),
        ("general.alignment", 0, "general.alignment is 0, no power of two"),
        ("general.alignment", 48, "general.alignment is 48, no power of two"),
        ("general.alignment", 2**31, "cut off or damaged: 'token_embd.weight' would lie"),
        ("general.architecture", b"ll\xff\xfea", "is not UTF-8"),
        ("key 0", b"\xff" * 20, "is not UTF-8"),
        ("tensor 0", b"\xe4" * 17, "is not UTF-8"),
    ],
)
def test_a_damaged_header_is_named(file, what, value, message):
    file.write_bytes(spoilt(file.read_bytes(), what, lambda piece: value))
    refuses(message, file, read_header)


def test_a_key_or_a_tensor_that_is_there_twice_is_named(file):
    data = file.read_bytes()
    pieces = [
        piece.set(b"llama.block_count") if piece.raw == b"llama.vocab_size"
        else piece.set(17) if piece.what.startswith("length of key") and piece.raw[0] == 16
        else piece
        for piece in pieces_of(data)
    ]  # fmt: skip
    file.write_bytes(joined(pieces))
    refuses("has the key 'llama.block_count' twice", file)
    blocks = spoilt(data, "tensor 1", lambda piece: piece.raw)
    twice = next(p for p in pieces_of(data) if p.what == "tensor 0").raw
    pieces = pieces_of(blocks)
    at = next(i for i, piece in enumerate(pieces) if piece.what == "tensor 1")
    pieces[at - 1 : at + 1] = [pieces[at - 1].set(len(twice)), pieces[at].set(twice)]
    file.write_bytes(joined(pieces))
    refuses(f"has the tensor '{twice.decode()}' twice", file)


def test_tensors_that_overlap_are_refused(tmp_path):
    """A hundred times the same megabyte would be a hundred megabytes."""
    layers = {"num_hidden_layers": 8}
    file = write(tmp_path / "a.gguf", small_model(**layers), kind=Q8_0)
    pieces = pieces_of(file.read_bytes())
    pieces = [p.set(0) if p.what.startswith("offset of") else p for p in pieces]
    *head, numbers = pieces
    file.write_bytes(joined([*head, numbers.set(numbers.raw[: 64 * 320])]))
    refuses("its tensors overlap", file, read_header)


@pytest.mark.parametrize("key", KEYS.values())
def test_a_missing_key_of_the_config_is_named(tmp_path, key):
    refuses(f"has no {key}: fetch it again", write(tmp_path / "a.gguf", fields={key: None}))


@pytest.mark.parametrize("name", ["model", "pre", "tokens", "token_type", "merges"])
def test_a_missing_key_of_the_tokenizer_is_named(tmp_path, name):
    file = write(tmp_path / "a.gguf", fields={f"tokenizer.ggml.{name}": None})
    load_pretrained(file)  # weights are weights
    refuses(f"tokenizer.ggml.{name} is missing: it must be a", file, BPETokenizer.load)


def test_what_may_be_missing(tmp_path):
    ends = ("bos", "eos", "padding")
    gone = [f"tokenizer.ggml.{end}_token_id" for end in ends] + ["llama.rope.dimension_count"]
    gone += ["general.alignment", "tokenizer.ggml.add_bos_token"]
    file = write(tmp_path / "a.gguf", fields=dict.fromkeys(gone))
    config = load_pretrained(file).config
    assert [config.bos_token_id, config.eos_token_id, config.pad_token_id] == [None] * 3
    assert BPETokenizer.load(file).fingerprint == small_tokenizer().fingerprint


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"general.architecture": "qwen3"}, "is no SmolLM2: general.architecture is 'qwen3'"),
        (
            {"general.alignment": ("32", GGUFValueType.STRING)},
            "general.alignment is '32', no power",
        ),
        ({"llama.expert_count": 8}, "it sets 'llama.expert_count', which this model does not"),
        ({"llama.rope.scaling.type": "linear"}, "it sets 'llama.rope.scaling.type'"),
        ({"llama.rope.scaling.factor": 2.0}, "it sets 'llama.rope.scaling.factor'"),
        ({"llama.rope.dimension_count": 4}, "llama.rope.dimension_count is 4, this model has 8"),
        ({"llama.attention.key_length": 16}, "llama.attention.key_length is 16, this model has 8"),
        ({"llama.attention.value_length": 16}, "llama.attention.value_length is 16"),
        ({"llama.attention.head_count_kv": [2, 2]}, "num_key_value_heads"),
        ({"llama.attention.head_count_kv": 3}, "num_attention_heads"),
        ({"llama.attention.head_count": 0}, "num_attention_heads"),
        ({"llama.attention.head_count": 32}, "does not divide into num_attention_heads 32 heads"),
        ({"llama.embedding_length": "32"}, "hidden_size must be a whole number, got '32'"),
        ({"llama.rope.freq_base": float("nan")}, "rope_theta"),
        ({"llama.rope.freq_base": (1e300, GGUFValueType.FLOAT64)}, "rope_theta"),
        ({"llama.attention.layer_norm_rms_epsilon": -1e-5}, "rms_norm_eps"),
        ({"llama.block_count": 10**6}, "1000000 layers, and 20 tensors in all"),
        ({"llama.block_count": 2**32 - 1}, "4294967295 layers, and 20 tensors"),
        ({"llama.block_count": 3}, "9 keys (model.layers.2"),
        ({"llama.block_count": 1}, "none missing, 9 keys (model.layers.1"),
        ({"llama.vocab_size": 309}, "model.embed_tokens.weight is (310, 32), the config wants"),
        ({"llama.feed_forward_length": 96}, "mlp"),
        ({"llama.embedding_length": 64, "llama.rope.dimension_count": 16}, "the config wants"),
        (
            {"llama.embedding_length": 2**31, "llama.rope.dimension_count": 2**29},
            "no model is as large as it says",
        ),
        ({"llama.vocab_size": 2**31}, "the config wants (2147483648, 32)"),
        ({"tokenizer.ggml.bos_token_id": "1"}, "bos_token_id"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named(tmp_path, fields, message):
    refuses(message, write(tmp_path / "a.gguf", fields=fields))


def test_a_file_without_architecture_is_named(file):
    data = file.read_bytes()
    file.write_bytes(spoilt(data, "key 0", lambda piece: b"general.aRchitecture"))
    refuses("is no SmolLM2: general.architecture is None", file)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"rope_freqs.weight": zeros(4)}, "its tensor 'rope_freqs.weight' has no place"),
        ({"blk.0.attn_q.bias": zeros(32)}, "1 keys (model.layers.0.self_attn.q_proj.bias) with"),
        ({"blk.2.attn_norm.weight": zeros(32)}, "(model.layers.2.input_layernorm.weight) with no"),
        ({"blk.00.attn_norm.weight": zeros(32)}, "(model.layers.00.input_layernorm.weight) with"),
        ({"blk.0.ffn_gate_exps.weight": zeros(4, 64, 32)}, "'blk.0.ffn_gate_exps.weight' has no"),
        ({"model.norm.weight": zeros(32)}, "its tensor 'model.norm.weight' has no place"),
        ({"output_norm.weight": None}, "1 keys (model.norm.weight) missing"),
        ({"output_norm.weight": None, "model.norm.weight": zeros(32)}, "has no place"),
        ({"token_embd.weight": None}, "1 keys (model.embed_tokens.weight) missing"),
        ({"blk.0.attn_q.weight": zeros(32, 64)}, "q_proj.weight is (32, 64), the config wants"),
        ({"blk.0.attn_q.weight": zeros(30, 32)}, "q_proj.weight is (30, 32), the config wants"),
        ({"blk.0.attn_k.weight": zeros(512)}, "k_proj.weight is (512,), the config wants"),
        ({"output.weight": zeros(310, 64)}, "lm_head.weight is (310, 64), the config wants"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, str) else next(iter(value)),
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, tensors, message):
    refuses(message, write(tmp_path / "a.gguf", tensors=tensors))


def with_tokens(**changes) -> dict:
    """The fields of `small_tokenizer`, with some tokens, types or merges (by index) changed."""
    fields = fields_of(small_model(), small_tokenizer())
    found = {}
    for name, change in changes.items():
        key = f"tokenizer.ggml.{name}"
        found[key] = list(fields[key])
        for i, value in change.items():
            found[key][i] = value
    return found


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer.ggml.model is 'llama', known is 'gpt2'"),
        ({"tokenizer.ggml.model": 5}, "tokenizer.ggml.model is 5: it must be a str"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "is 'llama-bpe', known are 'smollm' and 'gpt-2'"),
        ({"tokenizer.ggml.add_bos_token": True}, "tokenizer.ggml.add_bos_token is set"),
        ({"tokenizer.ggml.add_eos_token": True}, "tokenizer.ggml.add_eos_token is set"),
        ({"tokenizer.ggml.add_space_prefix": True}, "tokenizer.ggml.add_space_prefix is set"),
        ({"tokenizer.ggml.tokens": "all"}, "tokens is 'all': it must be a list"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "2 tokens, and 310 types of tokens"),
        ({"tokenizer.ggml.tokens": [1] * 310}, "token 0 is 1, not a text"),
        ({"tokenizer.ggml.token_type": [1] * 309}, "310 tokens, and 309 types of tokens"),
        (with_tokens(token_type={7: 2}), "token 7, '%', is of an unknown type, 2"),
        (with_tokens(token_type={7: 6}), "is of an unknown type, 6"),
        (with_tokens(tokens={8: '"'}), "token 8, '\"', is there twice"),
        (with_tokens(tokens={1: "<|im_end|>"}), "token 2, '<|im_end|>', is there twice"),
        (with_tokens(tokens={8: "a b"}), "token 8, 'a b', holds a character that is of no byte"),
        (with_tokens(tokens={1: ""}), "an added token is empty"),
        (with_tokens(merges={3: "Ġ"}), "merge 3 is 'Ġ', not two tokens"),
        (with_tokens(merges={3: "a b c"}), "merge 3 is 'a b c', not two tokens"),
        (with_tokens(merges={3: "ab "}), "merge 3"),
        (with_tokens(merges={3: "q 漢"}), "merge 3, '漢', holds a character that is of no byte"),
        (with_tokens(merges={3: "q q"}), "is no pair of the vocabulary"),
        ({"tokenizer.ggml.merges": [1, 2]}, "merge 0 is 1, not two tokens"),
        ({"tokenizer.chat_template": 7}, "tokenizer.chat_template is 7, not a text"),
        ({"llama.vocab_size": 400}, "310 tokens, and llama.vocab_size is 400"),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)  # fmt: skip
def test_another_tokenizer_is_named(tmp_path, fields, message):
    refuses(message, write(tmp_path / "a.gguf", fields=fields), BPETokenizer.load)


# -- the real file ------------------------------------------------------------------------------


@needs_real
def test_the_real_header_is_what_the_library_reads():
    assert_as_the_library_reads(REAL)
