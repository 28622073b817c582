"""Models for measurements, created on demand: a modified copy of a real model, and members with real shapes that take
little disk space.
"""

import json
import pickle
import random
import shutil
import struct
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path

# The shape of Mistral 7B, and of SOLAR 10.7B, which has more layers.
HIDDEN, FEED_FORWARD, HEADS, KV_HEADS, VOCABULARY = 4096, 14336, 32, 8, 32000

# Permutes the low seven bits of a byte, so that values do not change in one direction on average.
LOW_BITS = bytes(x & 0x80 | (x * 37 + 21) & 0x7F for x in range(256))


def perturbed_copy(model: Path, place: Path) -> None:
    """The F16 model with seven of each weight's ten fraction bits shuffled: up to 12 % each, 4 % on average.

    A second model of the same shape that still generates text, without training.
    """
    place.mkdir(parents=True, exist_ok=True)
    for path in model.iterdir():
        if path.suffix != ".safetensors":
            shutil.copy(path, place)
    data = bytearray((model / "model.safetensors").read_bytes())
    start = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:start])
    if any(entry["dtype"] != "F16" for name, entry in header.items() if name != "__metadata__"):
        sys.exit(f"{model}: not all of its tensors are F16")
    data[start::2] = data[start::2].translate(LOW_BITS)
    part = place / "model.safetensors.part"
    part.write_bytes(data)
    part.rename(place / "model.safetensors")


def layer_shapes() -> dict[str, tuple[int, ...]]:
    kv = HIDDEN // HEADS * KV_HEADS
    return {
        "input_layernorm": (HIDDEN,), "post_attention_layernorm": (HIDDEN,), "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (kv, HIDDEN), "self_attn.v_proj": (kv, HIDDEN), "self_attn.o_proj": (HIDDEN, HIDDEN),
        "mlp.gate_proj": (FEED_FORWARD, HIDDEN), "mlp.up_proj": (FEED_FORWARD, HIDDEN),
        "mlp.down_proj": (HIDDEN, FEED_FORWARD),
    }


def parameters(layers: int) -> int:
    """The configuration of a model with this many layers."""
    count = lambda shape: shape[0] * (shape[1] if len(shape) > 1 else 1)
    return layers * sum(map(count, layer_shapes().values())) + 2 * VOCABULARY * HIDDEN + HIDDEN


def byte_tokenizer() -> bytes:
    """A SentencePiece model whose tokens are the bytes of a text; the rest of the vocabulary is unused."""
    def field(number: int, kind: int, value: bytes) -> bytes:
        return bytes([number << 3 | kind]) + value
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3)] + [(f"<0x{byte:02X}>", 6) for byte in range(256)]
    pieces += [(f"<unused{index}>", 5) for index in range(VOCABULARY - len(pieces))]
    out = b""
    for text, kind in pieces:
        name = text.encode()
        piece = field(1, 2, bytes([len(name)]) + name) + field(2, 5, struct.pack("<f", 0)) + field(3, 0, bytes([kind]))
        out += field(1, 2, bytes([len(piece)]) + piece)
    return out


def write_config(place: Path, layers: int) -> None:
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "hidden_act": "silu",
        "intermediate_size": FEED_FORWARD, "num_hidden_layers": layers, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCABULARY, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": 2}))
    (place / "tokenizer.model").write_bytes(byte_tokenizer())
    (place / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False,
        "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}))


class Storage:
    """A PyTorch storage: BF16 values that tensors are views of."""

    def __init__(self, key: str, elements: int):
        self.key, self.elements = key, elements


class Tensor:
    """A contiguous view, which pickles as PyTorch's tensors do."""

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...]):
        self.storage, self.offset, self.shape = storage, offset, shape

    def __reduce__(self):
        strides = (self.shape[1], 1) if len(self.shape) > 1 else (1,)
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, (self.storage, self.offset, self.shape, strides, False, OrderedDict())


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        if isinstance(thing, Storage):
            return "storage", sys.modules["torch"].BFloat16Storage, thing.key, "cpu", thing.elements
        return None


def stand_in_for_torch() -> None:
    """Modules with the names that a weights file mentions."""
    def _rebuild_tensor_v2(*_):
        raise NotImplementedError
    class BFloat16Storage:
        pass
    for name, thing in (("torch", BFloat16Storage), ("torch._utils", _rebuild_tensor_v2)):
        thing.__module__, thing.__qualname__ = name, thing.__name__
        sys.modules[name] = types.ModuleType(name)
        setattr(sys.modules[name], thing.__name__, thing)


def pooled_member(place: Path, layers: int, seed: int, pool: int = 400_000_000) -> None:
    """A model of a 7B's layers in PyTorch's format, whose matrices are windows into one storage of `pool` values.

    Embedding and head do not overlap; the layers' matrices begin wherever the seed says, so no two are equal, and
    all are bell-shaped with a standard deviation of 0.02. Norms are ones. Takes 2 bytes of disk a value of the pool,
    whatever the number of layers.
    """
    import numpy as np

    stand_in_for_torch()
    write_config(place, layers)
    values, draw = Storage("0", pool), random.Random(seed)
    ones = Storage("1", HIDDEN)
    ends = VOCABULARY * HIDDEN
    tensors = OrderedDict({"model.embed_tokens.weight": Tensor(values, 0, (VOCABULARY, HIDDEN))})
    for index in range(layers):
        for name, shape in layer_shapes().items():
            matrix = len(shape) > 1
            offset = draw.randrange(0, pool - shape[0] * shape[1], 64) if matrix else 0
            tensors[f"model.layers.{index}.{name}.weight"] = Tensor(values if matrix else ones, offset, shape)
    tensors["model.norm.weight"] = Tensor(ones, 0, (HIDDEN,))
    tensors["lm_head.weight"] = Tensor(values, ends, (VOCABULARY, HIDDEN))
    part = place / "pytorch_model.bin.part"
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("model/data.pkl", "w") as file:
            Pickler(file, protocol=2).dump(tensors)
        archive.writestr("model/byteorder", "little")
        with archive.open("model/data/0", "w", force_zip64=True) as file:
            normal = np.random.default_rng(seed)
            for start in range(0, pool, 1 << 22):
                some = normal.standard_normal(min(1 << 22, pool - start), np.float32) * np.float32(0.02)
                file.write((some.view(np.uint32) >> 16).astype("<u2").tobytes())
        archive.writestr("model/data/1", struct.pack("<H", 0x3F80) * HIDDEN)
        archive.writestr("model/version", "3\n")
    part.rename(place / "pytorch_model.bin")
