"""GGUF files that llama.cpp's converter writes, and their differences from Aqueduct's.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import llama_cpp_sources

# The converter recognizes a tokenizer by a hash of its output. Tiny tokenizers have no known hash: skip the check.
CONVERTER = """
import runpy, sys
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
sys.argv[0] = "convert_hf_to_gguf.py"
runpy.run_path("convert_hf_to_gguf.py", run_name="__main__")
"""


def convert_by_llama_cpp(folder: Path, file: Path, kind: str, *options: str) -> None:
    """Converts `folder` to the file type `kind`; a failure ends the script."""
    if error := llama_cpp_refuses(folder, file, kind, *options):
        sys.exit(f"llama.cpp's converter failed:\n{error}")


def llama_cpp_refuses(folder: Path, file: Path, kind: str, *options: str) -> str | None:
    """The end of the converter's error output if it cannot convert `folder`; `None` if it wrote `file`."""
    sources = llama_cpp_sources.folder()
    environment = dict(os.environ, PYTHONPATH=f"{sources}:{sources / 'gguf-py'}")
    run = subprocess.run([sys.executable, "-c", CONVERTER, folder, "--outfile", file, "--outtype", kind,
                          *options], cwd=sources, env=environment, capture_output=True, text=True)
    return run.stderr[-3000:] if run.returncode else None


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]


def described(file: Path) -> tuple[dict, list]:
    """Metadata in order, and every tensor's type, shape and hash; long arrays as their hash."""
    from gguf import GGUFReader, GGUFValueType

    reader = GGUFReader(file)
    keys = {}
    for field in reader.fields.values():
        if field.name.startswith("GGUF."):
            continue
        value, kind = field.contents(), field.types[0].name
        if kind == "ARRAY":
            kind += " " + field.types[-1].name
            as_text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
            if field.types[-1] == GGUFValueType.FLOAT32:
                as_text = np.array(value, "<f4").tobytes().hex()
            value = [len(value), digest(as_text.encode())]
        elif isinstance(value, str) and len(value) > 200:
            value = digest(value.encode())
        keys[field.name] = [kind, value]
    tensors = [[t.name, t.tensor_type.name, [int(n) for n in t.shape], digest(t.data.tobytes())]
               for t in reader.tensors]
    return keys, tensors


def differences(ours: tuple[dict, list], theirs: tuple[dict, list], more: list[str]) -> list[str]:
    """The differences, one line each. Keys and tensors whose names end with one of `more` may be missing in llama.cpp's file."""
    extra = lambda name: any(name.endswith(m) for m in more)
    keys = {k: v for k, v in ours[0].items() if k in theirs[0] or not extra(k)}
    tensors = [t for t in ours[1] if t in theirs[1] or not extra(t[0])]
    found = []
    if list(keys) != list(theirs[0]):
        found.append(f"keys: {list(keys)}\n    llama.cpp: {list(theirs[0])}")
    for key, value in theirs[0].items():
        if keys.get(key, value) != value:
            found.append(f"{key}: {keys[key]}, llama.cpp {value}")
    if [t[0] for t in tensors] != [t[0] for t in theirs[1]]:
        found.append(f"tensors: {[t[0] for t in tensors]}\n    llama.cpp: {[t[0] for t in theirs[1]]}")
    for mine, other in zip(tensors, theirs[1], strict=False):
        if mine != other:
            found.append(f"{mine}, llama.cpp {other}")
    return found
