"""Models of a few thousand random weights, one or more for each architecture, for check-architectures.

Weights are derived from the tensors' names, so that the tests can compute the same ones without files.
"""

import json
import math
from pathlib import Path

import numpy as np

TEXT = """When the water comes down from the hills it does not ask who built the channel. It runs along the old
stones, past 17 arches and 3 cracked basins, and into the town's cistern; there it waits. "How much is left?" asked
Mara. Nobody knew: the gauge had stopped at 42 in the year of the long drought, and the keeper's book said only that
the level was low, lower, lowest. She counted the steps, one by one, down to the green line on the wall.
"Nine," she said. "Nine steps of eleven." That was enough for the summer, if the bakers were careful, and if the rain
came before the figs were ripe. In the evening they closed the sluice and wrote the number on the door. Years later a
child asked what the nine meant, and the answer was a story that took longer to tell than the drought had lasted.
""" * 3


def weights(name: str, shape: tuple[int, ...], config: dict) -> np.ndarray:
    """Pseudo-random numbers for which every part of a model affects the result. The tests compute the same ones."""
    state = 0xCBF29CE484222325
    for byte in name.encode():
        state = (state ^ byte) * 0x100000001B3 % 2**64
    values = []
    for _ in range(math.prod(shape)):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        values.append((state >> 40) / 2**23 - 1)
    values = np.array(values, np.float32).reshape(shape)
    if name.endswith("norm.weight"):
        gemma = config["model_type"].startswith("gemma")
        return values * np.float32(0.25) + np.float32(0 if gemma else 1)
    if len(shape) == 1:
        return values * np.float32(0.25)
    if name == "model.embed_tokens.weight":
        return values
    return values * np.float32(0.5)


SIZES = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 1000.0,
    "tie_word_embeddings": False, "torch_dtype": "float32", "vocab_size": 304, "bos_token_id": 0, "eos_token_id": 1,
}


def llama(**more) -> dict:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", **SIZES, **more}
    return {"tokenizer": "bpe", "config": config}


def gemma(kind: str, **more) -> dict:
    config = {
        **SIZES, "model_type": kind, "hidden_activation": "gelu_pytorch_tanh", "head_dim": 8, "vocab_size": 320,
        "query_pre_attn_scalar": 8, "sliding_window": 12, "tie_word_embeddings": True, "bos_token_id": 2, "pad_token_id": 0,
        **more,
    }
    return {"tokenizer": "gemma", "config": config}


def phi3(**more) -> dict:
    config = {
        "architectures": ["Phi3ForCausalLM"], **SIZES, "model_type": "phi3", "hidden_act": "silu", "vocab_size": 320,
        "sliding_window": None, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, **more,
    }
    return {"tokenizer": "phi", "config": config}


LONG_ROPE = {"type": "longrope", "short_factor": [1.0, 1.25], "long_factor": [1.5, 6.0]}
LONG_ROPE_OF_LLAMA = [".rope.scaling.original_context_length", ".rope.scaling.attn_factor",
                      "rope_factors_long.weight", "rope_factors_short.weight"]

# "more" lists the ends of names of keys and tensors that Aqueduct writes and llama.cpp's converter does not.
MODELS = {
    "llama": llama(),
    "llama-linear": llama(rope_scaling={"type": "linear", "factor": 4.0}),
    "llama-dynamic": llama(rope_scaling={"type": "dynamic", "factor": 2.0}),
    "llama-llama3": llama(rope_scaling={
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64}),
    "llama-yarn": llama(rope_scaling={"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64}),
    "llama-longrope": {
        **llama(rope_scaling={**LONG_ROPE, "rope_type": "longrope"}, original_max_position_embeddings=32),
        "more": LONG_ROPE_OF_LLAMA},
    "mixtral": llama(architectures=["MixtralForCausalLM"], model_type="mixtral", num_local_experts=8,
                     num_experts_per_tok=2),
    "qwen2": llama(architectures=["Qwen2ForCausalLM"], model_type="qwen2", use_sliding_window=False),
    "qwen2-yarn": llama(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2", use_sliding_window=False, tie_word_embeddings=True,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128, "beta_fast": 24.0,
                      "beta_slow": 2.0}),
    "qwen3": llama(architectures=["Qwen3ForCausalLM"], model_type="qwen3", head_dim=8, use_sliding_window=False),
    "qwen3_moe": llama(architectures=["Qwen3MoeForCausalLM"], model_type="qwen3_moe", head_dim=8, num_experts=8,
                       num_experts_per_tok=3, moe_intermediate_size=12, norm_topk_prob=True, use_sliding_window=False),
    "gemma2": gemma("gemma2", architectures=["Gemma2ForCausalLM"], num_hidden_layers=3, attn_logit_softcapping=4.0,
                    final_logit_softcapping=9.0, rope_theta=10000.0),
    "gemma3": gemma("gemma3_text", architectures=["Gemma3ForCausalLM"], num_hidden_layers=7, rope_theta=100000.0,
                    rope_local_base_freq=500.0, rope_scaling={"rope_type": "linear", "factor": 4.0}),
    "gemma3-layers": {
        **gemma("gemma3_text", architectures=["Gemma3ForCausalLM"], num_hidden_layers=3, rope_theta=100000.0,
                rope_local_base_freq=500.0,
                layer_types=["full_attention", "sliding_attention", "full_attention"]),
        "more": [".attention.sliding_window_pattern"]},
    "phi3": phi3(),
    "phi3-short": phi3(rope_scaling=LONG_ROPE, original_max_position_embeddings=384),
    "phi3-long": phi3(rope_scaling=LONG_ROPE, original_max_position_embeddings=32),
    "phi3-partial": phi3(partial_rotary_factor=0.5, tie_word_embeddings=True, num_key_value_heads=4),
    "granite": llama(architectures=["GraniteForCausalLM"], model_type="granite", attention_multiplier=0.3,
                     embedding_multiplier=3.0, residual_multiplier=0.4, logits_scaling=2.0),
}


def tokenizer_files(place: Path) -> None:
    """Creates missing tokenizers."""
    if not (place / "bpe").exists():
        byte_level(place / "bpe")
    if not (place / "gemma").exists():
        sentencepiece(place / "gemma", ["<pad>", "<eos>", "<bos>", "<unk>"], False, {"<start_of_turn>": False})
    if not (place / "phi").exists():
        sentencepiece(place / "phi", ["<unk>", "<s>", "</s>"], True, {"<|endoftext|>": True, "<|end|>": True, "<|user|>": True})


def byte_level(folder: Path) -> None:
    """Byte-level BPE with Qwen 2's way of splitting, trained on the text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator([TEXT], trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "add_bos_token": False,
        "bos_token": None, "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": None}, indent=1))


def sentencepiece(folder: Path, specials: list[str], prefix: bool, added: dict[str, bool]) -> None:
    """BPE of SentencePiece's kind with byte fallback, trained on the text. `added` tokens follow, true if special."""
    from sentencepiece import SentencePieceTrainer

    folder.mkdir()
    source = folder / "text.txt"
    source.write_text(TEXT)
    ids = {text: i for i, text in enumerate(specials)}
    bos = next(text for text in specials if text in ("<bos>", "<s>"))
    eos = next(text for text in specials if text in ("<eos>", "</s>"))
    SentencePieceTrainer.Train(
        input=str(source), model_prefix=str(folder / "tokenizer"), model_type="bpe", vocab_size=310, byte_fallback=True,
        add_dummy_prefix=prefix, remove_extra_whitespaces=False, normalization_rule_name="identity",
        pad_id=ids.get("<pad>", -1), unk_id=ids["<unk>"], bos_id=ids[bos], eos_id=ids[eos], bos_piece=bos,
        eos_piece=eos, minloglevel=2, num_threads=1)
    source.unlink()
    (folder / "tokenizer.vocab").unlink()
    decoder = {str(310 + i): {"content": text, "special": special} for i, (text, special) in enumerate(added.items())}
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "LlamaTokenizer" if prefix else "GemmaTokenizer", "add_bos_token": True, "add_eos_token": False,
        "bos_token": bos, "eos_token": eos, "unk_token": "<unk>", "added_tokens_decoder": decoder}, indent=1))
