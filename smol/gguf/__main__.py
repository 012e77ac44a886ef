"""`python -m smol.gguf WHERE FILE.gguf`: a model as a file for llama.cpp and Ollama."""

import argparse
import os
import sys

from smol.checks import path
from smol.files import writable, written_beside
from smol.gguf.ollama import modelfile
from smol.gguf.write import KINDS, write_gguf
from smol.pretrained import load_pretrained
from smol.terminal import command
from smol.tokenizer import BPETokenizer


@command("smol.gguf")
def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m smol.gguf", description="a model as a file for llama.cpp and Ollama"
    )
    parser.add_argument("where", help="a folder, a hub repository, a .gguf file")
    parser.add_argument("file", help="the .gguf to be written")
    parser.add_argument(
        "--kind", choices=KINDS, default="q8_0", help="what its matrices are kept in (q8_0)"
    )
    parser.add_argument(
        "--modelfile", metavar="FILE", help="write Ollama's Modelfile for it here, too"
    )
    args = parser.parse_args()
    file = path("the .gguf", args.file)
    if file.suffix != ".gguf":
        raise ValueError(f"{file} must end in .gguf: programs know it by that")
    made = path("--modelfile", args.modelfile) if args.modelfile else None
    for place in [file, made] if made else [file]:
        writable(place.parent)
    tokenizer, model = BPETokenizer.load(args.where), load_pretrained(args.where)
    text = modelfile(tokenizer, model.config, os.path.relpath(file, made.parent)) if made else ""
    write_gguf(model, tokenizer, file, args.kind)
    print(f"{file}: {file.stat().st_size:,} bytes, {args.kind}")
    if made:
        with written_beside(made.parent, made.name) as (part,):
            part.write_text(text, encoding="utf-8")
        print(f"{made}: now `ollama create {file.stem} -f {made.name}` in {made.parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
