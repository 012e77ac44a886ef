"""Data: nothing lost at a border, nothing twice on resume, a clear sentence for each fault."""

import errno
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from smol import SmolLM2, files, stories
from smol.data import (
    Corpus,
    FreshStories,
    Stream,
    Windows,
    batches,
    corpora,
    encode,
    load_corpus,
    open_stream,
    padded,
    statistics,
    tokenise,
)
from smol.data import batches as data_batches
from smol.tests.reference import tiny_config
from smol.tokenizer import BPETokenizer

EOS = 256


class Bytes:
    """A tokenizer of 256 bytes and the end of text, which counts how often it is asked."""

    eos_id, fingerprint = EOS, "b" * 64

    def __init__(self, size: int = 257):
        self.size, self.asked = size, 0

    def __len__(self) -> int:
        return self.size

    def encode(self, text: str, special: bool = True) -> list[int]:
        self.asked += 1
        parts = text.split("<|endoftext|>") if special else [text]
        ids = list(parts[0].encode())
        for part in parts[1:]:
            ids += [EOS, *part.encode()]
        return ids


def text_of(ids) -> str:
    return bytes(i for i in map(int, ids) if i != EOS).decode()


def refuses(kind, words: str, call, *args, **kwargs):
    """The call raises `kind` with these words, in one sentence on one line."""
    with pytest.raises(kind, match=words) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


# -- files and folders --------------------------------------------------------------------------


def write_jsonl(file: Path, texts) -> Path:
    file.write_text("".join(json.dumps({"text": t, "id": 7}) + "\n" for t in texts))
    return file


def write_parquet(file: Path, texts, column: str = "text", **options) -> Path:
    pq.write_table(pa.table({column: texts, "id": range(len(texts))}), file, **options)
    return file


TEXTS = [f"document {i}, with ü" for i in range(25)]


@pytest.mark.parametrize("write", [write_jsonl, write_parquet])
def test_the_last_tenth_of_the_documents_validates(tmp_path, write):
    file = write(tmp_path / f"corpus.{write.__name__[6:]}", TEXTS)
    corpus = load_corpus(file)
    assert corpus.train == TEXTS[:22] and corpus.validation == TEXTS[22:]
    assert corpus.name == str(file)
    assert load_corpus(str(file)) == corpus


@pytest.mark.parametrize("name", ["one.txt", "one.md", "one.py", "LICENSE"])
def test_a_text_file_is_one_document_split_at_nine_tenths_of_its_characters(tmp_path, name):
    text = "Zwölf Boxkämpfer\r\n\r\njagen Viktor quer über den Sylter Deich."
    (tmp_path / name).write_bytes(text.encode())
    (train,), (validation,) = load_corpus(tmp_path / name)[1:]
    assert train + validation == text  # to the byte: \r\n stays what it is
    assert len(train) == len(text) * 9 // 10


def test_two_documents_are_enough(tmp_path):
    assert load_corpus(write_jsonl(tmp_path / "two.jsonl", ["a", "b"]))[1:] == (["a"], ["b"])


def test_a_folder_is_read_in_order_without_hidden_files(tmp_path):
    (tmp_path / "b" / ".git").mkdir(parents=True)
    (tmp_path / "b" / "2.txt").write_text("two")
    (tmp_path / "a.md").write_text("one")
    write_jsonl(tmp_path / "c.jsonl", ["three", " ", "four"])
    write_parquet(tmp_path / "d.parquet", ["five", None, ""])
    (tmp_path / "b" / ".git" / "x.txt").write_text("hidden")
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty.txt").write_text("\n")
    corpus = load_corpus(tmp_path)
    assert corpus.train + corpus.validation == ["one", "two", "three", "four", "five"]


@pytest.mark.parametrize("read", [load_corpus, open_stream])
@pytest.mark.parametrize("name", ["", " ", Path(""), None, 3, b"stories"])
def test_no_name_is_not_the_folder_one_is_in(tmp_path, monkeypatch, read, name):
    """What an unset variable of a shell leaves. Path("") is ".", and means it."""
    monkeypatch.chdir(tmp_path)
    if name == Path(""):
        refuses(FileNotFoundError, r"^\. holds no file", read, name)
    else:
        refuses(ValueError, "the corpus (is empty|must be a name or a path)", read, name)


def links(folder: Path) -> Path:
    """A folder with its text behind links, one of which leads back to it."""
    (folder / "own" / "b").mkdir(parents=True)
    (folder / "elsewhere" / ".deep").mkdir(parents=True)
    write_jsonl(folder / "own" / "a.jsonl", ["one", "two"])
    write_jsonl(folder / "elsewhere" / "c.jsonl", ["three"])
    write_jsonl(folder / "elsewhere" / ".deep" / "d.jsonl", ["hidden"])
    (folder / "own" / "b" / "linked").symlink_to(folder / "elsewhere")
    (folder / "own" / "b" / "again.jsonl").symlink_to(folder / "own" / "a.jsonl")
    (folder / "own" / "loop").symlink_to(folder / "own")
    (folder / "elsewhere" / "loop").symlink_to(folder / "own" / "b")
    return folder / "own"


def test_links_are_followed_and_nothing_is_read_twice(tmp_path):
    folder = links(tmp_path)
    corpus = load_corpus(folder)
    assert corpus.train + corpus.validation == ["one", "two", "three"]
    assert [row["text"] for row in open_stream(folder, held_out=1).train] == ["two", "three"]
    for name in ("gone.jsonl", "gone"):
        (folder / name).symlink_to(tmp_path / "nowhere")
        words = f"{name} is a link to .*nowhere, which is not there: mend or remove it"
        refuses(FileNotFoundError, words, load_corpus, folder)
        refuses(FileNotFoundError, words, open_stream, folder)
        (folder / name).unlink()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a.csv", r"a.csv is no text yet: make it .jsonl, with \{\"text\": "),
        ("a.JSON", "a.JSON is no text yet: make it .jsonl"),
        ("a.jsonl.gz", "a.jsonl.gz is packed: unpack it first"),
        ("a.zip", "a.zip is packed: unpack it first"),
        ("a.txt.zst", "a.txt.zst is packed: unpack it first"),
        ("a.bin", "a.bin holds a NUL at character 3: it is no text"),
        ("a.txt", "a.txt holds a NUL at character 3: it is no text"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path, name, words):
    (tmp_path / name).write_bytes(b'[1]\0{"text": "a b c d e f"}')
    refuses(ValueError, words, load_corpus, tmp_path / name)
    (tmp_path / "b.md").write_text("some text of a folder")
    if Path(name).suffix in (".csv", ".JSON", ".zip", ".bin"):  # beside the text, not the text
        assert load_corpus(tmp_path).train == ["some text of a fol"]
    else:
        refuses(ValueError, words, load_corpus, tmp_path)


def column(kind: str) -> pa.Array:
    texts = pa.array(["one", None, "two", "one"])
    if kind == "category":
        return texts.dictionary_encode()
    return texts.cast({"view": pa.string_view(), "large": pa.large_string()}[kind])


@pytest.mark.parametrize("kind", ["view", "large", "category"])
def test_strings_of_every_kind_in_parquet_are_read(tmp_path, kind):
    pq.write_table(pa.table({"text": column(kind)}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [None, None], "b": [1, 2]}), tmp_path / "b.parquet")
    corpus = load_corpus(tmp_path)
    assert corpus.train + corpus.validation == ["one", "two", "one"]
    assert [row["text"] for row in open_stream(tmp_path, 1).train][:3] == [None, "two", "one"]


def test_null_is_left_out_by_one_rule(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": null}\n{"text": ""}\n{"text": "b"}')
    assert load_corpus(tmp_path)[1:] == (["a"], ["b"])
    stream = Stream(open_stream(tmp_path, 1).train, Bytes(), 1, 1, shuffle=False)
    assert drawn(stream, 1) == [ord("b"), EOS]


def shards_of_other_columns(folder: Path, kind: str) -> Path:
    """Three files of ten documents that have nothing in common but "text"."""
    beside = [{"id": 1}, {"id": "one", "x": [1]}, {"y": {"z": None}}]
    for k, more in enumerate(beside):
        rows = [{"text": f"{k} {i}", **more} for i in range(10)]
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), folder / f"{k}.parquet", row_group_size=4)
        else:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{k}.jsonl").write_text(lines)
    return folder


@pytest.mark.parametrize("before", [1, 4, 9, 14])
@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_shards_need_only_text_in_common(tmp_path, monkeypatch, kind, before):
    """Read, streamed, and gone on with in the middle of each."""
    monkeypatch.setattr(batches, "BLOCK", 3)
    folder = shards_of_other_columns(tmp_path, kind)
    want = [f"{k} {i}" for k in range(3) for i in range(10)]
    corpus = load_corpus(folder)
    assert corpus.train + corpus.validation == want
    streamed = open_stream(folder, held_out=2)
    assert streamed.validation == want[:2]
    assert list(streamed.train) == [{"text": text} for text in want[2:]]
    assert_resumes(lambda: Stream(open_stream(folder, 2).train, Bytes(), 2, 4), before)


BAD_LINES = {
    '{"text": "cut o': r"b.jsonl, line 3 is no \{",
    '{"text": 3}': r"b.jsonl, line 3 is no \{",
    '{"txt": "a"}': r"b.jsonl, line 3 is no \{",
    r'{"text": "\ud800"}': r"b.jsonl, line 3 is no \{",
    "[" * 100_000: r"b.jsonl, line 3 is no \{",
    b'{"text": "f\xfcr"}': "b.jsonl, line 3, is not UTF-8 at byte 11: convert it first",
}


@pytest.mark.parametrize("line", BAD_LINES)
def test_a_bad_line_is_named_in_mid_stream_too(tmp_path, monkeypatch, line):
    monkeypatch.setattr(batches, "BLOCK", 4)
    write_jsonl(tmp_path / "a.jsonl", [f"text {i}" for i in range(8)])
    raw = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "good"}\n\n' + raw + b"\n")
    refuses(ValueError, BAD_LINES[line], load_corpus, tmp_path)
    stream = Stream(open_stream(tmp_path, held_out=2).train, Bytes(), 1, 7)
    next(stream)  # what comes before it is drawn
    refuses(ValueError, BAD_LINES[line], drawn, stream, 20)


def invalid_strings() -> pa.Array:
    offsets = pa.py_buffer(np.array([0, 1, 3], np.int32))
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"a\xff\xfe")])


@pytest.mark.parametrize("trouble", ["cut", "numbers", "no text", "not UTF-8", "spoiled"])
def test_bad_parquet_is_named_in_mid_stream_too(tmp_path, monkeypatch, trouble):
    monkeypatch.setattr(batches, "BLOCK", 4)
    write_parquet(tmp_path / "a.parquet", [f"text {i}" for i in range(8)])
    table = {"text": [f"document {i}" for i in range(500)]}
    table = {
        "numbers": {"text": [1, 2]},
        "no text": {"content": ["a"]},
        "not UTF-8": {"text": invalid_strings()},
    }.get(trouble, table)
    file = tmp_path / "b.parquet"
    pq.write_table(pa.table(table), file, compression="none", use_dictionary=False)
    raw = file.read_bytes()
    if trouble == "cut":
        file.write_bytes(raw[:-20])
    if trouble == "spoiled":
        file.write_bytes(raw[:4] + b"\xff" * 400 + raw[404:])
    words = {
        "numbers": r'b.parquet has no column "text" of strings, only .text \(int64\)',
        "no text": r'b.parquet has no column "text" of strings, only .content \(string\)',
        "not UTF-8": 'b.parquet holds a "text" that is not UTF-8: mend it',
    }.get(trouble, "b.parquet is not a whole parquet file: fetch it again")
    refuses(ValueError, words, load_corpus, tmp_path)
    stream = Stream(open_stream(tmp_path, held_out=2).train, Bytes(), 1, 7)
    next(stream)
    refuses(ValueError, words, drawn, stream, 20)


def test_text_of_another_type_in_a_dataset_of_ones_own():
    words = 'the "text" of a document is 3: it must be a string, or null'
    refuses(ValueError, words, next, stream_of(["one", 3]))


def test_a_line_separator_inside_json_is_no_new_line(tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text('{"text": "a\u2028b"}\r\n\n{"text": "c"}', encoding="utf-8")
    assert load_corpus(file)[1:] == (["a\u2028b"], ["c"])


def test_a_name_that_is_nothing_lists_the_known_ones(tmp_path):
    known = "no file or folder here nor one of"
    refuses(FileNotFoundError, known, load_corpus, "storys")
    refuses(FileNotFoundError, known, open_stream, tmp_path / "gone")


def test_a_corpus_to_stream_is_not_loaded():
    refuses(ValueError, r"open_stream\('cosmopedia'\)", load_corpus, "cosmopedia")


@pytest.mark.parametrize("content", ["", " \n\n"])
def test_an_empty_file_is_refused(tmp_path, content):
    (tmp_path / "empty.txt").write_text(content)
    refuses(ValueError, "empty.txt holds no text: ", load_corpus, tmp_path / "empty.txt")


def test_a_single_character_cannot_be_split(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    refuses(ValueError, "a.txt is too small to split", load_corpus, tmp_path / "a.txt")


@pytest.mark.parametrize("name", ["bad.txt", "bad.jsonl"])
def test_invalid_utf8_is_named_with_its_place(tmp_path, name):
    (tmp_path / name).write_bytes("für".encode() + b"\xff rest")
    refuses(ValueError, rf"{name}(, line 1,)? is not UTF-8 at byte 4: ", load_corpus, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        '{"text": "cut o',
        "[1]",
        '"text"',
        "3",
        '{"txt": "a"}',
        '{"text": 3}',
        r'{"text": "\ud800"}',
    ],
)
def test_a_bad_line_of_json_is_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n\n' + line + "\n")
    refuses(ValueError, r"a.jsonl, line 3 is no \{\"text\": ", load_corpus, tmp_path / "a.jsonl")


def test_a_parquet_file_without_text_is_refused(tmp_path):
    file, words = tmp_path / "a.parquet", r'a\.parquet has no column "text" of strings, only '
    write_parquet(file, TEXTS, column="content")
    refuses(ValueError, words + ".*content", load_corpus, file)
    pq.write_table(pa.table({"text": [1, 2]}), file)
    refuses(ValueError, words + ".*int64", load_corpus, file)


def test_a_torn_parquet_file_is_refused(tmp_path):
    file = write_parquet(tmp_path / "a.parquet", TEXTS)
    file.write_bytes(file.read_bytes()[:-20])
    refuses(ValueError, "a.parquet is not a whole parquet file: fetch it again", load_corpus, file)


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    words = r"holds no file that ends in \.jsonl, .*\.md, \.parquet, \.py, \.txt"
    refuses(FileNotFoundError, words, load_corpus, tmp_path)


def test_statistics(tmp_path):
    got = statistics(Corpus("x", ["aé", "a"], ["b"]))
    assert got["train"] == {
        "documents": 2,
        "bytes": 4,
        "characters": 3,
        "distinct characters": 2,
    }
    assert got["validation"]["documents"] == 1


# -- stories ------------------------------------------------------------------------------------


@pytest.mark.parametrize("newline", ["\n", "\r\n"])  # Git on Windows may check out the latter
def test_stories_end_at_blank_lines(tmp_path, monkeypatch, newline):
    monkeypatch.setattr(corpora, "DATA", tmp_path)
    stories = [f"Story {i}.\nIt ends." for i in range(30)]
    text = ("\n\n".join(stories) + "\n").replace("\n", newline)
    (tmp_path / "stories.txt").write_bytes(text.encode())
    assert load_corpus("stories") == Corpus("stories", stories[:27], stories[27:])


def test_the_stories_are_in_the_repository():
    corpus = load_corpus("stories")
    assert len(corpus.train) + len(corpus.validation) > 1000
    assert abs(len(corpus.train) - 9 * len(corpus.validation)) <= 9
    assert not set(corpus.train) & set(corpus.validation)


def test_missing_stories_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(corpora, "DATA", tmp_path)
    refuses(FileNotFoundError, "stories.txt is missing: .* repository", load_corpus, "stories")


# -- shakespeare --------------------------------------------------------------------------------

PLAY = b"To be, or not to be, that is the question. " * 50


class Server:
    """One file by HTTP. `trouble`: None, "cut", "other" bytes, "silent", or a status."""

    def __init__(self):
        self.trouble, self.asked, self.stopping = None, 0, threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.asked += 1
                if server.trouble == "silent":
                    server.stopping.wait(30)
                    return
                body = PLAY.replace(b"be", b"bee") if server.trouble == "other" else PLAY
                self.send_response(server.trouble if isinstance(server.trouble, int) else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:700] if server.trouble == "cut" else body)

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/input.txt"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self):
        self.stopping.set()
        self.http.shutdown()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The file's place on the net, with an empty cache in tmp_path and the network allowed."""
    server = Server()
    monkeypatch.setattr(files, "CACHE", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    monkeypatch.setattr(corpora, "SHAKESPEARE_URL", server.url)
    monkeypatch.setattr(corpora, "SHAKESPEARE_SHA256", hashlib.sha256(PLAY).hexdigest())
    monkeypatch.setenv("no_proxy", "*")
    for name in ("SMOL_OFFLINE", "SMOL_DATA"):
        monkeypatch.delenv(name, raising=False)
    yield server
    server.stop()


def assert_is_the_play(corpus: Corpus):
    assert corpus.name == "shakespeare"
    assert "".join(corpus.train + corpus.validation).encode() == PLAY


def test_shakespeare_is_downloaded_once(server, tmp_path, monkeypatch):
    assert_is_the_play(load_corpus("shakespeare"))
    assert contents(tmp_path) == {"cache/tinyshakespeare.txt": PLAY}
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    assert_is_the_play(load_corpus("shakespeare"))
    assert server.asked == 1


def test_shakespeare_in_smol_data_comes_first(server, tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.setenv("SMOL_DATA", str(tmp_path / "mine"))
    assert_is_the_play(load_corpus("shakespeare"))  # not there: downloaded
    (tmp_path / "cache" / "tinyshakespeare.txt").write_bytes(b"other bytes")
    (tmp_path / "mine" / "tinyshakespeare.txt").write_bytes(PLAY)
    assert_is_the_play(load_corpus("shakespeare"))
    assert server.asked == 1


@pytest.mark.parametrize(
    ("trouble", "kind", "words"),
    [
        ("cut", FileNotFoundError, "downloaded .*700 bytes read, 1450 more expected.*: go online"),
        (404, FileNotFoundError, "cannot be downloaded .*404.*: go online or put the file at"),
        (503, FileNotFoundError, "cannot be downloaded .*503.*: go online or put the file at"),
        ("silent", FileNotFoundError, "cannot be downloaded .*timed out.*: go online or put"),
        ("other", ValueError, "gave other bytes than the published file .*: try again or put"),
    ],
)
def test_trouble_with_the_download(server, tmp_path, monkeypatch, trouble, kind, words):
    server.trouble = trouble
    monkeypatch.setattr(corpora, "TIMEOUT", 0.3)
    refuses(kind, f"{re.escape(server.url)} .*{words}", load_corpus, "shakespeare")
    assert contents(tmp_path) == {} and server.asked == 1
    server.trouble = None
    assert_is_the_play(load_corpus("shakespeare"))


def test_nobody_listens(server, tmp_path):
    server.stop()
    start = time.monotonic()
    refuses(FileNotFoundError, "cannot be downloaded .*refused.*: go", load_corpus, "shakespeare")
    assert time.monotonic() - start < 5
    assert contents(tmp_path) == {}


def test_offline_asks_nobody(server, tmp_path, monkeypatch):
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    words = rf"SMOL_OFFLINE=1 is set: unset it or put the file at .*{re.escape('txt')}"
    refuses(FileNotFoundError, words, load_corpus, "shakespeare")
    assert server.asked == 0


@pytest.mark.parametrize("place", ["cache", "mine"])
def test_a_spoiled_copy_is_refused(server, tmp_path, monkeypatch, place):
    monkeypatch.setenv("SMOL_DATA", str(tmp_path / "mine"))
    (tmp_path / place).mkdir()
    (tmp_path / place / "tinyshakespeare.txt").write_bytes(PLAY[:-1])
    words = r"tinyshakespeare.txt has sha256 \w+…, published is \w+…: delete it and fetch"
    refuses(ValueError, words, load_corpus, "shakespeare")
    assert server.asked == 0


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_leaves_no_half_download(server, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", no_space)
        assert_is_the_play(load_corpus("shakespeare"))  # read, though it cannot be kept
    assert contents(tmp_path) == {}
    words = "tiny Shakespeare is not kept, .*cache could not be written .*No space left"
    assert re.search(words, capsys.readouterr().err)
    assert_is_the_play(load_corpus("shakespeare"))


def read_only(monkeypatch, folder: Path, users: Path | None = None) -> None:
    """The checkout's cache as if it could not be written, and the user's, if `users` is None."""
    (folder / "file").write_text("in the way")
    monkeypatch.setattr(files, "CACHE", folder / "file" / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(users or folder / "file"))


def test_shakespeare_in_a_checkout_that_cannot_be_written(server, tmp_path, monkeypatch, capsys):
    read_only(monkeypatch, tmp_path, tmp_path / "users")
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    place = re.escape(str(tmp_path / "users" / "smol" / "tinyshakespeare.txt"))
    refuses(FileNotFoundError, f"put the file at {place}$", load_corpus, "shakespeare")
    read_only(monkeypatch, tmp_path)
    words = "put tinyshakespeare.txt in a folder and name that in SMOL_DATA"
    refuses(FileNotFoundError, words, load_corpus, "shakespeare")
    monkeypatch.delenv("SMOL_OFFLINE")
    assert_is_the_play(load_corpus("shakespeare"))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "set XDG_CACHE_HOME to a folder that can" in said
    read_only(monkeypatch, tmp_path, tmp_path / "users")
    assert_is_the_play(load_corpus("shakespeare"))
    assert (tmp_path / "users" / "smol" / "tinyshakespeare.txt").read_bytes() == PLAY
    assert_is_the_play(load_corpus("shakespeare"))
    assert server.asked == 2 and not capsys.readouterr().err


@pytest.mark.skipif("SMOL_DATA" not in os.environ, reason="SMOL_DATA is unset")
def test_the_real_shakespeare():
    corpus = load_corpus("shakespeare")
    assert statistics(corpus)["train"]["characters"] == 1_003_854  # as in nanoGPT
    assert statistics(corpus)["validation"]["bytes"] == 111_540


# -- tokens -------------------------------------------------------------------------------------

SMALL = Corpus("some/small.txt", ["one", "zwölf", "say <|endoftext|> here"], ["last"])


def test_every_document_ends_with_the_end_of_text(tmp_path):
    train, validation = tokenise(SMALL, Bytes(), tmp_path)
    want = b"".join(t.encode() + b"\0" for t in SMALL.train)  # \0 for the end of text
    assert bytes(0 if i == EOS else i for i in train.tolist()) == want
    assert train.tolist().count(EOS) == 3  # spelled out, it is text like any other
    assert validation.tolist() == [*b"last", EOS]
    assert encode(SMALL.validation, Bytes()).tolist() == validation.tolist()


def test_tokens_are_read_only_maps_of_the_smallest_type(tmp_path):
    for size, dtype in ((257, np.uint16), (65_536, np.uint16), (65_537, np.uint32)):
        for tokens in tokenise(SMALL, Bytes(size), tmp_path / str(size)):
            assert isinstance(tokens, np.memmap) and tokens.dtype == dtype
            with pytest.raises(ValueError, match="read-only"):
                tokens[0] = 1


class Asked(Exception):
    pass


class Broken(Bytes):
    def encode(self, text, special=True):
        raise Asked


def test_the_same_texts_are_tokenised_once(tmp_path):
    new = tmp_path / "not" / "there"
    first = tokenise(SMALL, Bytes(), new)
    again = tokenise(SMALL, Broken(), new)
    tokenise(SMALL._replace(train=["other"]), Bytes(), new)  # a folder that is there by now
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a, b) and not b.flags.writeable


def other(**changes) -> Broken:
    tokenizer = Broken()
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    return tokenizer


@pytest.mark.parametrize(
    ("corpus", "tokenizer"),
    [
        (SMALL, other(fingerprint="c" * 64)),
        (SMALL, other(eos_id=0)),
        (SMALL._replace(train=["one", "zwölf", "say <|endoftext|> her"]), Broken()),
        (SMALL._replace(train=["onez", "wölf", *SMALL.train[2:]]), Broken()),
        (SMALL._replace(train=["one", "zwölf"], validation=[*SMALL.train[2:], "last"]), Broken()),
    ],
    ids=["tokenizer", "end of text", "a letter", "a border", "the split"],
)
def test_other_texts_or_another_tokenizer_are_tokenised_anew(tmp_path, corpus, tokenizer):
    tokenise(SMALL, Bytes(), tmp_path)
    with pytest.raises(Asked):
        tokenise(corpus, tokenizer, tmp_path)


@pytest.mark.parametrize("left", [0, 5, 60, -1])
def test_a_torn_file_is_made_anew(tmp_path, left):
    before = [t.tolist() for t in tokenise(SMALL, Bytes(), tmp_path)]
    for file in tmp_path.iterdir():
        whole = file.read_bytes()
        file.write_bytes(whole[:left])
        assert [t.tolist() for t in tokenise(SMALL, Bytes(), tmp_path)] == before
        assert file.read_bytes() == whole


@pytest.mark.parametrize("trouble", ["disk", "tokenizer"])
def test_what_fails_leaves_no_tokens(tmp_path, monkeypatch, trouble):
    class Late(Bytes):
        def encode(self, text, special=True):
            if text == "last":
                raise Asked
            return super().encode(text, special)

    def half(file, array):
        file.write(b"the first few bytes")
        no_space()

    kind, tokenizer, words = Asked, Late(), None
    if trouble == "disk":
        monkeypatch.setattr(np, "save", half)
        kind, tokenizer, words = OSError, Bytes(), "could not be written .*No space left"
    with pytest.raises(kind, match=words):
        tokenise(SMALL, tokenizer, tmp_path)
    assert contents(tmp_path) == {}


def in_words(corpus: Corpus, tokens) -> None:
    for documents, array in zip(corpus[1:], tokens, strict=True):
        assert array.tolist() == packed(documents)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_tokens_of_a_checkout_that_cannot_be_written(tmp_path, monkeypatch, capsys):
    """They go to the user's cache, and into memory where that cannot be written either."""
    read_only(monkeypatch, tmp_path, tmp_path / "users")
    in_words(SMALL, tokenise(SMALL, Bytes()))
    assert len(list((tmp_path / "users" / "smol").iterdir())) == 2
    in_words(SMALL, tokenise(SMALL, Broken()))  # found there
    assert not capsys.readouterr().err
    read_only(monkeypatch, tmp_path)
    in_words(SMALL, tokenise(SMALL, Bytes()))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("the tokens are kept in memory, and made ")
    assert "XDG_CACHE_HOME" in said
    words = "cannot be written|could not be written|is a file, not a folder"
    refuses(OSError, words, tokenise, SMALL, Broken(), tmp_path / "file")  # before any work


def test_tokens_in_the_checkouts_cache_are_found_first(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "CACHE", tmp_path / "own")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "users"))
    tokenise(SMALL, Bytes())
    assert len(list((tmp_path / "own").iterdir())) == 2
    (tmp_path / "own").rename(tmp_path / "users")
    (tmp_path / "users").rename(tmp_path / "smol")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    in_words(SMALL, tokenise(SMALL, Broken()))
    (tmp_path / "own").mkdir()
    for file in (tmp_path / "smol").iterdir():  # one that is torn does not hide a whole one
        (tmp_path / "own" / file.name).write_bytes(file.read_bytes()[:60])
    in_words(SMALL, tokenise(SMALL, Broken()))


def test_a_full_disk_keeps_the_tokens_in_memory(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(files, "CACHE", tmp_path)
    monkeypatch.setattr(np, "save", no_space)
    in_words(SMALL, tokenise(SMALL, Bytes()))
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "could not be written (No space left on device)" in said
    assert contents(tmp_path) == {}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_bar_that_cannot_be_written_costs_no_tokens(tmp_path, monkeypatch):
    from tqdm import tqdm

    monkeypatch.setattr("tqdm.tqdm", lambda *args, **kw: tqdm(*args, **{**kw, "delay": 0}))
    want = encode(SMALL.train, Bytes()).tolist()
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert encode(SMALL.train, Bytes()).tolist() == want
    monkeypatch.setattr(sys, "stderr", None)
    assert encode(SMALL.train, Bytes()).tolist() == want


def test_what_is_no_corpus_and_no_tokenizer_is_refused(tmp_path, shards):
    from transformers import PreTrainedTokenizerFast

    BPETokenizer.train(["ab"], 257, "<|endoftext|>").save(tmp_path)
    theirs = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    words = r"must be a BPETokenizer, got a \w+: BPETokenizer.load reads the tokenizer.json that"
    for call in (
        lambda t: tokenise(SMALL, t, tmp_path),
        lambda t: encode(["a"], t),
        lambda t: Stream(open_stream(shards / "jsonl", 4).train, t, 1, 1),
        lambda t: FreshStories(t, 1, 1),
    ):
        refuses(ValueError, words, call, theirs)
        refuses(ValueError, "must be a BPETokenizer, got None", call, None)
        refuses(ValueError, "has no <.endoftext.>", call, BPETokenizer.train(["ab"], 257))
    refuses(ValueError, "takes a corpus, as load_corpus gives it", tokenise, "stories", Bytes())
    refuses(ValueError, "directory is empty", tokenise, SMALL, Bytes(), "")
    refuses(
        ValueError, "a text must be a str, got int", tokenise, SMALL._replace(train=[1]), Bytes()
    )
    refuses(ValueError, "use load_corpus", statistics, open_stream(shards / "jsonl", 4))


def test_a_stream_is_not_tokenised_whole(tmp_path):
    corpus = Corpus("cosmopedia", iter([{"text": "a"}]), ["b"])
    refuses(
        ValueError,
        r"cosmopedia is no corpus of lists .*: a stream's train is for Stream",
        tokenise,
        corpus,
        Bytes(),
    )


# -- windows ------------------------------------------------------------------------------------


def loss(inputs, labels) -> float:
    """Of a "model" that is sure of i + 1 after i."""
    logits = F.one_hot(inputs + 1, 1024).float() * 1e4
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten()).item()


def test_labels_are_the_next_tokens():
    inputs, labels = next(Windows(np.arange(1000, dtype=np.uint16), 8, 20))
    assert inputs.shape == labels.shape == (8, 20)
    assert inputs.dtype == labels.dtype == torch.int64
    assert inputs.is_contiguous() and labels.is_contiguous()  # .view(-1) works
    assert loss(inputs, labels) == 0
    assert loss(inputs, inputs) > 1  # labels that were not shifted
    assert loss(inputs, labels.roll(-1, 1)) > 1  # shifted twice
    windows = torch.cat((inputs, labels[:, -1:]), 1)
    assert (windows.diff(dim=1) == 1).all()


def test_windows_are_drawn_uniformly_and_reach_both_ends():
    windows = Windows(np.arange(12), 1000, 4)
    starts = Counter(next(windows)[0][:, 0].tolist())
    assert sorted(starts) == list(range(8))  # 8 + 4 is the last token
    assert min(starts.values()) > 80


def test_windows_follow_their_own_seed_only():
    tokens = np.arange(1000)
    torch.manual_seed(1)
    first, state = next(Windows(tokens, 4, 8))[0], torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, next(Windows(tokens, 4, 8))[0])
    assert not torch.equal(first, next(Windows(tokens, 4, 8, seed=1))[0])
    torch.manual_seed(1)
    next(Windows(tokens, 4, 8))
    assert torch.equal(torch.get_rng_state(), state)


def test_the_smallest_data_and_one_token_less():
    assert next(Windows(np.arange(5), 2, 4))[1].tolist() == [[1, 2, 3, 4]] * 2
    words = "4 tokens are too few for a window of 4 \\+ 1: take a shorter seq_len or more text"
    refuses(ValueError, words, Windows, np.arange(4), 2, 4)


ONES = np.ones(50, dtype=np.int64)
MAKERS = {
    "windows": lambda batch_size=2, seq_len=4, seed=0: Windows(ONES, batch_size, seq_len, seed),
    "stream": lambda batch_size=2, seq_len=4, seed=0: Stream(
        stream_of(["a text"])._documents, Bytes(), batch_size, seq_len, seed
    ),
    "fresh": lambda batch_size=2, seq_len=4, seed=0: FreshStories(
        Bytes(), batch_size, seq_len, seed
    ),
}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("wrong", ["3", 3.0, True, None, torch.tensor(3), float("nan")])
def test_settings_have_one_rule(make, wrong):
    for name in ("batch_size", "seq_len", "seed"):
        refuses(ValueError, f"{name} must be a whole number, got", MAKERS[make], **{name: wrong})
    for seed in (-1, 2**63):
        refuses(ValueError, "seed must be", MAKERS[make], seed=seed)
    refuses(ValueError, "seq_len must be 1 or more, got 0", MAKERS[make], seq_len=0)
    batches = MAKERS[make](np.int64(2), np.uint8(4), np.int32(7))
    assert next(batches)[0].shape == (2, 4)
    saved = json.loads(json.dumps({k: batches._settings[k] for k in ("batch_size", "seq_len")}))
    assert saved == {"batch_size": 2, "seq_len": 4}
    next(MAKERS[make](seed=2**63 - 1))


@pytest.mark.parametrize("wrong", ["3", 3.0, True, None, torch.tensor(3)])
def test_other_counts_have_the_same_rule(shards, wrong):
    refuses(ValueError, "held_out must be a whole", open_stream, shards / "jsonl", wrong)
    refuses(ValueError, "pad_id must be a whole number", padded, [[1, 2]], wrong)
    if wrong is not None:
        refuses(ValueError, "max_length must be a whole number", padded, [[1, 2]], 0, wrong)
    refuses(ValueError, "held_out must be 1 or more", open_stream, shards / "jsonl", -1)
    refuses(ValueError, "pad_id must be 0 or more", padded, [[1, 2]], -1)


@pytest.mark.parametrize(
    "wrong",
    [ONES.reshape(5, 10), ONES.astype(float), ONES > 0, list(ONES), Corpus("a", [], []), None],
)
def test_windows_are_of_a_flat_array(wrong):
    refuses(ValueError, r"a flat array of ids, as tokenise\(…\).train is", Windows, wrong, 2, 4)


@pytest.mark.parametrize("wrong", [["text"], iter([{"text": "a"}]), None, "stories"])
def test_streams_are_of_a_streamed_dataset(wrong):
    refuses(ValueError, r"as open_stream\(…\).train is, got", Stream, wrong, Bytes(), 2, 4)
    refuses(ValueError, "shuffle must be True or False", Stream, wrong, Bytes(), 2, 4, 0, "no")


@pytest.mark.parametrize("wrong", [None, 3, [1, 2]])
def test_a_state_is_a_dict(wrong):
    for make in MAKERS.values():
        refuses(ValueError, "a state is what state_dict gave", make().load_state_dict, wrong)


@pytest.mark.parametrize("sizes", [(0, 4), (2, 0), (-1, 4)])
def test_sizes_below_one_are_refused(sizes):
    refuses(ValueError, "must be 1 or more, got", Windows, np.arange(50), *sizes)


def saved_and_loaded(state: dict) -> dict:
    """As a checkpoint does it, without pickles."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def assert_resumes(make, before: int, after: int = 6):
    """`make()` gives the same batches in one go and with a break after `before` of them."""
    whole, first = make(), make()
    want = [next(whole) for _ in range(before + after)][before:]
    for _ in range(before):
        next(first)
    state = saved_and_loaded(first.state_dict())
    next(first)  # what the first run does after it saved changes nothing
    second = make()
    for used in (second, first):  # fresh, and one that is somewhere else
        used.load_state_dict(state)
        assert used.tokens_seen == sum(inputs.numel() for inputs, _ in want) // after * before
        got = [next(used) for _ in range(after)]
        for (inputs, labels), (want_inputs, want_labels) in zip(got, want, strict=True):
            assert torch.equal(inputs, want_inputs) and torch.equal(labels, want_labels)
        assert used.tokens_seen == whole.tokens_seen
        assert getattr(used, "epoch", 0) == getattr(whole, "epoch", 0)


@pytest.mark.parametrize("before", [0, 1, 5])
def test_windows_resume_exactly(before):
    assert_resumes(lambda: Windows(np.arange(500, dtype=np.uint16), 3, 7), before)


def test_windows_count_tokens():
    windows = Windows(np.arange(500), 3, 7)
    next(windows), next(windows)
    assert windows.tokens_seen == 42 and type(windows.tokens_seen) is int


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (Windows(np.arange(501), 3, 7), "tokens 500, this one from tokens 501"),
        (Windows(np.array([*range(499), 7]), 3, 7), r"crc \d+, this one from crc \d+"),
        (Windows(np.arange(500), 4, 7), "batch_size 3, this one from batch_size 4"),
        (Windows(np.arange(500), 3, 8), "seq_len 7, this one from seq_len 8"),
    ],
)
def test_a_state_of_other_windows_is_refused(changed, words):
    state, own = Windows(np.arange(500, dtype=np.uint16), 3, 7).state_dict(), changed.state_dict()
    refuses(ValueError, words, changed.load_state_dict, state)
    assert str(changed.state_dict()) == str(own)


def test_a_state_of_a_stream_is_not_for_windows(source):
    state = Stream(source(), Bytes(), 3, 7).state_dict()
    refuses(ValueError, "tokens None", Windows(np.arange(9), 3, 7).load_state_dict, state)


# -- streams ------------------------------------------------------------------------------------

DOCUMENTS = [f"{i}: {'lorem ipsum ' * (i % 5)}ü." for i in range(40)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three parquet files in the shape of Cosmopedia's, and the same in jsonl."""
    root = tmp_path_factory.mktemp("shards")
    for kind, write in (("parquet", write_parquet), ("jsonl", write_jsonl)):
        (root / kind).mkdir()
        options = {"row_group_size": 6} if kind == "parquet" else {}
        for k, (start, end) in enumerate(((0, 13), (13, 14), (14, 40))):
            write(root / kind / f"{k}.{kind}", DOCUMENTS[start:end], **options)
    return root


@pytest.fixture(params=["parquet", "jsonl"])
def source(request, shards, monkeypatch):
    """Makes a streamed dataset of the 40 documents; Stream reads 8 of them at a time."""
    monkeypatch.setattr(batches, "BLOCK", 8)

    def source():
        return open_stream(shards / request.param, held_out=4).train

    source.folder = shards / request.param
    return source


def stream_of(texts, **settings) -> Stream:
    from datasets import IterableDataset

    dataset = IterableDataset.from_generator(lambda: ({"text": text} for text in texts))
    return Stream(dataset, Bytes(), **{"batch_size": 2, "seq_len": 5, **settings})


def drawn(stream: Stream, batches: int) -> list[int]:
    """The tokens of so many batches in a row, each border checked."""
    tokens = []
    for _ in range(batches):
        inputs, labels = next(stream)
        assert inputs.dtype == labels.dtype == torch.int64
        assert torch.equal(inputs.flatten()[1:], labels.flatten()[:-1])
        assert not tokens or tokens[-1] == inputs[0, 0]  # the last label is the next input
        tokens += inputs.flatten().tolist() if not tokens else inputs.flatten()[1:].tolist()
        tokens.append(labels[-1, -1].item())
    return tokens


def packed(texts) -> list[int]:
    return [i for text in texts for i in (*text.encode(), EOS)]


def test_the_first_documents_are_held_out_for_good(source):
    corpus = open_stream(source.folder, held_out=4)
    assert corpus.validation == DOCUMENTS[:4]
    stream = Stream(corpus.train, Bytes(), 2, 50)
    seen = text_of(drawn(stream, 80))
    assert stream.epoch >= 2
    for text in DOCUMENTS[:4]:
        assert not re.search(rf"(?<!\d){re.escape(text)}", seen)


@pytest.mark.parametrize("shuffle", [False, True])
def test_every_token_is_a_label_once(source, shuffle):
    """A whole epoch: nothing lost and nothing twice, at borders of windows, blocks, files."""
    stream = Stream(source(), Bytes(), 2, 7, shuffle=shuffle)
    want = packed(DOCUMENTS[4:])
    tokens = drawn(stream, -(-len(want) // 14))[: len(want)]
    if not shuffle:
        assert tokens == want
    else:
        assert tokens != want and Counter(tokens) == Counter(want)
        for text in DOCUMENTS[4:]:
            assert text.encode() in bytes(0 if i == EOS else i for i in tokens).split(b"\0")


def test_a_shuffle_stays_in_its_block_and_differs_by_seed_and_epoch(source):
    def order(seed, epochs=1):
        stream = Stream(source(), Bytes(), 1, 1, seed=seed)
        tokens = drawn(stream, len(packed(DOCUMENTS[4:])) * epochs - 1)
        documents = bytes(0 if i == EOS else i for i in tokens).split(b"\0")[:-1]
        return [int(d.split(b":")[0]) for d in documents]

    first, again, other_seed = order(0, epochs=2), order(0), order(1)
    assert first[:36] == again != other_seed
    assert first[:36] != first[36:] and sorted(first[:36]) == sorted(first[36:])
    for block in range(0, 32, 8):
        assert sorted(first[block : block + 8]) == list(range(4 + block, 12 + block))
        assert first[block : block + 8] != sorted(first[block : block + 8])


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("before", [0, 1, 2, 3, 7, 20, 41])
def test_a_stream_resumes_exactly(source, before, shuffle):
    """Some 16 batches are an epoch here and 4 a block: the breaks are anywhere."""
    assert_resumes(lambda: Stream(source(), Bytes(), 3, 25, shuffle=shuffle), before)


@pytest.mark.parametrize("documents", [3, 8, 16])
@pytest.mark.parametrize("before", range(14))
def test_resume_at_every_document_of_a_small_source(monkeypatch, documents, before):
    """A document of four tokens is a batch: breaks fall on ends of blocks and of the source."""
    monkeypatch.setattr(batches, "BLOCK", 4)
    texts = [f"{i:03}" for i in range(documents)]
    assert_resumes(lambda: stream_of(texts, batch_size=1, seq_len=4), before, after=20)


@pytest.mark.parametrize("documents", [6, 8])  # 8 is two whole blocks
def test_epochs_are_counted(monkeypatch, documents):
    monkeypatch.setattr(batches, "BLOCK", 4)
    stream = stream_of([f"{i:03}" for i in range(documents)], batch_size=1, seq_len=4)
    epochs = []
    for _ in range(3 * documents - 1):
        next(stream)
        epochs.append(stream.epoch)
    # A batch is four tokens and looks at one more, the first of the document after its own.
    assert epochs == [(i + 1) // documents for i in range(3 * documents - 1)]


def test_documents_without_text_are_skipped():
    stream = stream_of(["one", "", " \n", None, "two"], shuffle=False, batch_size=1)
    assert text_of(drawn(stream, 1)[:8]) == "onetw"


@pytest.mark.parametrize("texts", [[], ["", None, " "]])
def test_a_source_without_text_raises_and_does_not_hang(texts):
    refuses(ValueError, 'no document with a "text"', next, stream_of(texts))


def test_a_dataset_that_was_looked_into_is_streamed_from_its_start(source):
    dataset = source()
    next(iter(dataset))
    stream = Stream(dataset, Bytes(), 1, 40, shuffle=False)
    assert drawn(stream, 1) == packed(DOCUMENTS[4:8])[:41]


@pytest.mark.parametrize("before", [3, 7, 12])
def test_two_streams_of_one_dataset_do_not_move_each_other(source, before):
    """datasets keeps an iterator's position in the dataset, which the two would share."""
    dataset, calm = source(), Stream(source(), Bytes(), 3, 25)
    one, two = (Stream(dataset, Bytes(), 3, 25, seed=seed) for seed in (0, 1))
    for _ in range(before):
        next(calm), next(one), next(two), next(two)
    resumed = Stream(dataset, Bytes(), 3, 25)
    resumed.load_state_dict(saved_and_loaded(one.state_dict()))
    for _ in range(20):
        want, got = next(calm)[0], next(one)[0]
        assert torch.equal(got, want) and torch.equal(next(resumed)[0], want)


def test_a_read_that_fails_can_be_tried_again(source):
    calm, stream = Stream(source(), Bytes(), 1, 60), Stream(source(), Bytes(), 1, 60)
    want = drawn(calm, 30)

    def failing(rows):
        yield next(rows)
        raise ConnectionError("reset by peer")

    got = drawn(stream, 2)
    stream._rows = failing(stream._rows)
    with pytest.raises(ConnectionError):
        drawn(stream, 20)
    resumed = Stream(source(), Bytes(), 1, 60)
    resumed.load_state_dict(saved_and_loaded(stream.state_dict()))
    for used in (stream, resumed):
        seen = used.tokens_seen
        assert seen >= len(got) - 1
        assert drawn(used, 30 - seen // 60) == want[seen:]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 3}, "batch_size 2, this one from batch_size 3"),
        ({"seq_len": 6}, "seq_len 5, this one from seq_len 6"),
        ({"seed": 1}, "seed 0, this one from seed 1"),
        ({"shuffle": False}, "shuffle True, this one from shuffle False"),
        ({"tokenizer": other(fingerprint="c" * 64)}, "tokenizer b+, this one from tokenizer c+"),
        ({}, "block_size 8, this one from block_size 9"),
    ],
)
def test_a_state_of_another_stream_is_refused(source, monkeypatch, changes, words):
    settings = {"tokenizer": Bytes(), "batch_size": 2, "seq_len": 5}
    state = Stream(source(), **settings).state_dict()
    if not changes:
        monkeypatch.setattr(batches, "BLOCK", 9)
    changed = Stream(source(), **{**settings, **changes})
    refuses(ValueError, words, changed.load_state_dict, state)


def test_a_state_of_other_documents_is_refused_and_changes_nothing(monkeypatch):
    monkeypatch.setattr(batches, "BLOCK", 2)
    texts = [f"{i:03}" for i in range(9)]
    calm, stream, other = stream_of(texts), stream_of(texts), stream_of([*texts[:7], "x", "y"])
    want = [next(calm)[0].tolist() for _ in range(8)]
    got = [next(stream)[0].tolist()]
    for _ in range(3):
        next(other)
    refuses(ValueError, "other documents than", stream.load_state_dict, other.state_dict())
    assert got + [next(stream)[0].tolist() for _ in range(7)] == want


def test_a_state_of_another_kind_of_source_is_refused_and_changes_nothing(source):
    calm, stream = (Stream(source(), Bytes(), 2, 5) for _ in range(2))
    next(calm), next(stream)
    state = {**stream.state_dict(), "block_start": {"examples_iterable": {"file": 3}}}
    refuses(ValueError, "other documents than", stream.load_state_dict, state)
    assert drawn(stream, 20) == drawn(calm, 20)


@pytest.mark.parametrize("sizes", [(0, 4), (2, 0)])
def test_a_stream_refuses_sizes_below_one(source, sizes):
    refuses(ValueError, "must be 1 or more, got", Stream, source(), Bytes(), *sizes)


def test_too_few_documents_to_hold_some_out(shards):
    for held_out in (40, 41):
        words = f"no documents beyond the {held_out} to hold out, or none of those has a .text.: "
        refuses(ValueError, words, open_stream, shards / "jsonl", held_out=held_out)
    assert len(open_stream(shards / "jsonl", held_out=39).validation) == 39


@pytest.mark.parametrize("name", ["ndjson", "jsonlines", "JSONL"])
def test_lines_of_json_have_other_names_too(tmp_path, name):
    write_jsonl(tmp_path / f"a.{name}", ["one", "two", "three"])
    assert (
        load_corpus(tmp_path).train == load_corpus(tmp_path / f"a.{name}").train == ["one", "two"]
    )
    assert open_stream(tmp_path, held_out=1).validation == ["one"]


def test_a_table_among_texts_is_said_to_be_left_out(tmp_path, capsys):
    """A card in .md beside the data in .json is not trained on by itself in silence."""
    (tmp_path / "README.md").write_text("About these data, at some length.")
    (tmp_path / "train.json").write_text("[]")
    load_corpus(tmp_path)
    assert "train.json is left out: make it .jsonl" in capsys.readouterr().err


def test_a_table_is_no_list_of_texts():
    pandas = pytest.importorskip("pandas")
    for texts in ({"text": ["a b"]}, pandas.DataFrame({"text": ["a b"]}), None, 5):
        refuses(ValueError, "texts must be a list of texts", BPETokenizer.train, texts, 300)
        refuses(ValueError, "documents must be a list of texts", encode, texts, Bytes())


def test_a_small_corpus_by_name_is_not_streamed():
    refuses(
        ValueError, r"stories is small: load_corpus\('stories'\) reads it", open_stream, "stories"
    )


def test_a_folder_of_mixed_files_is_not_streamed(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    refuses(ValueError, "only .jsonl or only .parquet", open_stream, tmp_path)
    write_jsonl(tmp_path / "b.jsonl", ["a"])
    refuses(ValueError, "only .jsonl or only .parquet", open_stream, tmp_path)
    (tmp_path / "a.txt").rename(tmp_path / "c.parquet")  # both of them could be, but not at once
    refuses(ValueError, "only .jsonl or only .parquet", open_stream, tmp_path)


def test_a_folder_with_brackets_in_its_name_is_streamed(tmp_path):
    (tmp_path / "a[1]").mkdir()
    write_jsonl(tmp_path / "a[1]" / "b.jsonl", ["one", "two"])
    assert open_stream(tmp_path / "a[1]", held_out=1).validation == ["one"]


def test_offline_cosmopedia_is_one_sentence(monkeypatch):
    monkeypatch.setenv("SMOL_OFFLINE", "1")
    refuses(FileNotFoundError, "SMOL_OFFLINE=1 is set: unset it", open_stream, "cosmopedia")


def test_a_cache_of_the_library_that_cannot_be_written_has_a_remedy(tmp_path, monkeypatch):
    from datasets import IterableDataset

    def unwritable(*args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", "/home/somebody/.cache")

    monkeypatch.setattr(IterableDataset, "from_generator", unwritable)
    words = r"datasets cannot write its cache \(Permission denied\): set HF_HOME to a folder"
    refuses(OSError, words, open_stream, write_jsonl(tmp_path / "a.jsonl", ["a", "b"]))


def test_cosmopedia_without_a_network_fails_in_seconds():
    """In a process of its own, since the hub's client reads its environment once."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "SMOL_"))}
    hub = {"HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", "from smol.data import open_stream; open_stream('cosmopedia')"],
        env={**environment, **hub, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert time.monotonic() - start < 15  # importing torch included
    error = run.stderr.strip().splitlines()[-1]
    assert (
        error.startswith("FileNotFoundError: cosmopedia cannot be streamed (") and "refu" in error
    )
    assert "go online" in error


# -- padding ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documents() -> list[list[int]]:
    """Of 2 to 9 tokens, each with the end of text (96) at its end and one with it inside."""
    g = torch.Generator().manual_seed(0)
    lengths = (5, 2, 9, 3)
    rows = [[*torch.randint(96, (n - 1,), generator=g).tolist(), 96] for n in lengths]
    rows[2][4] = 96
    return rows


def test_padding_is_on_the_right_and_no_target(documents):
    inputs, labels = padded(documents, pad_id=96)
    assert inputs.shape == labels.shape == (4, 8)
    assert inputs.dtype == labels.dtype == torch.int64
    for row, ids in enumerate(documents):
        n = len(ids) - 1
        assert inputs[row].tolist() == ids[:-1] + [96] * (8 - n)
        assert labels[row].tolist() == ids[1:] + [-100] * (8 - n)  # its end of text stays


@pytest.mark.parametrize("pad_id", [96, 0, 13])
def test_the_loss_is_that_of_the_documents_by_themselves(documents, pad_id):
    torch.manual_seed(0)
    model = SmolLM2(tiny_config())
    inputs, labels = padded(documents, pad_id)
    with torch.no_grad():
        got = F.cross_entropy(model(inputs).flatten(0, 1), labels.flatten())
        each = [
            F.cross_entropy(model(torch.tensor([d[:-1]]))[0], torch.tensor(d[1:]), reduction="sum")
            for d in documents
        ]
    torch.testing.assert_close(got, sum(each) / sum(len(d) - 1 for d in documents))


def test_a_longest_row_can_be_set(documents):
    inputs, labels = padded(documents, 0, max_length=4)
    assert inputs.shape == (4, 4)
    assert inputs[2].tolist() == documents[2][:4] and labels[2].tolist() == documents[2][1:5]
    assert padded(documents, 0, max_length=100)[0].shape == (4, 8)


def test_a_document_of_one_token_has_no_target():
    inputs, labels = padded([[1], [2, 3], []], 0)
    assert inputs.tolist() == [[0], [2], [0]] and labels.tolist() == [[-100], [3], [-100]]


def test_tensors_and_arrays_can_be_padded():
    inputs, labels = padded([torch.tensor([1, 2, 3]), np.array([4, 5], dtype=np.uint16)], 0)
    assert inputs.tolist() == [[1, 2], [4, 0]] and labels.tolist() == [[2, 3], [5, -100]]


@pytest.mark.parametrize("sequences", [[], [[]], [[1], [2]]])
def test_no_target_at_all_is_refused(sequences):
    refuses(ValueError, "no sequence of two tokens or more", padded, sequences, 0)


@pytest.mark.parametrize(
    "wrong",
    [[[1.5, 2]], [["a", "b"]], [[[1, 2]]], [[True, False]], [3, 4], ["ab"], [None], [[2**70, 1]]],
)
def test_what_are_no_rows_of_ids_is_refused(wrong):
    refuses(ValueError, "a sequence must be a list of (ids|whole numbers), got", padded, wrong, 0)


def test_one_thing_is_no_list_of_rows():
    for wrong in ("ab", 3, None, {1: 2}):
        refuses(ValueError, "sequences must be a list of lists of ids", padded, wrong, 0)


def test_a_length_below_one_is_refused():
    refuses(ValueError, "max_length must be 1 or more, got 0", padded, [[1, 2]], 0, max_length=0)


# -- fresh stories --------------------------------------------------------------------------------


def test_fresh_stories_are_whole_new_and_of_the_grammar():
    batches = FreshStories(Bytes(), 3, 4000, seed=5)
    seen = []
    for inputs, labels in (next(batches), next(batches)):
        assert inputs.shape == labels.shape and len(inputs) == 3
        for row, targets in zip(inputs, labels, strict=True):
            ids = targets[targets != -100]
            assert row[0] == ids[-1] == EOS
            assert torch.equal(row[1 : len(ids)], ids[:-1])
            seen.append(bytes(ids[:-1].tolist()).decode())
            stories.read(seen[-1])  # raises for what the grammar cannot have written
    assert len(set(seen)) == 6
    assert batches.tokens_seen == batches.unique_tokens == sum(len(s.encode()) + 1 for s in seen)


def test_fresh_stories_resume_and_are_cut():
    batches = FreshStories(Bytes(), 2, 100, seed=5)
    next(batches)
    state = batches.state_dict()
    want = next(batches)
    again = FreshStories(Bytes(), 2, 100, seed=5)
    again.load_state_dict(state)
    assert all(map(torch.equal, next(again), want))
    assert want[0].shape == (2, 100) and again.tokens_seen == batches.tokens_seen == 400
    assert not torch.equal(next(FreshStories(Bytes(), 2, 100, seed=6))[0], want[0])
    with pytest.raises(ValueError, match="the state is from seed 5, this one from seed 6"):
        FreshStories(Bytes(), 2, 100, seed=6).load_state_dict(state)


def test_fresh_stories_of_other_sentences_are_not_gone_on_with(tmp_path, monkeypatch):
    batches = FreshStories(Bytes(), 2, 100)
    next(batches)
    state = saved_and_loaded(batches.state_dict())
    old = {key: value for key, value in state.items() if key != "grammar"}
    copies = [tmp_path / file.name for file in stories.FILES]
    for file, copy in zip(stories.FILES, copies, strict=True):
        copy.write_text(file.read_text(encoding="utf-8"), encoding="utf-8", newline="\r\n")

    def resumed(state) -> FreshStories:
        data_batches._grammar_hash.cache_clear()
        again = FreshStories(Bytes(), 2, 100)
        again.load_state_dict(state)
        return again

    try:
        monkeypatch.setattr(stories, "FILES", copies)
        assert torch.equal(next(resumed(state))[0], next(batches)[0])  # the same, with other ends
        copies[1].write_text(
            copies[1].read_text(encoding="utf-8") + "\n# more\n", encoding="utf-8"
        )
        words = r"the state is from grammar \w{64}, this one from grammar \w{64}: resume with the"
        refuses(ValueError, words, resumed, state)
        resumed(old)  # from before there was such a note
    finally:
        data_batches._grammar_hash.cache_clear()


# -- how much was seen ----------------------------------------------------------------------------


def test_windows_count_each_token_once():
    windows = Windows(np.arange(50, dtype=np.uint16), batch_size=2, seq_len=7, seed=0)
    labels = set()
    for step in range(1, 30):
        labels |= set(next(windows)[1].flatten().tolist())
        assert windows.unique_tokens == len(labels)
        assert windows.tokens_seen == 14 * step
        if step == 3:
            again = Windows(np.arange(50, dtype=np.uint16), batch_size=2, seq_len=7, seed=0)
            again.load_state_dict(windows.state_dict())
            assert again.unique_tokens == len(labels)
    assert windows.unique_tokens == 49  # the first is never a label
    assert windows.corpus_tokens == 50


def test_a_stream_knows_its_size_once_it_is_over(tmp_path):
    file = tmp_path / "some.jsonl"
    texts = [f"text {i}" for i in range(12)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    corpus = open_stream(file, held_out=2)
    size = sum(len(text) + 1 for text in texts[2:])  # each with its end
    stream = Stream(corpus.train, Bytes(), 2, 5)
    sizes = []
    for _ in range(3 * size // 10):
        next(stream)
        sizes.append(stream.corpus_tokens)
        assert stream.unique_tokens == min(stream.tokens_seen, stream.corpus_tokens or 10**9)
    assert sizes[0] is None and sizes[-1] == size
    again = Stream(corpus.train, Bytes(), 2, 5)
    again.load_state_dict(stream.state_dict())
    assert again.corpus_tokens == size
