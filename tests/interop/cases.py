"""cases.py - a golden case again, its model saved by PyTorch in shards with an index, its adapter as adapter_model.bin.

usage: python3 cases.py GOLDEN FOLDER CASE_DIR...
Needs torch alone. Last line: N passed, N failed. Exit status 1 if anything failed."""
import json
import os
import shutil
import subprocess
import sys

import torch

import st

golden, folder = sys.argv[1:3]
passed = failed = 0
for case in sys.argv[3:]:
    to = os.path.join(folder, "case")
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(case, to, copy_function=shutil.copyfile)
    for d in (to, os.path.join(to, "ref")):
        path = os.path.join(d, "model.safetensors")
        if not os.path.exists(path):
            continue
        tensors = st.load(path)
        where = {}
        for i in range(3):
            name = "pytorch_model-%05d-of-00003.bin" % (i + 1)
            part = {k: t for j, (k, t) in enumerate(tensors.items()) if j % 3 == i}
            where.update({k: name for k in part})
            torch.save(part, os.path.join(d, name), _use_new_zipfile_serialization=i != 1)
        with open(os.path.join(d, "pytorch_model.bin.index.json"), "w") as f:
            json.dump({"metadata": {"total_size": 0}, "weight_map": where}, f)
        os.remove(path)
    path = os.path.join(to, "adapter", "adapter_model.safetensors")
    if os.path.exists(path):
        torch.save(st.load(path), path.replace(".safetensors", ".bin"))
        os.remove(path)
    p = subprocess.run([golden, to], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    passed += p.returncode == 0
    failed += p.returncode != 0
    if p.returncode:
        print("FAIL %s: %s" % (case, p.stdout.decode(errors="replace")[-600:]))
print("%d passed, %d failed" % (passed, failed))
sys.exit(failed != 0)
