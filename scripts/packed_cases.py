"""The cases of check-packed-sources: weights derived from their names, packed and dequantized by other programs."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

import quantized_references as references
from converted import convert_by_llama_cpp, described, differences
from tiny_models import llama, weights

NAME = "model.layers.0.mlp.up_proj"
# Rows and columns of most cases: several groups in each direction, not square, not powers of two.
ROWS, COLUMNS = 32, 64


def matrix(name: str, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    return torch.from_numpy(weights(name, (rows, columns), {"model_type": "llama"}).copy()) * 0.2


def groups(columns: int, size: int) -> torch.Tensor:
    return torch.arange(columns, dtype=torch.int32) // (columns if size < 0 else size)


def grid(weight: torch.Tensor, g_idx: torch.Tensor, bits: int, sym: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales and zero points of each row's groups, as GPTQ's quantizer chooses them without a search."""
    scales, zeros, top = [], [], 2**bits - 1
    for group in range(int(g_idx.max()) + 1):
        part = weight[:, g_idx == group]
        low, high = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
        if sym:
            scale = 2 * torch.maximum(-low, high) / top
            zero = torch.full_like(scale, (top + 1) / 2)
        else:
            scale = (high - low) / top
            zero = torch.round(-low / scale).clamp(1, top)
        scales.append(scale)
        zeros.append(zero)
    return torch.stack(scales, 1), torch.stack(zeros, 1)


def gptq_parts(weight: torch.Tensor, bits: int, size: int, sym: bool, act_order: bool, dtype, v2: bool) -> dict:
    """The tensors that AutoGPTQ packs. Its zero points are stored minus one, those of gptq_v2 unchanged."""
    rows, columns = weight.shape
    g_idx = groups(columns, size)
    if act_order:
        g_idx = g_idx[torch.tensor([(i * 37 + 11) % columns for i in range(columns)])]
    scales, zeros = grid(weight, g_idx, bits, sym)
    linear = torch.nn.Linear(columns, rows, bias=False)
    linear.weight.data = weight.to(dtype)
    layer = references.autogptq().QuantLinear(bits, columns if size < 0 else size, columns, rows, bias=False, weight_dtype=dtype)
    layer.pack(linear, scales.to(dtype), zeros.clone(), g_idx)
    parts = {key: getattr(layer, key).clone().contiguous() for key in ("qweight", "qzeros", "scales", "g_idx")}
    if v2:
        parts["qzeros"] = references.gptqmodel()._shift_gptq_qzeros(parts["qzeros"], bits, delta=1)
    return parts


def gptq_values(parts: dict, bits: int, v2: bool) -> torch.Tensor:
    """GPTQModel's dequantizer (`convert_gptq_file`), which computes in F32."""
    code = references.gptqmodel()
    qzeros = parts["qzeros"] if v2 else code._correct_gptq_v1_qzeros(parts["qzeros"], bits)
    zeros, g_idx = code.unpack_cols(qzeros, bits).float(), parts["g_idx"].long()
    values = (code.unpack_rows(parts["qweight"], bits).float() - zeros[g_idx]) * parts["scales"].float()[g_idx]
    return values.t().contiguous()


def gptq(bits: int, size: int, sym: bool = True, act_order: bool = False, dtype=torch.float16, v2: bool = False,
         keep_g_idx: bool = True, **config):
    def make() -> tuple[dict, dict, dict]:
        parts = gptq_parts(matrix(NAME), bits, size, sym, act_order, dtype, v2)
        values = gptq_values(parts, bits, v2)
        if not keep_g_idx:
            parts.pop("g_idx")
        settings = {"quant_method": "gptq", "bits": bits, "group_size": size, "sym": sym, "desc_act": act_order,
                    "checkpoint_format": "gptq_v2" if v2 else "gptq", **config}
        return settings, {f"{NAME}.{key}": value for key, value in parts.items()}, {f"{NAME}.weight": values}
    return make


def awq(size: int, gemv: bool = False, **config):
    def make() -> tuple[dict, dict, dict]:
        weight = matrix(NAME)
        rows, columns = weight.shape
        group = columns if size < 0 else size
        scales, zeros = grid(weight, groups(columns, size), 4, False)
        scales = scales.half()
        codes = torch.round(weight / scales.float().repeat_interleave(group, 1) + zeros.repeat_interleave(group, 1))
        codes = codes.clamp(0, 15).to(torch.int32)
        if gemv:
            # AutoAWQ's layout for GEMV: in order, along the inputs, groups padded to whole words.
            width = -(-scales.shape[1] // 8) * 8 * (4 if size == 32 else 1)
            padded = torch.zeros(rows, width, dtype=torch.int32)
            padded[:, : zeros.shape[1]] = zeros.to(torch.int32)
            wide = torch.zeros(rows, width, dtype=torch.float16)
            wide[:, : scales.shape[1]] = scales
            parts = {"qweight": in_order(codes), "qzeros": in_order(padded), "scales": wide}
            values = (codes - zeros.to(torch.int32).repeat_interleave(group, 1)) * scales.repeat_interleave(group, 1)
        else:
            parts = {"qweight": interleaved(codes.t()), "qzeros": interleaved(zeros.to(torch.int32).t()),
                     "scales": scales.t().contiguous()}
            code = references.autoawq()
            values = code.dequantize_gemm(parts["qweight"], parts["qzeros"], parts["scales"], 4, group).t().contiguous()
        settings = {"quant_method": "awq", "bits": 4, "group_size": size, "zero_point": True,
                    "version": "gemv" if gemv else "gemm", **config}
        return settings, {f"{NAME}.{key}": value for key, value in parts.items()}, {f"{NAME}.weight": values}
    return make


def words(nibbles: torch.Tensor) -> torch.Tensor:
    """Packs eight numbers of the last dimension into a word, the first in the lowest bits."""
    shifted = nibbles.long() << (4 * torch.arange(8))
    return (shifted.sum(-1)).to(torch.int64).bitwise_and(0xFFFFFFFF).numpy().astype(np.uint32)


def interleaved(codes: torch.Tensor) -> torch.Tensor:
    """Packs like AutoAWQ's WQLinear_GEMM."""
    order = references.autoawq().AWQ_ORDER
    packed = words(codes.reshape(codes.shape[0], -1, 8)[:, :, order])
    return torch.from_numpy(packed.view(np.int32).copy())


def in_order(codes: torch.Tensor) -> torch.Tensor:
    packed = words(codes.reshape(codes.shape[0], -1, 8))
    return torch.from_numpy(packed.view(np.int32).copy())


def bnb4(kind: str, nested: bool, dtype, blocksize: int = 64, columns: int = COLUMNS, storage=torch.uint8):
    def make() -> tuple[dict, dict, dict]:
        from bitsandbytes import functional

        weight = matrix(NAME, columns=columns).to(dtype)
        packed, state = functional.quantize_4bit(weight, blocksize=blocksize, compress_statistics=nested, quant_type=kind,
                                                 quant_storage=storage)
        parts = {f"{NAME}.weight": packed}
        parts |= {f"{NAME}.weight.{key}": value for key, value in state.as_dict(packed=True).items()}
        values = bnb4_values(packed, state, kind, dtype)
        # The library's CPU code assumes that no block crosses the end of a row.
        assert columns % blocksize or torch.equal(values, functional.dequantize_4bit(packed, state))
        settings = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": kind,
                    "bnb_4bit_use_double_quant": nested}
        return settings, parts, {f"{NAME}.weight": values}
    return make


def bnb4_values(packed: torch.Tensor, state, kind: str, dtype) -> torch.Tensor:
    """bitsandbytes' code in plain torch, which gives the results of its CUDA code."""
    from bitsandbytes import functional
    from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

    absmax = state.absmax
    if state.nested:
        absmax = functional.dequantize_blockwise(state.absmax, state.state2) + state.offset
    code, packed = functional.get_4bit_type(kind, device="cpu"), packed.view(torch.uint8).reshape(-1)
    return _dequantize_4bit_compute(packed, absmax, code, state.blocksize, tuple(state.shape), dtype)


def bnb8() -> tuple[dict, dict, dict]:
    from bitsandbytes import functional

    packed, scb, _ = functional.int8_vectorwise_quant(matrix(NAME).half())
    parts = {f"{NAME}.weight": packed, f"{NAME}.SCB": scb, f"{NAME}.weight_format": torch.tensor(0, dtype=torch.uint8)}
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    return settings, parts, {f"{NAME}.weight": functional.int8_vectorwise_dequant(packed, scb)}


def ternary(name: str, rows: int = ROWS, columns: int = COLUMNS) -> torch.Tensor:
    return (matrix(name, rows, columns) * 15).round().clamp(-1, 1)


def bitnet(automatic: bool):
    def make() -> tuple[dict, dict, dict]:
        from transformers.integrations import bitnet as code

        torch.compiler.set_stance("force_eager")
        packed = code.pack_weights(ternary(NAME).clone())
        scale = torch.tensor([3.171875 if not automatic else 0.3171875], dtype=torch.bfloat16)
        unpacked = code.unpack_weights(packed, torch.float32)
        values = unpacked * scale.float() if automatic else unpacked / scale.float()
        settings = {"quant_method": "bitnet", "modules_to_not_convert": None}
        if automatic:
            settings |= {"linear_class": "autobitlinear", "quantization_mode": "offline"}
        return settings, {f"{NAME}.weight": packed, f"{NAME}.weight_scale": scale}, {f"{NAME}.weight": values}
    return make


def bitnet_online() -> tuple[dict, dict, dict]:
    from transformers.integrations import bitnet as code

    torch.compiler.set_stance("force_eager")
    weight, head = matrix(NAME).bfloat16(), matrix("lm_head").bfloat16()
    values = code.WeightQuant.apply(weight.float())
    settings = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    return settings, {f"{NAME}.weight": weight, "lm_head.weight": head}, {f"{NAME}.weight": values, "lm_head.weight": head}


def mxfp4_parts(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and exponents as compressed-tensors packs them."""
    from compressed_tensors.compressors.mx_utils import compress_mx_scale
    from compressed_tensors.compressors.nvfp4.helpers import quantize_and_pack_fp4

    blocks = weight.reshape(weight.shape[0], -1, 32)
    scale = 2.0 ** (torch.floor(torch.log2(blocks.abs().amax(-1))) - 2)
    return quantize_and_pack_fp4(weight, scale, group_size=32), compress_mx_scale(scale, torch.uint8)


def mxfp4_gpt_oss() -> tuple[dict, dict, dict]:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    parts, expected = {}, {}
    for part, rows, columns in (("gate_up_proj", 32, 64), ("down_proj", 64, 32)):
        name = f"model.layers.0.mlp.experts.{part}"
        packed = [mxfp4_parts(matrix(f"{name}.{e}", rows, columns)) for e in range(3)]
        parts[f"{name}_blocks"] = torch.stack([p for p, _ in packed]).reshape(3, rows, columns // 32, 16)
        parts[f"{name}_scales"] = torch.stack([s for _, s in packed])
        expected[name] = convert_moe_packed_tensors(parts[f"{name}_blocks"], parts[f"{name}_scales"])
        expected[name] = expected[name].contiguous()
    return {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}, parts, expected


def ct_scheme(size: int):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    args = QuantizationArgs(num_bits=4, type="float", group_size=size, strategy="tensor_group" if size == 16 else "group",
                            symmetric=True)
    return QuantizationScheme(targets=["Linear"], weights=args)


def ct_settings(size: int, form: str) -> dict:
    weights = {"num_bits": 4, "type": "float", "group_size": size, "symmetric": True,
               "strategy": "tensor_group" if size == 16 else "group"}
    return {"quant_method": "compressed-tensors", "format": form, "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}}, "ignore": ["lm_head"]}


def mxfp4_ct() -> tuple[dict, dict, dict]:
    from compressed_tensors.compressors.mxfp4 import MXFP4PackedCompressor

    packed, scale = mxfp4_parts(matrix(NAME))
    parts = {"weight_packed": packed, "weight_scale": scale}
    values = MXFP4PackedCompressor.decompress(parts, ct_scheme(32))["weight"]
    return ct_settings(32, "mxfp4-pack-quantized"), {f"{NAME}.{k}": v for k, v in parts.items()}, {f"{NAME}.weight": values}


def nvfp4_parts(weight: torch.Tensor) -> dict:
    """Packs like compressed-tensors: the global scale is a divisor."""
    from compressed_tensors.compressors.nvfp4.helpers import quantize_and_pack_fp4

    top = torch.finfo(torch.float8_e4m3fn).max
    global_scale = (top * 6 / weight.abs().amax()).float().reshape(1)
    scale = (weight.reshape(weight.shape[0], -1, 16).abs().amax(-1) / 6 * global_scale).to(torch.float8_e4m3fn)
    packed = quantize_and_pack_fp4(weight, scale.float(), global_scale=global_scale, group_size=16)
    return {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": global_scale}


def nvfp4_ct() -> tuple[dict, dict, dict]:
    from compressed_tensors.compressors.nvfp4 import NVFP4PackedCompressor

    parts = nvfp4_parts(matrix(NAME, columns=80))
    values = NVFP4PackedCompressor.decompress(parts, ct_scheme(16))["weight"]
    settings = ct_settings(16, "nvfp4-pack-quantized")
    return settings, {f"{NAME}.{k}": v for k, v in parts.items()}, {f"{NAME}.weight": values}


def nvfp4_modelopt_parts(weight: torch.Tensor) -> dict:
    parts = nvfp4_parts(weight)
    factor = (1.0 / parts["weight_global_scale"]).reshape(())
    return {"weight": parts["weight_packed"], "weight_scale": parts["weight_scale"], "weight_scale_2": factor}


def nvfp4_modelopt_values(parts: dict) -> torch.Tensor:
    """The formula of ModelOpt 0.47 `nvfp4_tensor.py` (`dequantize`), whose package cannot be imported without CUDA."""
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    packed = parts["weight"]
    codes = torch.stack([packed & 15, packed >> 4], -1).reshape(packed.shape[0], -1)
    scale = parts["weight_scale"].float() * parts["weight_scale_2"]
    values = table[codes.long()].reshape(packed.shape[0], -1, 16) * scale.unsqueeze(-1)
    return values.reshape(packed.shape[0], -1)


def nvfp4_modelopt() -> tuple[dict, dict, dict]:
    parts = nvfp4_modelopt_parts(matrix(NAME, columns=128))
    values = nvfp4_modelopt_values(parts)
    settings = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_quant_algo": None, "group_size": 16}
    return settings, {f"{NAME}.{k}": v for k, v in parts.items()}, {f"{NAME}.weight": values}


# Name of the folder to a function that returns (quantization_config, stored tensors, expected tensors).
CASES = {
    "gptq-2-bits": gptq(2, 32),
    "gptq-3-bits": gptq(3, 32, sym=False, act_order=True),
    "gptq-4-bits": gptq(4, 32, sym=False),
    "gptq-4-bits-act-order": gptq(4, 16, sym=False, act_order=True, v2=True),
    "gptq-4-bits-no-groups": gptq(4, -1, keep_g_idx=False),
    "gptq-8-bits": gptq(8, 32, sym=False, dtype=torch.bfloat16),
    "gptq-3-bits-v2": gptq(3, -1, v2=True),
    "auto-round-gptq": gptq(4, 32, keep_g_idx=False, quant_method="auto-round", packing_format="auto_round:auto_gptq",
                            data_type="int"),
    "awq": awq(32),
    "awq-no-groups": awq(-1),
    "awq-gemv": awq(32, gemv=True),
    "auto-round-awq": awq(16, quant_method="auto-round", packing_format="auto_round:auto_awq", data_type="int"),
    "bitsandbytes-nf4": bnb4("nf4", False, torch.bfloat16),
    "bitsandbytes-nf4-nested": bnb4("nf4", True, torch.float16, columns=50),
    "bitsandbytes-fp4": bnb4("fp4", True, torch.float32, blocksize=128),
    "bitsandbytes-nf4-bf16-storage": bnb4("nf4", True, torch.bfloat16, storage=torch.bfloat16),
    "bitsandbytes-8-bits": bnb8,
    "bitnet": bitnet(False),
    "bitnet-autobitlinear": bitnet(True),
    "bitnet-online": bitnet_online,
    "mxfp4-gpt-oss": mxfp4_gpt_oss,
    "mxfp4-compressed-tensors": mxfp4_ct,
    "nvfp4-compressed-tensors": nvfp4_ct,
    "nvfp4-modelopt": nvfp4_modelopt,
}


def write(folder: Path, config: dict, tensors: dict) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors", metadata={"format": "pt"})


def make_case(name: str, folder: Path) -> None:
    settings, tensors, expected = CASES[name]()
    write(folder, {"model_type": "test", "quantization_config": settings}, tensors)
    save_file(expected, folder / "expected.safetensors")


LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def shapes(config: dict) -> dict[str, tuple[int, ...]]:
    """The tensors of a model of one layer."""
    hidden, kv = config["hidden_size"], config["num_key_value_heads"] * head_length(config)
    query, wide = config["num_attention_heads"] * head_length(config), config["intermediate_size"]
    layer = "model.layers.0."
    found = {"model.embed_tokens.weight": (config["vocab_size"], hidden), "model.norm.weight": (hidden,),
             f"{layer}input_layernorm.weight": (hidden,), f"{layer}post_attention_layernorm.weight": (hidden,)}
    for name, shape in (("q_proj", (query, hidden)), ("k_proj", (kv, hidden)), ("v_proj", (kv, hidden)), ("o_proj", (hidden, query))):
        found[f"{layer}self_attn.{name}.weight"] = shape
    if config["model_type"].startswith("qwen3"):
        found |= {f"{layer}self_attn.{name}.weight": (head_length(config),) for name in ("q_norm", "k_norm")}
    places = ["mlp."]
    if experts := config.get("num_experts"):
        wide = config["moe_intermediate_size"]
        places = [f"mlp.experts.{expert}." for expert in range(experts)]
        found[f"{layer}mlp.gate.weight"] = (experts, hidden)
    for place in places:
        found |= {f"{layer}{place}{name}.weight": (wide, hidden) for name in ("gate_proj", "up_proj")}
        found[f"{layer}{place}down_proj.weight"] = (hidden, wide)
    return found


def head_length(config: dict) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def model_tensors(config: dict, pack) -> dict:
    """All tensors; `pack` returns the parts of a linear layer's weight."""
    tensors = {}
    for name, shape in shapes(config).items():
        value = torch.from_numpy(weights(name, shape, config).copy())
        if name.split(".")[-2] in LINEAR:
            module = name.removesuffix(".weight")
            tensors |= {f"{module}.{key}": part for key, part in pack(value * 0.2, module).items()}
        else:
            tensors[name] = value.half()
    return tensors


def tiny(make=llama, **more) -> dict:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2,
             "num_key_value_heads": 2, "tie_word_embeddings": True}
    return make(**{**sizes, **more})["config"]


def gptq_model(bits: int, **kind):
    def make() -> tuple[dict, dict]:
        settings = {"quant_method": "gptq", "bits": bits, "group_size": 32, "checkpoint_format": "gptq", "desc_act": True}
        config = tiny()
        pack = lambda weight, module: gptq_parts(weight, bits, 32, False, True, torch.float16, False)
        return {**config, "quantization_config": settings}, model_tensors(config, pack)
    return make


def bitnet_model() -> tuple[dict, dict]:
    from transformers.integrations import bitnet as code

    torch.compiler.set_stance("force_eager")

    def pack(weight: torch.Tensor, module: str) -> dict:
        values = (weight * 15).round().clamp(-1, 1)
        scale = torch.tensor([2.5 + len(module) / 16], dtype=torch.bfloat16)
        return {"weight": code.pack_weights(values.clone()), "weight_scale": scale}

    config = tiny()
    return {**config, "quantization_config": {"quant_method": "bitnet"}}, model_tensors(config, pack)


NVFP4_SIZES = {"hidden_size": 64, "num_attention_heads": 4}


def nvfp4_modelopt_model() -> tuple[dict, dict]:
    def pack(weight: torch.Tensor, module: str) -> dict:
        return {**nvfp4_modelopt_parts(weight), "input_scale": torch.tensor(0.001 * len(module))}

    config = tiny(**NVFP4_SIZES)
    settings = {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16}
    return {**config, "quantization_config": settings}, model_tensors(config, pack)


def nvfp4_moe_model() -> tuple[dict, dict]:
    config = tiny(**NVFP4_SIZES, architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", head_dim=32, num_experts=3,
                  num_experts_per_tok=2, moe_intermediate_size=64, norm_topk_prob=True, use_sliding_window=False)
    settings = ct_settings(16, "nvfp4-pack-quantized")
    return {**config, "quantization_config": settings}, model_tensors(config, lambda weight, _: nvfp4_parts(weight))


# Name of the folder to a function that returns (config.json, stored tensors).
MODELS = {
    "llama-gptq-2-bits": gptq_model(2),
    "llama-gptq-4-bits": gptq_model(4),
    "llama-gptq-8-bits": gptq_model(8),
    "llama-bitnet": bitnet_model,
    "llama-nvfp4": nvfp4_modelopt_model,
    "qwen3moe-nvfp4": nvfp4_moe_model,
}

TOKENIZER = Path(__file__).resolve().parent.parent / "tests/data/architectures/bpe"


def check_model(name: str, folder: Path, place: Path, aqueduct: Path, golden: bool) -> int:
    """Prints the differences of Aqueduct's and llama.cpp's conversions; returns their number."""
    config, tensors = MODELS[name]()
    write(folder, config, tensors)
    source = place / f"{name}-source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(folder, source)
    for file in TOKENIZER.iterdir():
        shutil.copy(file, source)
    theirs, ours = place / f"{name}-llama.cpp.gguf", place / f"{name}.gguf"
    # With lazy tensors, torch 2.15 rejects its way of unpacking BitNet.
    convert_by_llama_cpp(source, theirs, "f16", "--no-lazy")
    keys, found = described(theirs)
    if golden:
        text = json.dumps({"tensors": found, "file_type": keys["general.file_type"]}, indent=0)
        (folder / "llama.cpp.json").write_text(text + "\n")
    faults = []
    if aqueduct.exists():
        subprocess.run([aqueduct, "convert", source, "-o", ours, "--force", "--quiet"], check=True)
        mine = described(ours)
        # Stacks of experts have another order.
        faults = differences((mine[0], sorted(mine[1])), (keys, sorted(found)), [])
    print(f"{'FAILED' if faults else 'ok'}  {name}", flush=True)
    for fault in faults:
        print(f"    {fault}")
    return len(faults)
