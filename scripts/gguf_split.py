"""Splits a GGUF file into shards in any order, to test programs that read shards.

llama.cpp's gguf-split fills shards in the file's order, with ascending layers; other programs may use another order.
The keys are those of llama.cpp `tools/gguf-split`."""

import struct
from pathlib import Path

from gguf import GGUFReader

ALIGNMENT = 32
# Header of the file: magic, version, number of tensors, number of keys.
START = 4 + 4 + 8 + 8


def shard(stem: Path, no: int, count: int) -> Path:
    """The path of shard `no`, counted from 0, of the model `stem`."""
    return stem.with_name(f"{stem.name}-{no + 1:05}-of-{count:05}.gguf")


def shards(stem: Path) -> list[Path]:
    """All existing shards of the model `stem`."""
    return sorted(stem.parent.glob(stem.name + "-0*-of-0*.gguf"))


def backwards(source: Path, stem: Path, sizes: list[int]) -> Path:
    """Writes shards with `sizes` tensors each, sorted by name in reverse order; returns the first."""
    reader = GGUFReader(source)
    tensors = sorted(reader.tensors, key=lambda tensor: tensor.name.encode(), reverse=True)
    assert sum(sizes) == len(tensors), f"{len(tensors)} tensors"
    with open(source, "rb") as file:
        file.seek(START)
        metadata = file.read(int(reader.tensors[0].field.offset) - START)
    n_keys = int(reader.fields["GGUF.kv_count"].contents())
    for no, size in enumerate(sizes):
        group, tensors = tensors[:size], tensors[size:]
        own = (metadata, n_keys) if no == 0 else (b"", 0)
        write(shard(stem, no, len(sizes)), *own, no, len(sizes), len(reader.tensors), group)
    return shard(stem, 0, len(sizes))


def write(path: Path, metadata: bytes, n_keys: int, no: int, count: int, total: int, tensors: list) -> None:
    text = lambda text: struct.pack("<Q", len(text)) + text.encode()
    # The types of a u16 and an i32.
    keys = text("split.no") + struct.pack("<IH", 2, no) + text("split.count") + struct.pack("<IH", 2, count)
    keys += text("split.tensors.count") + struct.pack("<Ii", 5, total)
    infos, data = b"", b""
    for tensor in tensors:
        shape = [int(n) for n in tensor.shape]
        infos += text(tensor.name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, tensor.tensor_type, len(data))
        data += padded(tensor.data.tobytes())
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), n_keys + 3)
    path.write_bytes(padded(start + metadata + keys + infos) + data)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)
