#!/bin/sh
# libllama of llama.cpp v0.5.0 (as @node-llama-cpp/linux-x64 3.22.1 ships it), with a model
# of architecture cogvlm and a batch in which logits are asked for after some rows only: the
# logits that llama_get_logits_ith returns for the n-th of these rows are those of the n-th
# row of the batch.
#
# Seen: 20 tokens in one batch, with logits after the last row alone, as llama_batch_get_one
# asks for them, have after the last row the logits of the first one, to the bit. With
# logits after every row, those after the last one are others. The same with architecture
# llama: the logits after the last row are the same both ways.
#
# Why it matters: every program that reads a prompt asks for logits after its last token
# alone, so the first token of an answer continues the prompt's first token. All later
# tokens are right, since their batches have one row. shoal asks for the logits of all rows
# of such models.
#
# Needs Linux on x86-64, npm and Python 3 with pip; fails if the behaviour is another.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
npm pack --silent @node-llama-cpp/linux-x64@3.22.1 >/dev/null
tar xzf node-llama-cpp-linux-x64-3.22.1.tgz
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check gguf==0.19.0 numpy==2.2.6
cat > model.py <<'PY'
# A small model of random weights.
import sys
import gguf, numpy as np

arch = sys.argv[1]
blocks, width, heads, ff, vocab = 4, 256, 4, 512, 64
head = width // heads
rng = np.random.default_rng(1)
w = gguf.GGUFWriter(arch + ".gguf", arch)
w.add_block_count(blocks)
w.add_context_length(512)
w.add_embedding_length(width)
w.add_feed_forward_length(ff)
w.add_head_count(heads)
w.add_head_count_kv(heads)
w.add_layer_norm_rms_eps(1e-6)
w.add_tokenizer_model("no_vocab")
w.add_vocab_size(vocab)

def matrix(name, inward, outward, scale=None):
    w.add_tensor(name, (rng.standard_normal((outward, inward)) * (scale or inward ** -0.5)).astype(np.float32))

def ones(name, n):
    w.add_tensor(name, (1 + 0.1 * rng.standard_normal(n)).astype(np.float32))

matrix("token_embd.weight", width, vocab, 1)
ones("output_norm.weight", width)
matrix("output.weight", width, vocab, 0.3)
for i in range(blocks):
    b = f"blk.{i}."
    ones(b + "attn_norm.weight", width)
    ones(b + "ffn_norm.weight", width)
    matrix(b + "attn_output.weight", width, width)
    for name, inward, outward in (("gate", width, ff), ("up", width, ff), ("down", ff, width)):
        matrix(b + f"ffn_{name}.weight", inward, outward)
        if arch == "cogvlm":  # what pictures are computed with
            matrix(b + f"vis_{name}.weight", inward, outward)
    if arch == "cogvlm":
        matrix(b + "attn_qkv.weight", width, 3 * width)
        matrix(b + "vis_attn_qkv.weight", width, 3 * width)
        matrix(b + "vis_attn_output.weight", width, width)
    else:
        for name in "qkv":
            matrix(b + f"attn_{name}.weight", width, width)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
PY
cat > ask.py <<'PY'
import ctypes as c, os
import numpy as np

where = os.path.abspath("package/bins/linux-x64")
for name in ("libggml-base.so", "libggml.v0.5.0.so"):
    ggml = c.CDLL(os.path.join(where, name), c.RTLD_GLOBAL)
lib = c.CDLL(os.path.join(where, "libllama.v0.5.0.so"))

class Params(c.Structure):  # larger than the library's, which uses the beginning
    _fields_ = [("words", c.c_uint32 * 128)]

class Batch(c.Structure):
    _fields_ = [("n", c.c_int32), ("token", c.POINTER(c.c_int32))] + [(f, c.c_void_p) for f in ("embd", "pos", "n_seq", "seq")] + [("logits", c.POINTER(c.c_int8))]

quiet = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)
lib.llama_log_set(quiet, None)
for f, result, args in (
    ("llama_model_default_params", Params, []), ("llama_context_default_params", Params, []),
    ("llama_model_load_from_file", c.c_void_p, [c.c_char_p, Params]), ("llama_init_from_model", c.c_void_p, [c.c_void_p, Params]),
    ("llama_decode", c.c_int32, [c.c_void_p, Batch]), ("llama_get_logits_ith", c.POINTER(c.c_float), [c.c_void_p, c.c_int32]),
    ("llama_set_n_threads", None, [c.c_void_p, c.c_int32, c.c_int32]),
):
    getattr(lib, f).restype, getattr(lib, f).argtypes = result, args
ggml.ggml_backend_load_all_from_path(where.encode())
n = 20
tokens = (c.c_int32 * n)(*[(7 * k + 3) % 60 for k in range(n)])

def logits(model, rows):
    """of each of the rows for which they are asked"""
    ctx = lib.llama_init_from_model(model, lib.llama_context_default_params())
    lib.llama_set_n_threads(ctx, 1, 1)
    batch = Batch(n=n, token=tokens, logits=(c.c_int8 * n)(*[k in rows for k in range(n)]))
    assert lib.llama_decode(ctx, batch) == 0
    return [np.array(lib.llama_get_logits_ith(ctx, k)[:64]) for k in rows]

for arch in ("llama", "cogvlm"):
    model = lib.llama_model_load_from_file(arch.encode() + b".gguf", lib.llama_model_default_params())
    assert model
    all, last = logits(model, range(n)), logits(model, [n - 1])[0]
    near = [k for k in range(n) if np.abs(all[k] - last).max() < 0.01]
    print(f"{arch}: the logits after row {n - 1} alone are those of row {near}")
PY
env/bin/python model.py llama
env/bin/python model.py cogvlm
env/bin/python ask.py >out
cat out
cat >want <<'WANT'
llama: the logits after row 19 alone are those of row [19]
cogvlm: the logits after row 19 alone are those of row [0]
WANT
cmp out want && echo "as described"
