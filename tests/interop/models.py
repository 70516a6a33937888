"""models.py - tiny models and adapters trained and written by dpo-train, loaded into torch tensors by safetensors' rules,
and a forward pass of an independent implementation in float64 (the oracle) compared with dpo.h's logits.

usage: python3 models.py DPO_TRAIN INTEROP_DUMP FOLDER ORACLE
Needs torch alone, and ORACLE, a directory with oracle/models.py and oracle/lora.py. Last line: N passed, N failed."""
import json
import os
import shutil
import subprocess
import sys

import torch

import st

train, dump, folder, oracle = sys.argv[1:5]
sys.path.insert(0, oracle)
from oracle import lora, models  # noqa: E402

COMMON = {"vocab_size": 257, "eos_token_id": 256, "bos_token_id": 256, "dpo_tokenizer": "bytes", "initializer_range": 0.2}
GPT2 = {"n_embd": 24, "n_layer": 2, "n_head": 3, "n_positions": 64}
LLAMA = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 40,
         "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "hidden_act": "silu", "rope_theta": 10000.0}
CONFIGS = {
    "gpt_neox": {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "rotary_pct": 0.25,
                 "max_position_embeddings": 64, "layer_norm_eps": 1e-5, "use_parallel_residual": True, "hidden_act": "gelu",
                 "tie_word_embeddings": False},
    "gpt2": dict(GPT2, activation_function="gelu_new", layer_norm_epsilon=1e-5),
    "btlm": dict(GPT2, n_inner=64, activation_function="swiglu", position_embedding_type="alibi", layer_norm_epsilon=1e-5,
                 mup_width_scale=0.5, mup_embeddings_scale=3.0, mup_output_alpha=2.0, mup_scale_qk_dot_by_d=True),
    "llama": dict(LLAMA, tie_word_embeddings=False),
    "qwen2": dict(LLAMA, tie_word_embeddings=True),
}
IDS = [72, 101, 108, 108, 111, 32, 119, 111, 114, 108, 100, 256, 0, 255, 10, 33]
passed = failed = 0


def result(ok, what, why=""):
    global passed, failed
    passed += ok
    failed += not ok
    if not ok:
        print("FAIL %s: %s" % (what, why))


def run(*command):
    p = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if p.returncode:
        raise RuntimeError("%s: %s" % (command[0], p.stdout.decode(errors="replace").strip()[-300:]))


def logits(model, adapter="-"):
    out = os.path.join(folder, "logits.safetensors")
    run(dump, "logits", model, adapter, ",".join(map(str, IDS)), out)
    return st.load(out)["logits"].double()


def compare(what, model, adapter=None, dtype=None):
    tensors = st.load(os.path.join(model, "model.safetensors"))
    config = json.load(open(os.path.join(model, "config.json")))
    kinds = {t.dtype for t in tensors.values()}
    adapted = None
    if adapter:
        _, adapted = lora.load_adapter(adapter, torch.float64)
        moved = sum(float(a["B"].abs().sum()) for a in adapted.values())
        if not moved:
            return result(False, what, "the adapter does nothing")
    want = models.Model(config, tensors, torch.float64, lora=adapted).forward(torch.tensor([IDS]))[0]
    got = logits(model, adapter or "-")
    error = float((got - want).norm() / want.norm()) if got.shape == want.shape else float("nan")
    result(error < 2e-5 and (not dtype or kinds == {dtype}), what, "relative error %g, weights of %s" % (error, kinds))


def family(name):
    d = os.path.join(folder, name)
    shutil.rmtree(d, ignore_errors=True)
    os.makedirs(d)
    config, data = os.path.join(d, "init.json"), os.path.join(d, "pairs.jsonl")
    json.dump(dict(COMMON, model_type=name, **CONFIGS[name]), open(config, "w"))
    with open(data, "w") as f:
        for i in range(8):
            f.write(json.dumps({"prompt": "Q%d?" % i, "chosen": " yes %d" % i, "rejected": " no"}) + "\n")
    options = ["--train", data, "--batch-size", "4", "--max-length", "32", "--max-prompt-length", "16", "--eval-fraction", "0",
               "--learning-rate", "1e-2", "--warmup-steps", "0", "--quiet"]
    whole, half, adapter = (os.path.join(d, x) for x in ("whole", "half", "adapter"))
    run(train, "sft", "--init", config, "--output", whole, *options)
    compare(name + ", trained whole", whole, dtype=torch.float32)
    run(train, "dpo", "--model", whole, "--output", half, "--precision", "bf16", *options)
    compare(name + ", trained in bf16", half, dtype=torch.bfloat16)
    run(train, "dpo", "--model", whole, "--output", adapter, "--lora-r", "4", "--merge", *options)
    st.load(os.path.join(adapter, "adapter", "adapter_model.safetensors"))
    compare(name + ", adapter", whole, os.path.join(adapter, "adapter"))
    compare(name + ", merged", adapter, dtype=torch.float32)


for name in CONFIGS:
    try:
        family(name)
    except (RuntimeError, AssertionError, KeyError, OSError) as e:
        result(False, name, repr(e))
print("%d passed, %d failed" % (passed, failed))
sys.exit(failed != 0)
