"""Inputs as people have them, for check-inputs: how each is created, and the expected result.

Most are the demo's clerk or storyteller with one change, as re-saving, hand edits, failed downloads and other programs
cause them.
"""

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

import bootstrap

DEMO = bootstrap.ROOT / "recipes/demo"
CASES: dict[str, "Case"] = {}


@dataclass
class Case:
    name: str
    make: Callable[[Path], None]
    # Words of each warning that converting the folder prints.
    warns: tuple[str, ...] = ()
    # Words of the error if the input must be rejected, and the path in the case's folder that is converted then.
    refused: tuple[str, ...] = ()
    source: str = "model"
    # The reason why llama.cpp's converter is not compared; `None` if it is.
    llama_cpp: str | None = None
    # Keys in which the converters may differ.
    skipped_keys: tuple[str, ...] = ()
    # Additional lines of the passthrough recipe.
    recipe: str = ""
    # An additional check, which returns faults.
    check: Callable[[Path], list[str]] | None = None
    # Only `check` applies.
    only_check: bool = False


def case(**settings):
    """Registers the decorated function under its name, with dashes."""
    def register(make):
        name = make.__name__.replace("_", "-")
        CASES[name] = Case(name, make, **settings)
        return make
    return register


def model(place: Path, base: str = "clerk", config=None, weights=None, name: str = "model") -> Path:
    """A copy of the demo's model `base`; `config` and `weights` change theirs in place."""
    folder = place / name
    shutil.copytree(DEMO / base, folder)
    if config:
        values = json.loads((folder / "config.json").read_text())
        config(values)
        (folder / "config.json").write_text(json.dumps(values, indent=1))
    if weights:
        values = dict(load_file(folder / "model.safetensors"))
        weights(values)
        save_file(values, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def edit_json(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values, indent=1))


# Heads

@case(warns=("ties the output head",), llama_cpp="it is compared by tensors in the tests")
def tied_flag_own_head(place):
    model(place, config=lambda c: c.update(tie_word_embeddings=True))


@case(warns=("stores no head",))
def untied_without_head(place):
    model(place, weights=lambda w: w.pop("lm_head.weight"))


@case(warns=("stores no head",))
def tie_left_out_without_head(place):
    model(place, config=lambda c: c.pop("tie_word_embeddings"), weights=lambda w: w.pop("lm_head.weight"))


# Configuration

@case(warns=("rope_theta",))
def rope_theta_twice(place):
    rope = {"rope_type": "default", "rope_theta": 777.0}
    model(place, "storyteller", config=lambda c: c.update(rope_theta=10000.0, rope_parameters=rope))


@case()
def rope_parameters_alone(place):
    def change(config):
        config.pop("rope_theta")
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": 777.0}
        config["dtype"] = config.pop("torch_dtype")
    model(place, "storyteller", config=change)


@case(warns=("rope_scaling",), llama_cpp="it ignores the rope_scaling that was added by hand")
def rope_scaling_added_by_hand(place):
    def change(config):
        config["rope_parameters"] = {"rope_type": "default", "rope_theta": config["rope_theta"]}
        config["rope_scaling"] = {"type": "linear", "factor": 2.0}
    model(place, "storyteller", config=change)


@case()
def null_in_generation_config(place):
    edit_json(model(place) / "generation_config.json", lambda c: c.update(top_p=None, temperature=None))


@case(llama_cpp="Python's json refuses the byte order mark")
def json_with_byte_order_marks(place):
    for path in model(place).glob("*.json"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


@case()
def config_with_nan(place):
    path = model(place) / "config.json"
    path.write_text(path.read_text().replace('"initializer_range": 0.02', '"initializer_range": NaN, "x": [Infinity]'))


@case()
def nulls_that_mean_absent(place):
    model(place, config=lambda c: c.update(
        rope_scaling=None, attention_bias=None, mlp_bias=None, quantization_config=None, rope_parameters=None,
        torch_dtype=None, layer_types=None))


# Tensors

@case()
def f64_norm(place):
    model(place, weights=lambda w: w.update({"model.norm.weight": w["model.norm.weight"].astype(np.float64)}))


@case()
def f64_everything(place):
    model(place, weights=lambda w: w.update({k: v.astype(np.float64) for k, v in w.items()}))


@case()
def inv_freq_at_any_level(place):
    table = np.ones(32, np.float32)
    model(place, weights=lambda w: w.update({
        "model.rotary_emb.inv_freq": table, "model.layers.1.self_attn.rotary_emb.inv_freq": table}))


@case(llama_cpp="it does not know the buffer's name")
def integer_buffers(place):
    model(place, weights=lambda w: w.update({"model.embed_positions.position_ids": np.arange(512)}))


# Index files

def shards(folder: Path, names: list[str], index: bool = True) -> None:
    """Splits the folder's weights over files of these names."""
    values = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    homes = {}
    for number, name in enumerate(names):
        part = {k: v for i, (k, v) in enumerate(values.items()) if i % len(names) == number}
        save_file(part, folder / name, metadata={"format": "pt"})
        homes |= dict.fromkeys(part, name)
    if index:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": homes}))


TWO = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@case()
def shards_with_an_index(place):
    shards(model(place), TWO)


@case(warns=("model.safetensors.index.json",), llama_cpp="it looks for the files that the index names")
def stale_index_beside_a_whole_file(place):
    folder = model(place)
    (folder / "model.safetensors.index.json").write_text(json.dumps(
        {"metadata": {}, "weight_map": dict.fromkeys(load_file(folder / "model.safetensors"), TWO[0])}))


@case(warns=("into other files than hold them",), llama_cpp="it does not compare files with the index")
def tensors_in_another_shard(place):
    folder = model(place)
    shards(folder, TWO)
    def swap(index):
        index["weight_map"] = {k: TWO[v == TWO[0]] for k, v in index["weight_map"].items()}
    edit_json(folder / "model.safetensors.index.json", swap)


@case()
def shards_without_an_index(place):
    shards(model(place), TWO, index=False)


# Other files in place of weights

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 123456789\n"


@case(refused=("Git LFS", "git lfs pull"))
def lfs_pointer_as_weights(place):
    (model(place) / "model.safetensors").write_text(POINTER)


@case(refused=("Git LFS", "git lfs pull"), source="model.gguf")
def lfs_pointer_as_gguf(place):
    (place / "model.gguf").write_text(POINTER)


@case(refused=("web page",))
def html_as_weights(place):
    (model(place) / "model.safetensors").write_text("<!DOCTYPE html>\n<html><body>404</body></html>\n" * 4)


@case(refused=("empty",))
def empty_weights(place):
    (model(place) / "model.safetensors").write_bytes(b"")


# Model cards

def card(text: str):
    return lambda place: (model(place) / "README.md").write_text(text)


@case(skipped_keys=("general.license",))
def card_with_repeated_key(place):
    card("---\nlicense: mit\nlicense: apache-2.0\n---\n# x\n")(place)


@case()
def card_with_nan(place):
    card("---\nmodel-index:\n- name: x\n  results:\n  - metrics:\n    - {type: acc, value: .nan}\nlicense: mit\n---\n")(place)


@case(warns=("README.md",), llama_cpp="it stops")
def card_that_is_not_yaml(place):
    card("---\nlicense: [mit\n---\n")(place)


# Chat templates

@case()
def additional_chat_templates(place):
    folder = model(place)
    (folder / "chat_template.jinja").write_text("MAIN")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates/tool_use.jinja").write_text("TOOL")


def several(config):
    config["chat_template"] = [{"name": "default", "template": "D"}, {"name": "rag", "template": "R"}]


@case()
def several_named_templates(place):
    edit_json(model(place) / "tokenizer_config.json", several)


@case(warns=("chat_template",), llama_cpp="it takes the older template")
def two_default_templates(place):
    folder = model(place)
    edit_json(folder / "tokenizer_config.json", lambda c: c.update(chat_template="OLD"))
    (folder / "chat_template.jinja").write_text("NEW")


@case()
def template_with_crlf(place):
    (model(place) / "chat_template.jinja").write_bytes(b"{% for m in messages %}\r\n{{ m.content }}\r\n{% endfor %}")


# Tokenizers

@case(llama_cpp="transformers 5, which it uses, needs tiktoken to read them")
def vocab_and_merges_alone(place):
    folder = model(place)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(tokenizer["model"]["vocab"], ensure_ascii=False))
    pairs = [m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")


# Recipes

def aqueduct(place: Path, *arguments) -> subprocess.CompletedProcess:
    import os
    program = Path(os.environ.get("AQUEDUCT", bootstrap.CACHE / "release/aqueduct")).resolve()
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, cwd=place)


LINEAR = """merge_method: linear
models:
  - {{model: {demo}/storyteller, parameters: {{weight: 0.5}}}}
  - {{model: {demo}/clerk, parameters: {{weight: 0.5}}}}
dtype: float16
"""


def runs(place: Path, text: str, words: str = "") -> list[str]:
    (place / "recipe.yml").write_text(text)
    run = aqueduct(place, "merge", "recipe.yml", "-o", "merged", "--force")
    faults = [f"exit status {run.returncode}: {run.stderr}"] if run.returncode else []
    return faults + [f"nothing says {words!r}: {run.stderr}"] * (words not in run.stderr)


FOREIGN = {"int8_mask": "true", "random_seed": "0", "write_model_card": "false", "unsafe_truncate_embeddings": "true",
           "trust_remote_code": "true", "allow_crimes": "true", "lora_merge_cache": "/tmp", "slices": "null"}


def foreign_keys(place: Path) -> list[str]:
    text = LINEAR.format(demo=DEMO)
    return [fault for key, value in FOREIGN.items() for fault in runs(place, f"{text}{key}: {value}\n")]


@case(check=foreign_keys, only_check=True)
def recipe_with_foreign_keys(place):
    pass


@case(check=lambda place: runs(place, "\ufeff" + LINEAR.format(demo=DEMO)), only_check=True)
def recipe_with_byte_order_mark(place):
    pass


def forced_onto_an_input(place: Path) -> list[str]:
    faults = []
    aqueduct(place, "convert", "model", "-o", "model.gguf")
    before = (place / "model.gguf").read_bytes()
    for arguments in (("quantize", "model.gguf", "-o", "model.gguf", "Q8_0", "--force"),
                      ("convert", "model.gguf", "-o", "./model/../model.gguf", "--force")):
        run = aqueduct(place, *arguments)
        if run.returncode not in (1, 2) or (place / "model.gguf").read_bytes() != before:
            faults.append(f"{' '.join(arguments)}: {run.returncode} {run.stderr}")
    return faults


@case(check=forced_onto_an_input, only_check=True)
def force_onto_an_input(place):
    model(place)


def one_type_in_a_folder(place: Path) -> list[str]:
    run = aqueduct(place, "quantize", "model", "-o", "out", "Q4_K_M")
    return [] if list((place / "out").glob("*Q4_K_M.gguf")) else [f"no file in out/: {run.stderr}"]


@case(check=one_type_in_a_folder, only_check=True)
def output_folder_of_one_type(place):
    model(place)


def hub_name_as_source(place: Path) -> list[str]:
    faults = []
    for name in ("someone/no-such-model", "someone/no-such-model@main", "https://huggingface.co/someone/no-such-model"):
        run = aqueduct(place, "convert", name, "-o", "x.gguf")
        if run.returncode == 0 or "hf download someone/no-such-model" not in run.stderr:
            faults.append(f"{name}: {run.stderr}")
    return faults


@case(check=hub_name_as_source, only_check=True)
def hub_name_instead_of_a_path(place):
    pass


# Adapters

def merged_by_peft(place: Path) -> list[str]:
    """Compares `base+adapter` with PEFT's merge of the two."""
    (place / "recipe.yml").write_text("merge_method: passthrough\nmodels: [{model: ./base+./adapter}]\ndtype: float32\n")
    run = aqueduct(place, "merge", "recipe.yml", "-o", "merged", "--force")
    if run.returncode:
        return [run.stderr]
    ours, theirs = (load_file(place / name / "model.safetensors") for name in ("merged", "by-peft"))
    faults = [f"only one of the two has {name}" for name in set(ours) ^ set(theirs)]
    for name in set(ours) & set(theirs):
        if ours[name].shape != theirs[name].shape or abs(ours[name] - theirs[name]).max() > 1e-6 * abs(theirs[name]).max():
            faults.append(f"{name} differs")
    if json.loads((place / "merged/config.json").read_text())["tie_word_embeddings"] != ("lm_head.weight" not in ours):
        faults.append("config.json contradicts the tensors about the head")
    return faults


def adapter(place: Path, tied: bool, seed: int = 0, **settings) -> None:
    """A base of f32 weights, an adapter over it with random weights, and PEFT's merge of both."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    def change(weights):
        for name in weights:
            weights[name] = weights[name].astype(np.float32)
        if tied:
            weights.pop("lm_head.weight")
    base = model(place, "storyteller", lambda c: c.update(tie_word_embeddings=tied, torch_dtype="float32"), change, "base")
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(r=4, lora_alpha=8, **settings))
    torch.manual_seed(seed)
    for parameter in peft.parameters():
        if parameter.requires_grad:
            parameter.data += 0.02 * torch.randn_like(parameter)
    peft.save_pretrained(place / "adapter")
    if tied and "lm_head" in settings["target_modules"]:
        # PEFT would merge into the embedding, too. Its forward pass with the adapter is that of an untied head.
        untied = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, tie_word_embeddings=False)
        untied.lm_head.weight.data = untied.model.embed_tokens.weight.data.clone()
        peft = PeftModel.from_pretrained(untied, place / "adapter")
    merged = peft.merge_and_unload()
    tensors = {k: v.contiguous() for k, v in merged.state_dict().items()}
    if tied and torch.equal(tensors["lm_head.weight"], tensors["model.embed_tokens.weight"]):
        tensors.pop("lm_head.weight")
    (place / "by-peft").mkdir()
    save_file({k: v.numpy() for k, v in tensors.items()}, place / "by-peft/model.safetensors")


@case(check=merged_by_peft, only_check=True)
def adapter_with_own_head_over_a_tied_base(place):
    adapter(place, True, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens"])


@case(check=merged_by_peft, only_check=True)
def adapter_of_the_head_over_a_tied_base(place):
    adapter(place, True, target_modules=["q_proj", "lm_head"])


@case(check=merged_by_peft, only_check=True)
def adapter_with_magnitudes(place):
    adapter(place, False, target_modules=["q_proj", "down_proj"], use_dora=True)


@case(check=merged_by_peft, only_check=True)
def adapter_with_trained_tokens(place):
    adapter(place, False, target_modules=["v_proj"], trainable_token_indices=[3, 17])


# Quantized weights

@case(warns=("fp8",))
def fp8_in_blocks(place):
    import torch
    from safetensors.torch import load_file as load, save_file as save
    folder = model(place, config=lambda c: c.update(
        quantization_config={"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}))
    weights = load(str(folder / "model.safetensors"))
    for name in [name for name in weights if "proj" in name]:
        x = weights[name].float()
        weights[name] = (x / 0.01).clamp(-448, 448).to(torch.float8_e4m3fn)
        blocks = ((x.shape[0] + 127) // 128, (x.shape[1] + 127) // 128)
        weights[name + "_scale_inv"] = 0.01 * (1 + torch.arange(blocks[0] * blocks[1]).reshape(blocks) / 8)
    save(weights, str(folder / "model.safetensors"), metadata={"format": "pt"})


# Experts in the format of transformers 5

@case()
def mixture_saved_by_transformers_5(place):
    from transformers import AutoConfig, AutoModelForCausalLM

    from tiny_models import MODELS, weights
    settings = MODELS["qwen3_moe"]
    first = place / "first"
    shutil.copytree(bootstrap.ROOT / "tests/data/architectures" / settings["tokenizer"], first)
    (first / "config.json").write_text(json.dumps(settings["config"]))
    import torch
    made = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(first))
    made.load_state_dict({k: torch.tensor(weights(k, tuple(v.shape), settings["config"]))
                          for k, v in made.state_dict().items()})
    made.save_pretrained(place / "model")
    for path in first.glob("*token*"):
        shutil.copy(path, place / "model")
