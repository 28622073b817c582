"""Float-scaled formats of quantized weights and compressed-tensors' integers, for check-quantized-sources.

Each format creates its stored tensors from a plain matrix with the reference's code, and the values to which the
reference dequantizes them.
"""

from dataclasses import dataclass, field
from typing import Callable

import torch

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@dataclass
class Format:
    # From the plain weight to the stored tensors, by the suffix of the module's name, and the reference's values.
    quantize: Callable[[torch.Tensor], tuple[dict[str, torch.Tensor], torch.Tensor]]
    # quantization_config.
    config: dict | None
    # Shapes of the matrices for the test data.
    shapes: list[tuple[int, ...]] = field(default_factory=lambda: [(12, 64)])
    # Other tensors of the folder: name and data.
    beside: dict[str, torch.Tensor] = field(default_factory=dict)
    # Whether llama.cpp's converter reads it.
    llama_cpp: bool = True
    # A file beside config.json instead of quantization_config.
    file: tuple[str, dict] | None = None


def grid_of(weight: torch.Tensor, block: tuple[int, int], top: float, dtype=torch.float32) -> torch.Tensor:
    """A scale for each block, so that its largest weight becomes `top`."""
    rows, columns = weight.shape[-2:]
    padded = torch.nn.functional.pad(weight.float().abs(), (0, -columns % block[1], 0, -rows % block[0]))
    blocks = padded.unflatten(-1, (-1, block[1])).unflatten(-3, (-1, block[0]))
    return (blocks.amax(dim=(-3, -1)) / top).clamp(min=1e-4).to(dtype)


def spread(scale: torch.Tensor, block: tuple[int, int], shape: torch.Size) -> torch.Tensor:
    full = scale.float().repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)
    return full[..., : shape[-2], : shape[-1]]


def by_transformers(codes: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    return Fp8Dequantize(None)._dequantize_one(codes, scale, torch.float32)


def fp8_blocks(block: tuple[int, int], dtype=E4M3, scale_dtype=torch.float32, suffix="weight_scale_inv"):
    """Blocks that may be cut at the edges: dequantized by compressed-tensors' converter of such checkpoints."""
    def quantize(weight):
        from compressed_tensors.entrypoints.convert.converters.fp8block_dequantizer import FP8BlockDequantizer

        scale = grid_of(weight, block, torch.finfo(dtype).max, scale_dtype)
        codes = (weight / spread(scale, block, weight.shape)).to(dtype)
        reference = FP8BlockDequantizer(targets=["Linear"], weight_block_size=block, dtype=torch.float32)
        return {"weight": codes, suffix: scale}, reference._create_dequantized_weight(codes, scale)
    return quantize


def fp8_scale(shape_of, dtype=E4M3, scale_dtype=torch.float32, suffix="weight_scale_inv", more=None):
    """Scales that divide the matrix evenly, of the shape that `shape_of` gives: dequantized by transformers."""
    def quantize(weight):
        shape = shape_of(weight.shape)
        down = weight.shape[-2] // (shape[-2] if len(shape) > 1 else 1)
        across = weight.shape[-1] // (shape[-1] if len(shape) > 1 else 1)
        grid = grid_of(weight, (down, across), torch.finfo(dtype).max)
        if scale_dtype == torch.uint8:
            exponents = grid.log2().ceil()
            grid, scale = exponents.exp2(), (exponents + 127).to(torch.uint8)
        else:
            scale = grid.to(scale_dtype)
        codes = (weight / spread(grid, (down, across), weight.shape)).to(dtype)
        return {"weight": codes, suffix: scale.reshape(shape), **(more or {})}, by_transformers(codes, scale)
    return quantize


def all_codes(weight: torch.Tensor):
    """Every finite code once, whatever the weights."""
    codes = torch.arange(256, dtype=torch.uint8).view(E4M3)
    codes = codes[codes.float().isfinite()].reshape(2, -1)
    scale = torch.tensor([[0.37], [1.7e-3]])
    return {"weight": codes, "weight_scale": scale}, by_transformers(codes, scale)


def scheme(**weights):
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme

    return QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**weights))


def compressed_config(form: str, *schemes) -> dict:
    from compressed_tensors.quantization import QuantizationConfig

    groups = {f"group_{i}": made for i, made in enumerate(schemes)}
    config = QuantizationConfig(config_groups=groups, format=form, quantization_status="compressed", ignore=["lm_head"])
    return {"quant_method": "compressed-tensors", **config.model_dump(mode="json", exclude={"quant_method"})}


def compressed(form: str, scale_dtype=torch.bfloat16, ordered=False, **weights):
    """A compressor of compressed-tensors, with given scales and zero points."""
    made = scheme(**weights)

    def quantize(weight):
        from compressed_tensors.compressors import BaseCompressor

        args, (rows, columns) = made.weights, weight.shape
        block = {
            "tensor": (rows, columns), "channel": (1, columns), "group": (1, args.group_size),
            "block": tuple(args.block_structure or (1, 1)),
        }[str(getattr(args.strategy, "value", args.strategy))]
        top = 448 if args.type == "float" else 2 ** (args.num_bits - 1) - 0.5
        scale = grid_of(weight, block, top, scale_dtype)
        state = {"weight": weight.to(scale_dtype), "weight_scale": scale}
        if args.strategy == "tensor":
            state["weight_scale"] = scale.reshape(1)
        if args.symmetric is False:
            low, high = -(2 ** (args.num_bits - 1)), 2 ** (args.num_bits - 1)
            zero = torch.randint(low, high, scale.shape, generator=torch.Generator().manual_seed(7), dtype=torch.int8)
            state["weight_zero_point"] = zero.reshape(state["weight_scale"].shape)
        if ordered:
            # Columns are quantized in another order and stored in the original order, as in versions up to 0.11.
            step = 5 if columns % 5 else 7
            groups = torch.arange(columns) * step % columns // args.group_size
            order = groups.argsort(stable=True)
            state["weight"] = state["weight"][:, order]
        compressor = BaseCompressor.get_value_from_registry(form)
        stored = compressor.compress(state, made)
        values = compressor.decompress(stored, made)["weight"]
        if ordered:
            from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32

            back = order.argsort()
            values = values[:, back]
            codes = unpack_from_int32(stored["weight_packed"], args.num_bits, weight.shape)[:, back]
            stored["weight_packed"] = pack_to_int32(codes.contiguous(), args.num_bits)
            stored["weight_g_idx"] = groups.to(torch.int32)
        return stored, values
    return quantize, made


def compressed_format(form: str, llama_cpp=True, shapes=None, scale_dtype=torch.bfloat16, ordered=False, **weights):
    quantize, made = compressed(form, scale_dtype, ordered, **weights)
    more = {"shapes": shapes} if shapes else {}
    return Format(quantize, compressed_config(form, made), llama_cpp=llama_cpp, **more)


def two_groups() -> Format:
    """Attention in eight bits by rows, the rest in four by groups."""
    four, first = compressed("pack-quantized", num_bits=4, group_size=16, strategy="group")
    eight, second = compressed("pack-quantized", num_bits=8, strategy="channel")
    quantize = lambda weight: (eight if weight.shape[0] % 3 else four)(weight)
    second.targets = ["re:.*self_attn.*"]
    return Format(quantize, compressed_config("pack-quantized", first, second), shapes=[(12, 48), (8, 48)],
                  llama_cpp=False)


def mixed() -> Format:
    """FP8 by rows and integers by groups in one checkpoint."""
    floats, first = compressed("float-quantized", num_bits=8, type="float", strategy="channel")
    packed, second = compressed("pack-quantized", num_bits=4, group_size=16, strategy="group")
    first.format, second.format = "float-quantized", "pack-quantized"
    second.targets = ["re:.*mlp.*"]
    quantize = lambda weight: (floats if weight.shape[0] % 3 else packed)(weight)
    return Format(quantize, compressed_config("mixed-precision", first, second), shapes=[(12, 48), (8, 48)],
                  llama_cpp=False)


FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
SCALAR = torch.tensor(0.5)
LAYER = "model.layers.0.self_attn."

FORMATS = {
    "fp8-blocks-at-edges": Format(fp8_blocks((128, 128)), {**FP8, "weight_block_size": [128, 128]}, [(130, 12), (6, 140)]),
    "fp8-small-blocks": Format(fp8_blocks((16, 32), scale_dtype=torch.bfloat16), {**FP8, "weight_block_size": [16, 32]},
                               [(24, 72)]),
    "fp8-stack": Format(fp8_scale(lambda s: (*s[:-2], 2, 4)), {**FP8, "weight_block_size": [4, 16]}, [(3, 8, 64)]),
    "fp8-tensor": Format(fp8_scale(lambda s: (), E5M2, suffix="weight_scale_inv", more={"activation_scale": SCALAR}),
                         {**FP8, "activation_scheme": "static", "weight_block_size": None}),
    "fp8-all-codes": Format(all_codes, {"quant_method": "fbgemm_fp8"}, [(2, 127)], llama_cpp=False),
    "fp8-mistral": Format(fp8_scale(lambda s: (), suffix="qscale_weight", more={"qscale_act": SCALAR}),
                          {**FP8, "activation_scheme": "static"}),
    "fp8-e8m0": Format(fp8_scale(lambda s: (s[-2], s[-1] // 8), scale_dtype=torch.uint8),
                       {**FP8, "weight_block_size": [1, 8], "scale_fmt": "ue8m0"}, llama_cpp=False),
    "modelopt-fp8": Format(fp8_scale(lambda s: (), suffix="weight_scale", more={"input_scale": SCALAR}),
                           {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_scheme": {"num_bits": 8}},
                           beside={f"{LAYER}k_proj.k_scale": SCALAR, f"{LAYER}v_proj.v_scale": SCALAR}),
    "modelopt-fp8-beside": Format(fp8_scale(lambda s: (), suffix="weight_scale", more={"input_scale": SCALAR}), None,
                                  file=("hf_quant_config.json", {"producer": {"name": "modelopt", "version": "0.29.0"},
                                        "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": None}})),
    "ct-float-channel": compressed_format("float-quantized", num_bits=8, type="float", strategy="channel"),
    "ct-float-tensor": compressed_format("float-quantized", False, scale_dtype=torch.float32, num_bits=8, type="float",
                                         strategy="tensor"),
    "ct-float-block": compressed_format("float-quantized", shapes=[(20, 40)], num_bits=8, type="float",
                                        strategy="block", block_structure=[8, 16]),
    "ct-int-channel": compressed_format("int-quantized", num_bits=8, strategy="channel"),
    "ct-int-asymmetric": compressed_format("int-quantized", False, num_bits=8, strategy="channel", symmetric=False),
    "ct-int-tensor": compressed_format("int-quantized", False, scale_dtype=torch.float16, num_bits=8, strategy="tensor",
                                       symmetric=False),
    "ct-naive-group": compressed_format("naive-quantized", False, num_bits=8, strategy="group", group_size=16),
    "ct-mxfp8": compressed_format("mxfp8-quantized", False, num_bits=8, type="float", strategy="group", group_size=16,
                                  scale_dtype=torch.float32),
    "ct-pack-4": compressed_format("pack-quantized", num_bits=4, strategy="group", group_size=16),
    "ct-pack-4-asymmetric": compressed_format("pack-quantized", num_bits=4, strategy="group", group_size=16,
                                              symmetric=False, shapes=[(11, 32)]),
    "ct-pack-8": compressed_format("pack-quantized", scale_dtype=torch.float32, num_bits=8, strategy="group",
                                   group_size=8),
    "ct-pack-4-channel": compressed_format("pack-quantized", False, num_bits=4, strategy="channel", symmetric=False,
                                           shapes=[(9, 44)]),
    "ct-pack-4-tensor": compressed_format("pack-quantized", False, num_bits=4, strategy="tensor"),
    "ct-pack-4-ordered": compressed_format("pack-quantized", False, ordered=True, num_bits=4, strategy="group",
                                           group_size=16, symmetric=False),
    **{f"ct-pack-{bits}": compressed_format("pack-quantized", False, num_bits=bits, strategy="group", group_size=16,
                                            symmetric=False, shapes=[(13, 48)])
       for bits in (2, 3, 5, 6, 7)},
    "ct-two-groups": two_groups(),
    "ct-mixed": mixed(),
}
