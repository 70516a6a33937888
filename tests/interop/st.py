"""safetensors by its rules, without the package: eight bytes of length, a JSON header, the tensors' bytes end to end."""
import json
import struct

import torch

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
          "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}


def load(path):
    raw = open(path, "rb").read()
    size, = struct.unpack("<Q", raw[:8])
    header = json.loads(raw[8:8 + size])
    header.pop("__metadata__", None)
    tensors, at = {}, 0
    for name, e in sorted(header.items(), key=lambda x: x[1]["data_offsets"]):
        begin, end = e["data_offsets"]
        assert begin == at, "%s: %s leaves a gap" % (path, name)
        at = end
        t = torch.empty(e["shape"], dtype=DTYPES[e["dtype"]])
        assert end - begin == t.numel() * t.element_size(), "%s: size of %s" % (path, name)
        if t.numel():
            t = torch.frombuffer(bytearray(raw[8 + size + begin:8 + size + end]), dtype=t.dtype).reshape(e["shape"])
        tensors[name] = t
    assert 8 + size + at == len(raw), "%s: bytes after the last tensor" % path
    return tensors


def bits(t):
    """The bytes of a tensor's elements in row-major order."""
    t = t.detach().contiguous()
    if t.dtype == torch.bfloat16:
        t = t.view(torch.int16)
    return t.numpy().tobytes()
