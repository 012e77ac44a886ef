"""What `write_gguf` writes: the library and llama.cpp read what we meant, and it comes back."""

import re
import sys

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, dequantize

from smol import BPETokenizer, load_pretrained
from smol.gguf import KINDS, halves, pairs, write_gguf
from smol.gguf.__main__ import main
from smol.gguf.ollama import modelfile
from smol.pretrained import SHIPPED
from smol.stories import write as stories
from smol.tests import ggufs
from smol.tests.ggufs import small_model, small_tokenizer
from smol.tests.llama import llama_cpp, next_tokens
from smol.tests.reference import REAL, needs_real
from smol.tokenizer import CHAT_TEMPLATE

CHAT = SHIPPED.with_name("smol-stories-chat")


def chatting(template: str | None = CHAT_TEMPLATE) -> BPETokenizer:
    tokenizer = small_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_f32_comes_back_to_the_bit(tmp_path, tied, dtype):
    model = small_model(tie_word_embeddings=tied).to(dtype)
    write_gguf(model, chatting(), tmp_path / "a.gguf", "f32")
    back = load_pretrained(tmp_path / "a.gguf", dtype)
    assert back.config == model.config
    for (key, mine), theirs in zip(model.state_dict().items(), back.state_dict().values(),
                                   strict=True):  # fmt: skip
        assert torch.equal(mine, theirs), key
    tokenizer = BPETokenizer.load(tmp_path / "a.gguf")
    assert tokenizer.fingerprint == chatting().fingerprint
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]  # nothing left beside it


@pytest.mark.parametrize("kind", KINDS)
def test_the_numbers_are_those_of_the_library(tmp_path, kind):
    """Matrices in the kind that was asked for, norms always in fp32, in llama.cpp's order of
    rows, which `ggufs` makes by itself."""
    model = small_model()
    write_gguf(model, chatting(), tmp_path / "a.gguf", kind)
    reader, wanted = GGUFReader(tmp_path / "a.gguf"), ggufs.tensors_of(model)
    assert sorted(tensor.name for tensor in reader.tensors) == sorted(wanted)
    for tensor in reader.tensors:
        weight = wanted[tensor.name]
        its_kind = GGMLQuantizationType[kind.upper() if weight.ndim == 2 else "F32"]
        assert tensor.tensor_type == its_kind, tensor.name
        assert tuple(reversed(tensor.shape.tolist())) == weight.shape
        back = dequantize(tensor.data, its_kind).reshape(weight.shape)
        assert np.array_equal(back, dequantize(gguf.quantize(weight, its_kind), its_kind))
        # Half a step of 127, and the step is rounded to fp16 as well.
        bound = {"F32": 0, "F16": 2**-11, "Q8_0": 0.5 / 127 + 2**-11}[its_kind.name]
        off = np.abs(back - weight).max(-1)
        assert (off <= bound * np.abs(weight).max(-1) + 1e-7).all()
    back = load_pretrained(tmp_path / "a.gguf")
    gap = max((p - q).abs().max() for p, q in zip(model.parameters(), back.parameters(),
                                                  strict=True))  # fmt: skip
    assert (gap == 0) == (kind == "f32") and gap < 0.01


def test_the_keys_are_those_that_another_hand_writes(tmp_path):
    model, tokenizer = small_model(), chatting()
    write_gguf(model, tokenizer, tmp_path / "a.gguf", "f32")
    reader = GGUFReader(tmp_path / "a.gguf")
    mine = {key: field.contents() for key, field in reader.fields.items()}
    ends = {"general.file_type": 0, "tokenizer.ggml.add_space_prefix": False}
    wanted = {**ggufs.fields_of(model, tokenizer, CHAT_TEMPLATE), **ends}
    del wanted["general.alignment"]  # what it is without being said
    for key, value in wanted.items():
        assert mine.pop(key) == (pytest.approx(value) if isinstance(value, float) else value), key
    assert [key for key in mine if not key.startswith("GGUF.")] == []


def test_tokens_that_the_model_has_and_the_tokenizer_lacks_are_holes(tmp_path):
    n = len(small_tokenizer())
    model = small_model(vocab_size=n + 3)
    write_gguf(model, chatting(None), tmp_path / "a.gguf", "q8_0")
    fields = GGUFReader(tmp_path / "a.gguf").fields
    assert fields["tokenizer.ggml.tokens"].contents()[n:] == [f"[PAD{n + i}]" for i in range(3)]
    assert fields["tokenizer.ggml.token_type"].contents()[n:] == [5, 5, 5]
    assert "tokenizer.chat_template" not in fields
    back = BPETokenizer.load(tmp_path / "a.gguf")
    assert back.fingerprint == small_tokenizer().fingerprint and back.chat_template is None
    assert load_pretrained(tmp_path / "a.gguf").config.vocab_size == n + 3


def test_rows_in_pairs_are_undone_by_halves():
    weight = torch.randn(24, 5)
    for heads in (1, 2, 3):
        assert torch.equal(halves(pairs(weight, heads), heads), weight)
    assert not torch.equal(pairs(weight, 2), weight)
    rows = pairs(torch.arange(8.0)[:, None].repeat(1, 2), 2)[:, 0].tolist()
    assert rows == [0, 2, 1, 3, 4, 6, 5, 7]  # of each head the pairs (0, 2), (1, 3)


def broken(model):
    with torch.no_grad():
        model.embed_tokens.weight[3, 4] = float("nan")
    return model


def large(model):
    with torch.no_grad():
        model.layers[0].mlp.down_proj.weight[3, 4] = 1e5
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "q4_0"}, "kind 'q4_0' is none of f32, f16, q8_0"),
        ({"model": torch.nn.Linear(2, 2)}, "write_gguf takes a SmolLM2, got a Linear"),
        ({"tokenizer": "assets"}, "tokenizer must be a BPETokenizer, got 'assets'"),
        ({"model": small_model(vocab_size=300)}, "has the id 309, the model has 300 tokens"),
        ({"model": small_model(intermediate_size=40)}, "ffn_down.weight has rows of 40: take f16"),
        ({"model": broken(small_model())}, "token_embd.weight holds NaN or infinity"),
        ({"model": large(small_model())}, "ffn_down.weight holds numbers above 65,504"),
        ({"model": large(small_model()), "kind": "f16"}, "too large for f16: take f32"),
        ({"file": ""}, "the .gguf is empty"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused_and_leaves_what_was_there(tmp_path, change, message):
    file = tmp_path / "a.gguf"
    file.write_bytes(b"before")
    given = {"model": small_model(), "tokenizer": chatting(), "file": file, **change}
    with pytest.raises(ValueError) as caught:
        write_gguf(**given)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert file.read_bytes() == b"before" and len(list(tmp_path.iterdir())) == 1


# -- llama.cpp as the judge -----------------------------------------------------------------------


def judged(tmp_path, model, tokenizer, texts, exact: float, first: float = 1e-3) -> None:
    """llama.cpp has our ids, and our log-probabilities: `first` after one token, later `exact`."""
    write_gguf(model, tokenizer, tmp_path / "a.gguf", "f32")
    ask = llama_cpp(tmp_path / "a.gguf", exact=True)
    for text in texts:
        ids = tokenizer.encode(text)
        assert ask("tokenize", content=text, add_special=True)["tokens"] == ids
        for part, bound in ((ids[:1], first), (ids, exact)):
            with torch.no_grad():
                ours = model(torch.tensor([part]))[0, -1].log_softmax(-1)
            found = next_tokens(ask, part, 20)
            gap = max(abs(ours[i].item() - theirs) for i, theirs in found.items())
            assert len(found) == 20 and gap < bound, (text[:20], gap)


def test_llama_cpp_has_our_ids_and_probabilities(tmp_path):
    model, tokenizer = load_pretrained(SHIPPED), BPETokenizer.load(SHIPPED)
    texts = [story[:400] for story in stories(3, 7)]
    judged(tmp_path, model, tokenizer, texts, exact=1e-3)


def test_llama_cpp_would_see_rows_that_are_not_in_pairs(tmp_path, monkeypatch):
    """And with them it speaks, all the same."""
    model, tokenizer = load_pretrained(SHIPPED), BPETokenizer.load(SHIPPED)
    monkeypatch.setattr("smol.gguf.write.pairs", lambda weight, heads: weight)
    with pytest.raises(AssertionError):
        judged(tmp_path, model, tokenizer, [stories(1, 7)[0][:400]], exact=1e-3)


@needs_real
def test_the_real_one_written_anew_is_the_one_that_was_read(tmp_path):
    model, tokenizer = load_pretrained(REAL), BPETokenizer.load(REAL)
    texts = ["The capital of France is", "In 1789, don't you think?\n\n  def f(x): return x ** 2"]
    judged(tmp_path, model, tokenizer, texts, exact=5e-3, first=2e-3)
    back = load_pretrained(tmp_path / "a.gguf")
    assert all(map(torch.equal, model.state_dict().values(), back.state_dict().values()))
    assert BPETokenizer.load(tmp_path / "a.gguf").chat_template == tokenizer.chat_template


# -- the command, and Ollama's file ---------------------------------------------------------------


def test_the_command_writes_a_file_and_its_modelfile(tmp_path, monkeypatch, capsys):
    (tmp_path / "sub").mkdir()
    file, told = tmp_path / "stories.gguf", tmp_path / "sub" / "Modelfile"
    monkeypatch.setattr(sys, "argv", ["gguf", str(SHIPPED), str(file), "--modelfile", str(told)])
    assert main() == 0
    out = capsys.readouterr().out
    assert f"{file.stat().st_size:,} bytes, q8_0" in out and "ollama create stories" in out
    assert file.stat().st_size < 0.6 * (SHIPPED / "model.safetensors").stat().st_size
    assert told.read_text(encoding="utf-8").splitlines() == [
        "FROM ./../stories.gguf",
        'TEMPLATE """<|endoftext|>{{ .Prompt }}"""',
        'PARAMETER stop "<|endoftext|>"',
        "PARAMETER num_ctx 512",
        "PARAMETER temperature 0",
    ]


@pytest.mark.parametrize("wrong", ["a.bin", "nowhere/a.gguf"])
def test_a_place_that_cannot_be_is_refused_before_the_model_is_read(
    tmp_path, monkeypatch, capsys, wrong
):
    (tmp_path / "nowhere").write_text("a file")
    monkeypatch.setattr("smol.gguf.__main__.load_pretrained", None)
    monkeypatch.setattr(sys, "argv", ["gguf", str(SHIPPED), str(tmp_path / wrong)])
    assert main() == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and ("must end in .gguf" in err or "nowhere" in err)


def test_a_conversation_is_written_as_the_template_writes_it():
    tokenizer, config = chatting(), small_model().config
    text = modelfile(tokenizer, config, "a.gguf")
    assert 'SYSTEM """You are a helpful AI assistant named SmolLM' in text
    stops = [line for line in text.splitlines() if line.startswith("PARAMETER stop")]
    assert stops == [
        f'PARAMETER stop "{token}"' for token in ("<|im_end|>", "<|im_start|>", "<|endoftext|>")
    ]
    # Ollama's own rendering, by hand: range over the messages, then the rest.
    body = text.partition('TEMPLATE """')[2].partition('"""')[0]
    start, each, end = re.split(r"{{ range .Messages }}|{{ end }}", body)
    said = [("system", text.partition('SYSTEM """')[2].partition('"""')[0]), ("user", "Hi")]
    made = "".join(
        each.replace("{{ .Role }}", role).replace("{{ .Content }}", content)
        for role, content in said
    )
    messages = [{"role": "user", "content": "Hi"}]
    wanted = tokenizer.decode(tokenizer.apply_chat_template(messages, True))
    assert start + made + end == wanted


@pytest.mark.parametrize("before", ["", "[INST]"])
def test_another_template_is_not_guessed(before):
    template = before + "{{ messages[0]['content'] }}"
    with pytest.raises(ValueError, match="is not ChatML: write its TEMPLATE by hand"):
        modelfile(chatting(template), small_model().config, "a.gguf")
    chatting()
