"""llama.cpp's quantizer as a reference: the prebuilt library of an npm package, called through ctypes.

    python llama_cpp_quantize.py IN.gguf OUT.gguf FTYPE_NUMBER [IMATRIX.gguf|-] [OPTIONS]

does what llama-quantize does, with one thread. OPTIONS are the keys of `Options` below, as JSON. With `keep_split`,
OUT.gguf is a prefix, to which the library adds the shard numbers and `.gguf`. Other scripts import `fetch`, `run` and
`quantize`. The structs are those of llama.cpp `include/llama.h`, October 2026.
"""

import ctypes
import json
import os
import resource
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TypedDict

import bootstrap

PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"
PLACE = bootstrap.CACHE / "llama-cpp"
LIBRARIES = PLACE / "package/bins/linux-x64"


def fetch() -> None:
    """Downloads the package from the npm registry; only its library is used."""
    if (LIBRARIES / "libllama.v0.5.0.so").exists():
        return
    PLACE.mkdir(parents=True, exist_ok=True)
    print(f"fetching {PACKAGE} from npm", file=sys.stderr, flush=True)
    packed = subprocess.run(["npm", "pack", "--silent", "--pack-destination", PLACE, PACKAGE],
                            check=True, capture_output=True, text=True)
    archive = PLACE / packed.stdout.strip().splitlines()[-1]
    with tarfile.open(archive) as tar:
        tar.extractall(PLACE, filter="data")
    archive.unlink()


class Imatrix(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("data", ctypes.POINTER(ctypes.c_float)), ("size", ctypes.c_size_t)]


class TensorType(ctypes.Structure):
    _fields_ = [("pattern", ctypes.c_char_p), ("type", ctypes.c_int)]


class Value(ctypes.Union):
    _fields_ = [("i64", ctypes.c_int64), ("f64", ctypes.c_double), ("text", ctypes.c_char * 128)]


class Override(ctypes.Structure):
    _fields_ = [("tag", ctypes.c_int), ("key", ctypes.c_char * 128), ("value", Value)]


class Params(ctypes.Structure):
    _fields_ = [
        ("nthread", ctypes.c_int32), ("ftype", ctypes.c_int), ("output_tensor_type", ctypes.c_int),
        ("token_embedding_type", ctypes.c_int), ("allow_requantize", ctypes.c_bool),
        ("quantize_output_tensor", ctypes.c_bool), ("only_copy", ctypes.c_bool), ("pure", ctypes.c_bool),
        ("keep_split", ctypes.c_bool), ("dry_run", ctypes.c_bool), ("imatrix", ctypes.POINTER(Imatrix)),
        ("kv_overrides", ctypes.POINTER(Override)), ("tt_overrides", ctypes.POINTER(TensorType)),
        ("prune_layers", ctypes.POINTER(ctypes.c_int32)), ("rest", ctypes.c_ubyte * 128),
    ]


class Options(TypedDict, total=False):
    """llama-quantize's options; types are numbers of ggml."""

    pure: bool
    leave_output_tensor: bool
    output_tensor_type: int
    token_embedding_type: int
    tensor_types: list[tuple[str, int]]
    override_kv: list[tuple[str, str | int | float | bool]]
    prune_layers: list[int]
    keep_split: bool


def load():
    for name in ("libggml-base.so", "libggml.v0.5.0.so"):
        ggml = ctypes.CDLL(str(LIBRARIES / name), mode=ctypes.RTLD_GLOBAL)
    ggml.ggml_backend_load_all_from_path.argtypes = [ctypes.c_char_p]
    ggml.ggml_backend_load_all_from_path(str(LIBRARIES).encode())
    llama = ctypes.CDLL(str(LIBRARIES / "libllama.v0.5.0.so"))
    llama.llama_model_quantize_default_params.restype = Params
    llama.llama_model_quantize.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(Params)]
    llama.llama_model_quantize.restype = ctypes.c_uint32
    llama.llama_backend_init()
    return llama


def read_imatrix(path: str):
    """Importance by tensor name, and the metadata that llama-quantize records about it."""
    import numpy as np
    from gguf import GGUFReader

    reader = GGUFReader(path)
    tensors = {t.name: t for t in reader.tensors}
    entries = {}
    for name, tensor in tensors.items():
        if not name.endswith(".in_sum2"):
            continue
        stem = name.removesuffix(".in_sum2")
        counts = np.asarray(tensors[stem + ".counts"].data, np.float32).reshape(-1, 1)
        sums = np.asarray(tensor.data, np.float32).reshape(len(counts), -1)
        with np.errstate(divide="ignore", invalid="ignore"):
            entries[stem] = np.where(counts > 0, sums / counts, np.float32(1)).astype(np.float32).ravel()
    datasets = reader.fields["imatrix.datasets"].contents()
    chunks = int(reader.fields["imatrix.chunk_count"].contents())
    notes = [("file", path), ("dataset", datasets[0]), ("entries_count", len(entries)), ("chunks_count", chunks)]
    return entries, notes


def override(row: Override, key: str, value: str | int | float | bool) -> None:
    """Fills `row`. The tags are those of `enum llama_model_kv_override_type`."""
    row.key = key.encode()
    if isinstance(value, bool):
        # The union's first byte.
        row.tag, row.value.i64 = 2, value
    elif isinstance(value, int):
        row.tag, row.value.i64 = 0, value
    elif isinstance(value, float):
        row.tag, row.value.f64 = 1, value
    else:
        row.tag, row.value.text = 3, value.encode()[:127]


def apply(params: Params, options: Options) -> None:
    """Sets `params` from `options`, except for override_kv. The arrays live as long as `params`."""
    params.pure = options.get("pure", False)
    params.keep_split = options.get("keep_split", False)
    params.quantize_output_tensor = not options.get("leave_output_tensor", False)
    params.output_tensor_type = options.get("output_tensor_type", params.output_tensor_type)
    params.token_embedding_type = options.get("token_embedding_type", params.token_embedding_type)
    if types := options.get("tensor_types"):
        # llama-quantize converts patterns to lower case.
        rows = [TensorType(pattern.lower().encode(), number) for pattern, number in types]
        params.tt_overrides = (TensorType * (len(rows) + 1))(*rows)
    if layers := options.get("prune_layers"):
        layers = sorted(set(layers))
        params.prune_layers = (ctypes.c_int32 * (len(layers) + 1))(*layers, -1)


def quantize_here(source: str, target: str, ftype: int, imatrix: str | None, options: Options) -> int:
    """Quantizes in this process; llama.cpp's error code."""
    llama = load()
    params = llama.llama_model_quantize_default_params()
    assert (params.quantize_output_tensor, params.pure) == (True, False), "the library has another llama.h than this script"
    params.nthread, params.ftype = 1, ftype
    apply(params, options)
    keep = []
    notes = list(options.get("override_kv", []))
    if imatrix:
        entries, recorded = read_imatrix(imatrix)
        notes += [(f"quantize.imatrix.{key}", value) for key, value in recorded]
        table = (Imatrix * (len(entries) + 1))()
        for row, (name, values) in zip(table, entries.items()):
            pointer = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            row.name, row.data, row.size = name.encode(), pointer, values.size
        params.imatrix = table
        keep = [entries, table]
    if notes:
        overrides = (Override * (len(notes) + 1))()
        for row, (key, value) in zip(overrides, notes):
            override(row, key, value)
        params.kv_overrides = overrides
    before = cpu_seconds(resource.RUSAGE_SELF)
    result = llama.llama_model_quantize(source.encode(), target.encode(), ctypes.byref(params))
    # The start of the interpreter is not counted.
    print(f"\n{cpu_seconds(resource.RUSAGE_SELF) - before}", flush=True)
    del keep
    return result


def cpu_seconds(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def run(command: list, may_fail=False) -> tuple[float, str] | None:
    """Runs a command and returns its CPU seconds and its output. If it fails, prints its errors and ends the
    script, or with `may_fail` returns None."""
    before = cpu_seconds(resource.RUSAGE_CHILDREN)
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, errors="replace")
    if done.returncode != 0 and may_fail:
        return None
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\nfailed: {done.stderr[-2000:]}")
    return cpu_seconds(resource.RUSAGE_CHILDREN) - before, done.stdout


def quantize(source: Path, target: Path, ftype: int, imatrix: Path | None, **options) -> float | None:
    """Quantizes in a separate process; returns the CPU seconds of the quantizing alone, or None if llama.cpp cannot
    make that type of that model. `options` are the keys of `Options`."""
    command = [sys.executable, __file__, source, target, ftype, imatrix or "-", json.dumps(options)]
    done = run(command, may_fail=True)
    return float(done[1].splitlines()[-1]) if done else None


if __name__ == "__main__":
    fetch()
    arguments = sys.argv[1:] + ["-", "{}"][max(0, len(sys.argv) - 4):]
    imatrix = None if arguments[3] == "-" else arguments[3]
    code = quantize_here(arguments[0], arguments[1], int(arguments[2]), imatrix, json.loads(arguments[4]))
    # Skip the destructors of the library.
    os._exit(code)
