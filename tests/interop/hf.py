"""hf.py - a model or adapter written by dpo.h, loaded by transformers and PEFT, and their logits compared with dpo.h's.

usage: python3 hf.py INTEROP_DUMP FOLDER MODEL_DIR [ADAPTER_DIR]
For machines with current transformers and, for adapters, PEFT; `make interop` does not run it, and it has not been run
where this project is developed, which has neither. INTEROP_DUMP is build/tests/interop-dump, MODEL_DIR what dpo-train or
dpo_model_save wrote (of a family that transformers has built in: GPT-NeoX, GPT-2, Llama, Qwen2), ADAPTER_DIR the
directory of its adapter_config.json. FOLDER receives a file of logits. Weights of any type are computed with in float32
on both sides. Last line: N passed, N failed. Exit status 1 if anything failed."""
import os
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM

import st

TOLERANCE = 1e-4  # relative, of float32 sums in another order


def main():
    dump, folder, model_dir = sys.argv[1:4]
    adapter_dir = sys.argv[4] if len(sys.argv) > 4 else None
    model = AutoModelForCausalLM.from_pretrained(model_dir).float().eval()
    if adapter_dir:
        from peft import PeftModel
        model = PeftModel.from_pretrained(model, adapter_dir).eval()
    vocab = model.get_input_embeddings().weight.shape[0]
    ids = [(7919 * i + 13) % vocab for i in range(24)]
    with torch.no_grad():
        want = model(input_ids=torch.tensor([ids])).logits[0].double()
    out = os.path.join(folder, "logits.safetensors")
    p = subprocess.run([dump, "logits", model_dir, adapter_dir or "-", ",".join(map(str, ids)), out],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if p.returncode:
        print("FAIL %s: %s" % (model_dir, p.stdout.decode(errors="replace").strip()))
        return False
    got = st.load(out)["logits"].double()
    if got.shape != want.shape:
        print("FAIL %s: logits of shape %s, transformers has %s" % (model_dir, list(got.shape), list(want.shape)))
        return False
    error = float((got - want).norm() / want.norm())
    ok = error < TOLERANCE  # false for NaN
    print("%s %s%s: relative error of the logits %.3g" % ("ok  " if ok else "FAIL", model_dir,
                                                         " with " + adapter_dir if adapter_dir else "", error))
    return ok


ok = main()
print("%d passed, %d failed" % (ok, not ok))
sys.exit(not ok)
