"""files.py - random state_dicts saved by PyTorch in every way it has, read by tools/formats/torch.h, compared bit for bit.

usage: python3 files.py INTEROP_DUMP FOLDER [COUNT]
Needs torch alone. Last line: N passed, N failed. Exit status 1 if anything failed."""
import collections
import io
import os
import pickle
import random
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib

import torch

import st

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
DTYPES = FLOATS + [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]
dump, folder = sys.argv[1:3]
count = int(sys.argv[3]) if len(sys.argv) > 3 else 60
passed = failed = 0


def result(ok, what, why=""):
    global passed, failed
    passed += ok
    failed += not ok
    if not ok:
        print("FAIL %s: %s" % (what, why))


# ---- making state_dicts
def base(r, dtype, shape):
    t = torch.randn(shape, dtype=torch.float64) * 100
    return t > 0 if dtype == torch.bool else t.to(dtype)


def tensor(r, before):
    """One tensor of any kind; some are views of one that came before."""
    dtype = r.choice(DTYPES)
    shape = [r.choice([0, 1, 2, 3, 5, 7]) if r.random() < .3 else r.randint(1, 6) for _ in range(r.choice([0, 1, 1, 2, 2, 2, 3, 4, 5]))]
    t = base(r, dtype, shape)
    kind = r.randrange(10)
    if kind == 0 and t.dim() > 1:
        t = t.permute(*r.sample(range(t.dim()), t.dim()))
    elif kind == 1 and t.dim():
        d = r.randrange(t.dim())
        t = t.narrow(d, min(1, t.shape[d]), max(t.shape[d] - 1, 0))
    elif kind == 2 and t.dim():
        t = t[tuple(slice(r.randint(0, 1), None, r.randint(1, 3)) for _ in shape)]
    elif kind == 3:
        t = t.unsqueeze(0).expand([r.randint(1, 4)] + shape)
    elif kind == 4 and t.numel() >= 4:
        t = torch.as_strided(t, (2, 2), (1, t.numel() // 4), t.numel() // 4)  # overlaps itself
    elif kind == 5 and before:
        t = r.choice(before)  # tied
    elif kind == 6 and before:
        t = r.choice(before)
        t = t.detach()[1:] if t.dim() else t.detach()
    elif kind == 7 and dtype in FLOATS:
        t = torch.nn.Parameter(t, requires_grad=r.random() < .5)
    before.append(t)
    return t


def flat(r, ordered):
    d = collections.OrderedDict() if ordered else {}
    before = []
    for i in range(r.randint(1, 12)):
        d[r.choice(["layers.%d.weight", "h.%d.attn.bias", "Größe.%d", "x%d", "a b %d"]) % i] = tensor(r, before)
    if ordered:
        d._metadata = collections.OrderedDict([("", {"version": 1}), ("layers", {"version": 2})])
    return d


def state_dict(r, i):
    form = i % 6
    d = flat(r, i % 2)
    if form == 2:
        return {"step_idx": 7, "state": d, "metrics": {"loss": [0.5, float("nan")], "big": 2 ** 70, "neg": -3, "none": None}}
    if form == 3:
        return {"model": d, "optimizer": {"state": {0: {"exp_avg": tensor(r, []), "step": 3}}, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]}}
    if form == 4:
        return [tensor(r, []), (tensor(r, []), {"deep": {"er": tensor(r, [])}}), "text", torch.float16, torch.device("cpu"), torch.Size([2, 3])]
    if form == 5:
        m = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Embedding(5, 2))
        return m.to(r.choice(FLOATS)).state_dict()
    return d


def names(d):
    """The rule of torch.h, again."""
    def walk(x, path):
        if isinstance(x, torch.Tensor):
            yield path, x
        elif isinstance(x, (dict, list, tuple)):
            for k, v in (x.items() if isinstance(x, dict) else enumerate(x)):
                yield from walk(v, path + [str(k)])
    found = list(walk(d, []))
    strip = 0
    if isinstance(d, dict):
        tops = {p[0] for p, _ in found}
        if len(tops) == 1 and isinstance(d[tops.copy().pop()], dict):
            strip = 1
    return {".".join(p[strip:]) or "tensor": t for p, t in found}


# ---- containers
def saved(d, **how):
    b = io.BytesIO()
    torch.save(d, b, **how)
    return b.getvalue()


def rezipped(data, method, force64=False):
    b = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as a, zipfile.ZipFile(b, "w", method) as z:
        for e in a.infolist():
            with z.open(zipfile.ZipInfo(e.filename), "w", force_zip64=force64) if method == zipfile.ZIP_STORED else z.open(e.filename, "w") as f:
                f.write(a.read(e))
    return b.getvalue()


def zip64(f, entries):
    """Writes (name, bytes or a size to leave empty) with every size and offset in its zip64 form."""
    directory = b""
    for name, data in entries:
        name = name.encode()
        size, crc = (data, 0) if isinstance(data, int) else (len(data), zlib.crc32(data))
        at = f.tell()
        f.write(struct.pack("<4s5H3L2H", b"PK\3\4", 45, 0, 0, 0, 0, crc, 2 ** 32 - 1, 2 ** 32 - 1, len(name), 20) + name)
        f.write(struct.pack("<2H2Q", 1, 16, size, size))
        if isinstance(data, int):
            f.seek(size, os.SEEK_CUR)
        else:
            f.write(data)
        directory += struct.pack("<4s6H3L5H2L", b"PK\1\2", 45, 45, 0, 0, 0, 0, crc, 2 ** 32 - 1, 2 ** 32 - 1, len(name), 28, 0, 0, 0, 0,
                                 2 ** 32 - 1) + name + struct.pack("<2H3Q", 1, 24, size, size, at)
    at = f.tell()
    f.write(directory)
    end = f.tell()
    f.write(struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, len(entries), len(entries), len(directory), at))
    f.write(struct.pack("<4sLQL", b"PK\6\7", 0, end, 1))
    f.write(struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2 ** 16 - 1, 2 ** 16 - 1, 2 ** 32 - 1, 2 ** 32 - 1, 0))


def all_zip64(data):
    b = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as a:
        zip64(b, [(e.filename, a.read(e)) for e in a.infolist()])
    return b.getvalue()


# ---- comparing
def read(path, *name):
    out = os.path.join(folder, "out.safetensors")
    p = subprocess.run([dump, "torch", path, out] + list(name), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if p.returncode:
        raise RuntimeError(p.stdout.decode(errors="replace").strip() or "exit status %d" % p.returncode)
    return st.load(out)


def differs(got, want):
    if sorted(got) != sorted(want):
        return "names %s, expected %s" % (sorted(got), sorted(want))
    for k, t in want.items():
        g = got[k]
        if g.dtype != t.dtype or g.shape != t.shape or st.bits(g) != st.bits(t):
            return "%s: %s %s, expected %s %s, or other bits" % (k, g.dtype, list(g.shape), t.dtype, list(t.shape))
    return ""


def compare(what, data, want):
    path = os.path.join(folder, "in.bin")
    with open(path, "wb") as f:
        f.write(data)
    try:
        why = differs(read(path), want)
    except (RuntimeError, AssertionError) as e:
        why = str(e)
    result(not why, what, why)


def random_files():
    for i in range(count):
        r = random.Random(i)
        torch.manual_seed(i)
        d = state_dict(r, i)
        want, z = names(d), saved(d)
        compare("state_dict %d, zip" % i, z, want)
        compare("state_dict %d, legacy" % i, saved(d, _use_new_zipfile_serialization=False), want)
        compare("state_dict %d, deflated" % i, rezipped(z, zipfile.ZIP_DEFLATED), want)
        compare("state_dict %d, zip64" % i, all_zip64(z), want)
        compare("state_dict %d, zip64 headers" % i, rezipped(z, zipfile.ZIP_STORED, True), want)
        for protocol in (1, 3, 4, 5):
            if i % 4 == protocol % 4:
                compare("state_dict %d, protocol %d" % (i, protocol), saved(d, pickle_protocol=protocol), want)
                if protocol > 1:
                    compare("state_dict %d, legacy, protocol %d" % (i, protocol),
                            saved(d, pickle_protocol=protocol, _use_new_zipfile_serialization=False), want)


def one_tensor():
    t = torch.arange(6.).reshape(2, 3)
    compare("a tensor alone", saved(t), {"tensor": t})
    compare("an empty dict", saved({}), {})


def refused():
    """What is no state_dict of dense tensors."""
    class Call:
        def __reduce__(self):
            return os.system, ("touch " + os.path.join(folder, "ran"),)
    for what, d, words in (("a call", {"x": Call(), "t": torch.ones(2)}, "posix.system"),
                           ("a module", torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
                           ("complex", {"x": torch.ones(2, dtype=torch.complex64)}, "torch.ComplexFloatStorage"),
                           ("quantised", {"x": torch.quantize_per_tensor(torch.ones(2), .1, 0, torch.qint8)}, "qtensor"),
                           ("sparse", {"x": torch.eye(2).to_sparse()}, "_rebuild_sparse_tensor")):
        for legacy in (False, True):
            path = os.path.join(folder, "in.bin")
            torch.save(d, path, _use_new_zipfile_serialization=not legacy)
            try:
                read(path)
                why = "it was read"
            except RuntimeError as e:
                why = "" if words in str(e) or legacy and "whole module" in str(e) else str(e)
            result(not why, "refusing " + what, why)
    result(not os.path.exists(os.path.join(folder, "ran")), "refusing a call", "it was called")


# ---- files of more than 4 GB, of which almost nothing is written
class Storage:
    def __init__(self, key, size):
        self.key, self.size = key, size


class Tensor:
    def __init__(self, storage, offset, shape):
        self.args = (storage, offset, shape, (1,) * len(shape), False, collections.OrderedDict())

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.args


def pickled(d, legacy):
    class Pickler(pickle.Pickler):
        def persistent_id(self, x):
            if isinstance(x, Storage):
                return ("storage", torch.FloatStorage, x.key, "cpu", x.size) + ((None,) if legacy else ())
    b = io.BytesIO()
    Pickler(b, protocol=2).dump(d)
    return b.getvalue()


def large_files():
    size = 2 ** 30 + 2 ** 20  # floats
    if shutil.disk_usage(folder).free < 12 << 30:
        print("skipped: files of more than 4 GB; they need 12 GB of free disk to be safe")
        return
    end, last = torch.tensor([1., 2., 3., 4.]), torch.tensor([5., 6.])
    big, small = Storage("0", size), Storage("1", 2)
    d = {"end": Tensor(big, size - 4, (4,)), "last": Tensor(small, 0, (2,))}
    want = {"end": end, "last": last}
    path = os.path.join(folder, "large.bin")
    for legacy in (False, True):
        with open(path, "wb") as f:
            if legacy:
                for x in (0x1950a86a20f9469cfc6c, 1001, {"little_endian": True}):
                    f.write(pickle.dumps(x, 2))
                f.write(pickled(d, True) + pickle.dumps(["0", "1"], 2) + struct.pack("<Q", size))
                f.seek(4 * size, os.SEEK_CUR)
                f.write(struct.pack("<Q", 2) + st.bits(last))
            else:
                zip64(f, [("archive/data.pkl", pickled(d, False)), ("archive/data/0", 4 * size), ("archive/data/1", st.bits(last))])
        with open(path, "r+b") as f:  # the big storage's end, just before the headers of what follows
            raw = os.path.getsize(path)
            f.seek(raw - 65536)
            tail = f.read()
            at = raw - 65536 + (len(tail) - 16 if legacy else tail.index(b"PK\3\4"))
            f.seek(at - 16)
            f.write(st.bits(end))
        for name in ("end", "last"):
            try:
                why = differs(read(path, name), {name: want[name]})
            except (RuntimeError, AssertionError) as e:
                why = str(e)
            result(not why, "%s of a %s file of %.1f GB" % (name, "legacy" if legacy else "zip64", raw / 1e9), why)
        os.remove(path)


random_files()
one_tensor()
refused()
large_files()
print("%d passed, %d failed" % (passed, failed))
sys.exit(failed != 0)
