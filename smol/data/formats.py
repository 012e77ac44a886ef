"""Files of text: which there are in a folder, and the documents of each, one after another."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from smol.checks import path, shown
from smol.terminal import say
from smol.tokenizer.pieces import check_text

if TYPE_CHECKING:
    from datasets import IterableDataset

JSON_LINES = (".jsonl", ".jsonlines", ".ndjson")
SUFFIXES = (*JSON_LINES, ".md", ".parquet", ".py", ".txt")  # what is read in a folder
PACKED = (".7z", ".bz2", ".gz", ".tar", ".tgz", ".xz", ".zip", ".zst")
TABLES = (".arrow", ".csv", ".feather", ".json", ".tsv", ".xlsx")
FORM = '{"text": "…"}'


def files_of(name: str | Path, known: tuple[str, ...] = ()) -> list[Path]:
    """A file, or the files of a folder in the order of their paths, those of folders and links in
    it as well; hidden ones not, and none of them twice.

    Raises FileNotFoundError for nothing, saying which names are `known`, and for a link that
    leads to nothing; ValueError for text that is packed, or in a table of another kind.
    """
    place = path("the corpus", name)
    if place.is_file():
        if place.suffix.lower() in PACKED:
            raise ValueError(f"{name} is packed: unpack it first")
        if place.suffix.lower() in TABLES:
            raise ValueError(f"{name} is no text yet: make it .jsonl, with {FORM} a line")
        return [place]
    if not place.is_dir():
        raise FileNotFoundError(
            f"{name} is no file or folder here nor one of {', '.join(known)}: check the name"
        )
    files: dict[str, Path] = {}
    tables = []
    for file in _walk(place):
        suffix = file.suffix.lower()
        if suffix in ("", *SUFFIXES) and file.is_symlink() and not file.exists():
            raise FileNotFoundError(
                f"{file} is a link to {os.readlink(file)}, which is not there: mend or remove it"
            )
        if suffix in PACKED and Path(file.stem).suffix.lower() in SUFFIXES:
            raise ValueError(f"{file} is packed: unpack it first, or take it out of the folder")
        if suffix in SUFFIXES and file.is_file():
            files.setdefault(os.path.realpath(file), file)
        tables += [file.name] if suffix in TABLES else []
    if not files:
        raise FileNotFoundError(
            f"{name} holds no file that ends in {', '.join(SUFFIXES)}: name a folder that does"
        )
    if tables:
        few = ", ".join(tables[:3]) + ", …" * (len(tables) > 3)
        say(f"{name}: {few} is left out: make it .jsonl, with {FORM} a line, if it holds texts")
    return list(files.values())


def _walk(folder: Path) -> list[Path]:
    """What is below it and not hidden. Each folder is gone through once, so that a link to one
    that it lies in has an end. OSError for a folder that cannot be read."""

    def stop(error: OSError):
        raise error

    found, seen = [], set()
    for at, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        real = os.path.realpath(at)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(at, name) for name in names if not name.startswith(".")]
    return sorted(found)


def documents_of(file: Path) -> Iterator[str | None]:
    """The documents of a file as they are read: None for a "text" that is null.

    Raises ValueError, naming the file and what there is to name in it, for what is no text.
    """
    if file.suffix.lower() in JSON_LINES:
        return _jsonl(file)
    return _parquet(file) if file.suffix.lower() == ".parquet" else _whole(file)


def stream_of(files: list[Path]) -> "IterableDataset":
    """The documents of the files as a streamed dataset with a column "text", which can go on
    where it was: at a file and a number of documents of it."""
    from datasets import IterableDataset

    paths = [str(file) for file in files]
    try:
        return IterableDataset.from_generator(_rows, gen_kwargs={"files": paths})
    except OSError as error:  # it makes sure of a folder of its own, if only to leave it empty
        why = error.strerror or error
        raise OSError(
            f"datasets cannot write its cache ({why}): set HF_HOME to a folder that can be written"
        ) from error


def _rows(files: list[str]) -> Iterator[dict[str, str | None]]:
    for file in files:
        for text in documents_of(Path(file)):
            yield {"text": text}


def read_text(file: Path) -> str:
    """As it stands in the file (text mode would change its line ends), less a byte-order mark."""
    content = file.read_bytes()
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 at byte {error.start}: convert it first") from error


def _whole(file: Path) -> Iterator[str]:
    text = read_text(file)
    if (at := text.find("\0")) >= 0:
        raise ValueError(f"{file} holds a NUL at character {at}: it is no text, name some")
    yield text


def json_lines(file: Path, form: str) -> Iterator[tuple[int, object]]:
    """Each line that is not blank: its number and its value.

    ValueError, naming file and line, for what is not UTF-8, and for what is no JSON: it was to be
    `form`.
    """
    with file.open("rb") as lines:  # a line ends at \n only, and not at a U+2028 within a string
        for number, line in enumerate(lines, 1):
            try:
                line = line.decode("utf-8").removeprefix("\ufeff" if number == 1 else "")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file}, line {number}, is not UTF-8 at byte {error.start}: convert it first"
                ) from error
            if line.strip():
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ValueError(_no(form, file, number)) from error
                yield number, value


def _no(form: str, file: Path, number: int) -> str:
    return f"{file}, line {number} is no {form}: mend or drop it"


def _jsonl(file: Path) -> Iterator[str | None]:
    for number, row in json_lines(file, FORM):
        try:
            text = row["text"]
            if text is not None:
                check_text(text)  # half of a surrogate pair is no text
        except (ValueError, TypeError, LookupError) as error:
            raise ValueError(_no(FORM, file, number)) from error
        yield text


def _parquet(file: Path) -> Iterator[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with file.open("rb") as content:
        try:
            with pq.ParquetFile(content) as table:
                columns = {field.name: field.type for field in table.schema_arrow}
                if not _of_strings(columns.get("text")):
                    only = shown(", ".join(f"{name} ({kind})" for name, kind in columns.items()))
                    raise ValueError(
                        f'{file} has no column "text" of strings, only {only}: add it'
                    )
                for batch in table.iter_batches(columns=["text"], batch_size=1000):
                    yield from batch.column(0).to_pylist()
        except UnicodeDecodeError as error:
            raise ValueError(f'{file} holds a "text" that is not UTF-8: mend it') from error
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{file} is not a whole parquet file: fetch it again") from error


def _of_strings(kind) -> bool:
    """Whether it is a type of strings: pandas' categories are, and a column of nulls may be."""
    import pyarrow as pa

    if kind is None:
        return False
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )
