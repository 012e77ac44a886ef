"""What README and TROUBLESHOOTING say of the series is so: sums, links, messages."""

import json
import os
import re
from pathlib import Path

import nbformat
import pytest

from smol import doctor, files
from smol.device import check_compiler, choose_device
from smol.finetune import FinetuneConfig, render
from smol.finetune.data import reading_of
from smol.pretrained import find_reference
from smol.tokenizer import SPECIAL_TOKENS, BPETokenizer

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "CONTRIBUTING.md", "notebooks/TROUBLESHOOTING.md", "notebooks/WORKSHOP.md")
FRACTIONS = {"": 0, "¼": 0.25, "½": 0.5, "¾": 0.75}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def hours(text: str) -> float:
    """ "2¾ h" is 2.75."""
    whole, part = re.fullmatch(r"(\d+)([¼½¾]?)(?: h)?", text.strip()).groups()
    return int(whole) + FRACTIONS[part]


def anchors(page: str) -> set[str]:
    """The names that GitHub gives a page's headings."""
    headings = re.findall(r"(?m)^#+ (.*)$", page)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", read(name)):
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), (name, link)
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), (name, link)


def test_a_link_that_leads_nowhere_would_be_found():
    assert anchors("# One\n## What the tests cover\n") == {"one", "what-the-tests-cover"}
    assert "next-to-nothing" not in anchors(read("README.md"))


def test_the_hours_of_a_path_are_those_of_its_notebooks():
    """By the table of the notebooks; and the last path is all of them."""
    readme = read("README.md")
    rows = re.findall(r"(?m)^\| \[(\d) .*?\| ([\d¼½¾]+ h) \|", readme)
    each = {int(number): hours(time) for number, time in rows}
    assert sorted(each) == list(range(1, 10))
    table = readme[readme.index("## Which way through") : readme.index("## Start")]
    paths = re.findall(r"(?m)^\| .* \| ((?:\d, )*\d(?: to \d)?) \| ([\d¼½¾]+) \|$", table)
    assert len(paths) == 7
    for notebooks, time in paths:
        numbers = [int(number) for number in re.findall(r"\d", notebooks)]
        if "to" in notebooks:
            numbers = range(numbers[0], numbers[1] + 1)
        assert hours(time) == sum(each[number] for number in numbers), notebooks
    assert paths[-1][0] == "1 to 9"


def test_the_five_questions_have_their_answers():
    import torch
    from torch import nn

    readme = read("README.md")
    part = readme[readme.index("## Is it for you?") : readme.index("## Which way through")]
    answers = re.findall(r"<summary>Answer</summary>(.*)</details>", part)
    assert len(re.findall(r"(?m)^\d\. ", part)) == len(answers) == 5
    x, layer = torch.ones(2, 5, 8), nn.Linear(8, 3, bias=False)
    mean = x.mean(-1, keepdim=True)
    assert answers[0].startswith(str(tuple((x @ torch.ones(8, 3)).shape)))
    assert answers[1].startswith(str(tuple(mean.shape))) and (x / mean).shape == x.shape
    assert answers[2].startswith(f"{layer.weight.numel()}, a matrix {tuple(layer.weight.shape)}")
    assert torch.equal(layer(x), x @ layer.weight.T)
    assert answers[4].startswith("1/8")


def test_each_symptom_leads_to_a_section():
    page = read("notebooks/TROUBLESHOOTING.md")
    table = page[: page.index("\n## ")]
    named = set(re.findall(r"\]\(#([\w-]+)\)", table))
    sections = anchors(page) - {"when-something-goes-wrong"}
    # Python's comments in a block of code are no headings.
    assert named == {name for name in sections if f"](#{name})" in page}
    assert len(named) == len(re.findall(r"(?m)^## ", page))


def test_the_memory_of_each_notebook_is_what_it_says_itself():
    page = read("notebooks/TROUBLESHOOTING.md")
    row = re.search(r"(?m)^\| GB \| (.*) \|$", page)[1].split(" | ")
    titles = [
        nbformat.read(file, as_version=4).cells[0].source
        for file in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
    ]
    assert row == [re.search(r"\*\*Memory\*\* ([\d.]+) GB", title)[1] for title in titles]


def raised(call, *args) -> str:
    with pytest.raises((OSError, ValueError)) as caught:
        call(*args)
    return str(caught.value)


def test_troubleshooting_quotes_what_is_said(monkeypatch, tmp_path):
    page = read("notebooks/TROUBLESHOOTING.md")

    def quoted(text: str, said: str) -> None:
        assert text in said, said
        assert f"`{text}`" in page or f"`{text}" in page, text

    monkeypatch.setattr(files, "CACHE", tmp_path / "file" / "cache")
    (tmp_path / "file").write_text("")  # no folder can be made in it
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    text = "cannot be written: set XDG_CACHE_HOME to a folder that can"
    quoted(text, raised(files.cache_folder))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("smol.device.find_compiler", lambda: None)
    monkeypatch.setattr("sys.platform", "linux")
    quoted("--compile needs a C++ compiler (g++)", raised(check_compiler))
    monkeypatch.setattr("smol.device.find_compiler", lambda: "g++")
    monkeypatch.setattr("sysconfig.get_path", lambda *args: str(tmp_path))
    quoted("--compile needs Python's own headers (Python.h)", raised(check_compiler))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    quoted("device 'cuda' is not to be had here", raised(choose_device, "cuda"))
    set_up = nbformat.read(ROOT / "notebooks/01_inspect.ipynb", as_version=4).cells[1].source
    quoted("The series is not here: write its repository's address into REPOSITORY.", set_up)
    quoted("Another package named smol came first.", set_up)


def test_troubleshooting_quotes_what_fine_tuning_refuses(tmp_path, capsys):
    page, said = read("notebooks/TROUBLESHOOTING.md"), []
    tokenizer = BPETokenizer.train(["ab"], 270, SPECIAL_TOKENS)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    said_by = "{%% for m in messages %%}<|im_start|>{{ m['content'] }}%s{%% endfor %%}"
    for end in ("", "{% if loop.last %}.{% endif %}<|im_end|>"):
        begun = "{% if add_generation_prompt %}<|im_start|>{% endif %}"
        tokenizer.chat_template = said_by % end + begun
        said.append(raised(render, [*chat, *chat], tokenizer))
    tokenizer.chat_template = None
    long = [chat[0], {"role": "assistant", "content": "b" * 600}]
    rows = [json.dumps({"messages": messages}) for messages in (chat, chat, long)]
    (tmp_path / "chats.jsonl").write_text("\n".join(rows))
    reading_of(FinetuneConfig(model="x", data=str(tmp_path / "chats.jsonl")), tokenizer)
    said.append(capsys.readouterr().err)
    quotes = (
        "the chat template ends an answer with no special token of this tokenizer",
        "the chat template writes the conversation up to message",
        "no answer within 512 tokens",
    )
    for text, message in zip(quotes, said, strict=True):
        assert text in message and f"`{text}`" in page, (text, message)


def test_troubleshooting_quotes_what_is_said_without_a_network(monkeypatch, tmp_path, capsys):
    page = read("notebooks/TROUBLESHOOTING.md")
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("SMOL_OFFLINE", "0")

    def nowhere(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", nowhere)
    monkeypatch.setattr("huggingface_hub.snapshot_download", nowhere)
    monkeypatch.setattr("smol.pretrained.wheel.find_pip", lambda: None)
    monkeypatch.delenv("SMOL_WEIGHTS", raising=False)
    found = find_reference()
    name = "HuggingFaceTB/SmolLM2-135M-Instruct"
    line = f"{name}: random weights, seed 0 ({found.why})"  # as load_reference prints it
    start = re.search(r"```\n(Hugging.*?\(the hub is out of reach; )…\)\n```", page)[1]
    assert line.startswith(start) and found.weights == "random"
    assert "comes through pip, and there is none here" in found.why
    assert "`comes through pip, and there is none here`" in page
    monkeypatch.setenv("SMOL_WEIGHTS", "published")
    assert "and the hub says:" in raised(find_reference) and "`and the hub says:`" in page
    monkeypatch.setenv("SMOL_OFFLINE", "0")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *a, **k: type("R", (), {"returncode": 1}))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert "no package index in reach" in doctor.pip().seen
    assert "`no package index in reach`" in page and "`not in reach`" in page
    assert doctor.hub().seen.startswith("not in reach")


def test_the_doctor_sends_who_is_stuck_to_that_page(monkeypatch, capsys):
    finding = doctor.Finding("disk", "unfit", "0 GB free")
    monkeypatch.setattr(doctor, "examine", lambda: iter([finding]))
    assert doctor.main() == 1
    page = capsys.readouterr().out.split()[-1]
    assert (ROOT / page).is_file() and page in read("README.md")


def test_the_three_places_of_the_cache_are_named():
    """A downloaded model is carried to another machine by its path."""
    from smol.pretrained.wheel import FILE

    page = read("notebooks/TROUBLESHOOTING.md")
    assert f"`{os.path.relpath(files.CACHE / FILE, ROOT)}`".replace(os.sep, "/") in page
