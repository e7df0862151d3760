#!/bin/sh
# libllama of llama.cpp v0.4.0 (as @node-llama-cpp/linux-x64 3.21.1 ships it), with a model
# of architecture gemma3 whose file lists which of its blocks attend to a sliding window
# (gemma3.attention.sliding_window_pattern, one truth value per block, which the gguf
# package writes with add_sliding_window_pattern): the list is not read. The library takes
# every sixth block for one without a window, whatever the file says, and does not say so.
# Version v0.5.0 (3.22.1) reads the list.
#
# Seen: two files that differ in that list alone, six blocks with windows of 8 positions
# but the last, and one block with a window but the last, have logits after 60 tokens that
# differ by whole numbers in v0.5.0, and are equal to the bit in v0.4.0. One file has thus
# other answers in the two versions.
#
# Why it matters: a span of a model's blocks, or a model with fewer blocks than its maker's,
# is a file whose blocks are counted from 0; the list is how such a file says what they are.
# shoal writes the list into the files of its spans, and has versions before v0.5.0 compute
# whole models only.
#
# Needs Linux on x86-64, npm and Python 3 with pip; fails if the behaviour is another.
set -eu
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"
for version in 3.21.1 3.22.1; do
	npm pack --silent @node-llama-cpp/linux-x64@$version >/dev/null
	mkdir $version
	tar xzf node-llama-cpp-linux-x64-$version.tgz -C $version
done
python3 -m venv env
env/bin/pip install -q --disable-pip-version-check gguf==0.19.0 numpy==2.2.6
cat > model.py <<'PY'
# A model of random weights, which are the same in every file.
import sys
import gguf, numpy as np

blocks, width, heads, kv, head, ff, vocab = 6, 256, 4, 2, 64, 512, 64
name, windows = sys.argv[1], [c == "w" for c in sys.argv[2]]
rng = np.random.default_rng(1)
w = gguf.GGUFWriter(name, "gemma3")
w.add_block_count(blocks)
w.add_context_length(512)
w.add_embedding_length(width)
w.add_feed_forward_length(ff)
w.add_head_count(heads)
w.add_head_count_kv(kv)
w.add_key_length(head)
w.add_value_length(head)
w.add_layer_norm_rms_eps(1e-6)
w.add_rope_freq_base(1e6)
w.add_sliding_window(8)
w.add_sliding_window_pattern(windows)
w.add_tokenizer_model("no_vocab")
w.add_vocab_size(vocab)

def matrix(name, inward, outward, scale=None):
    w.add_tensor(name, (rng.standard_normal((outward, inward)) * (scale or inward ** -0.5)).astype(np.float32))

def ones(name, n):
    w.add_tensor(name, (1 + 0.1 * rng.standard_normal(n)).astype(np.float32))

matrix("token_embd.weight", width, vocab, 1)
ones("output_norm.weight", width)
for i in range(blocks):
    b = f"blk.{i}."
    ones(b + "attn_norm.weight", width)
    matrix(b + "attn_q.weight", width, head * heads)
    matrix(b + "attn_k.weight", width, head * kv)
    matrix(b + "attn_v.weight", width, head * kv)
    matrix(b + "attn_output.weight", head * heads, width)
    ones(b + "attn_q_norm.weight", head)
    ones(b + "attn_k_norm.weight", head)
    ones(b + "post_attention_norm.weight", width)
    ones(b + "ffn_norm.weight", width)
    matrix(b + "ffn_gate.weight", width, ff)
    matrix(b + "ffn_up.weight", width, ff)
    matrix(b + "ffn_down.weight", ff, width)
    ones(b + "post_ffw_norm.weight", width)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
PY
cat > ask.py <<'PY'
import ctypes as c, glob, os, sys
import numpy as np

where, version = os.path.abspath(sys.argv[1] + "/package/bins/linux-x64"), sys.argv[2]
for name in ("libggml-base.so", f"libggml.{version}.so"):
    ggml = c.CDLL(os.path.join(where, name), c.RTLD_GLOBAL)
lib = c.CDLL(os.path.join(where, f"libllama.{version}.so"))

class Params(c.Structure):  # larger than the library's, which uses the beginning
    _fields_ = [("words", c.c_uint32 * 128)]

class Batch(c.Structure):
    _fields_ = [("n", c.c_int32)] + [(f, c.c_void_p) for f in ("token", "embd", "pos", "n_seq", "seq", "logits")]

quiet = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)
lib.llama_log_set(quiet, None)
for f, result, args in (
    ("llama_model_default_params", Params, []), ("llama_context_default_params", Params, []),
    ("llama_model_load_from_file", c.c_void_p, [c.c_char_p, Params]), ("llama_init_from_model", c.c_void_p, [c.c_void_p, Params]),
    ("llama_batch_get_one", Batch, [c.POINTER(c.c_int32), c.c_int32]), ("llama_decode", c.c_int32, [c.c_void_p, Batch]),
    ("llama_get_logits_ith", c.POINTER(c.c_float), [c.c_void_p, c.c_int32]),
    ("llama_set_n_threads", None, [c.c_void_p, c.c_int32, c.c_int32]),
):
    getattr(lib, f).restype, getattr(lib, f).argtypes = result, args
ggml.ggml_backend_load_all_from_path(where.encode())

def logits(file):
    model = lib.llama_model_load_from_file(file, lib.llama_model_default_params())
    assert model
    ctx = lib.llama_init_from_model(model, lib.llama_context_default_params())
    lib.llama_set_n_threads(ctx, 1, 1)
    tokens = (c.c_int32 * 60)(*[(7 * k) % 60 for k in range(60)])
    assert lib.llama_decode(ctx, lib.llama_batch_get_one(tokens, 60)) == 0
    return np.array(lib.llama_get_logits_ith(ctx, -1)[:64])

off = np.abs(logits(b"five.gguf") - logits(b"one.gguf")).max()
print(version + ": two lists of windows, and the logits are", "equal" if off == 0 else "others" if off > 0.5 else f"off by {off}")
PY
env/bin/python model.py five.gguf wwwww.
env/bin/python model.py one.gguf ....w.
env/bin/python ask.py 3.21.1 v0.4.0 >out
env/bin/python ask.py 3.22.1 v0.5.0 >>out
cat out
cat >want <<'WANT'
v0.4.0: two lists of windows, and the logits are equal
v0.5.0: two lists of windows, and the logits are others
WANT
cmp out want && echo "as described"
