"""Prints the SHA-256 of matrices that PyPI's gguf quantizes to q8_0, as quants.json.

    pip install gguf==0.19.0
    python quants.py > ../quants.json

The numbers are those of numbers() in numbers_test.go: every block of 32 has a scale of
its own, from far below F16's smallest number to above its largest.
"""
import hashlib
import json

import gguf
import numpy as np


def numbers(n):
    i = np.arange(n, dtype=np.uint64)
    unit = ((i * 2654435761) % (1 << 32)).astype(np.float64) / (1 << 32) - 0.5
    scale = np.float64(2) ** ((i // 32) % 48).astype(np.float64) * 2.0 ** -28
    return (unit * scale).astype(np.float32)


def bf16(x):
    return (x.view(np.uint32) & 0xFFFF0000).view(np.float32)


def permuted(x, heads):  # as converters store Llama's queries and keys
    return x.reshape(heads, 2, x.shape[0] // heads // 2, x.shape[1]).swapaxes(1, 2).reshape(x.shape)


def quantized(x):
    return hashlib.sha256(gguf.quantize(x, gguf.GGMLQuantizationType.Q8_0).tobytes()).hexdigest()


width, heads, kv, inner = 256, 4, 2, 512
down, q, k = numbers(width * inner).reshape(width, inner), numbers(width * width).reshape(width, width), numbers(width * width // 2).reshape(width // 2, width)
print(json.dumps({
    "F32": {"ffn_down": quantized(down), "attn_q": quantized(permuted(q, heads)), "attn_k": quantized(permuted(k, kv))},
    "BF16": {"ffn_down": quantized(bf16(down)), "attn_q": quantized(permuted(bf16(q), heads)), "attn_k": quantized(permuted(bf16(k), kv))},
}, indent=1))
