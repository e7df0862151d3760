#!/bin/sh
# libllama of llama.cpp v0.5.0 (as @node-llama-cpp/linux-x64 3.22.1 ships it), with a model
# that has recurrent blocks (architecture qwen35) and a context that keeps 8 copies of a
# sequence's recurrent state (n_rs_seq = 8, the parameter for taking tokens back): the
# copies are of the last call of llama_decode alone, and llama_memory_seq_rm does not say so.
#
# Seen: 40 tokens in one call, 4 of them removed and computed again, give the logits that
# the undisturbed sequence had, to rounding. The same 40 tokens in 40 calls: the removal of
# 4 is accepted as well (the call returns true), and the logits after computing them again
# differ by whole numbers. Without copies (n_rs_seq = 0) the removal is refused.
#
# Why it matters: a caller that believes the answer goes on with the state of another
# text. shoal asks for no such copies, keeps states of its own at known positions, and
# computes the rest again.
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
# A hybrid of random weights: three recurrent blocks, then one with attention.
import gguf, numpy as np

blocks, width, heads, kv, head, ff, vocab = 4, 256, 4, 2, 64, 512, 64
state, groups, ranks, conv = 64, 2, 4, 4
rng = np.random.default_rng(1)
w = gguf.GGUFWriter("model.gguf", "qwen35")
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
w.add_rope_dimension_count(head // 4)
w.add_rope_dimension_sections([3, 3, 2, 0])
w.add_ssm_conv_kernel(conv)
w.add_ssm_inner_size(state * ranks)
w.add_ssm_state_size(state)
w.add_ssm_time_step_rank(ranks)
w.add_ssm_group_count(groups)
w.add_uint32("qwen35.full_attention_interval", 4)
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
    ones(b + "post_attention_norm.weight", width)
    if i % 4 == 3:
        matrix(b + "attn_q.weight", width, 2 * head * heads)
        matrix(b + "attn_k.weight", width, head * kv)
        matrix(b + "attn_v.weight", width, head * kv)
        matrix(b + "attn_output.weight", head * heads, width)
        ones(b + "attn_q_norm.weight", head)
        ones(b + "attn_k_norm.weight", head)
    else:
        keys, values = state * groups, state * ranks
        matrix(b + "attn_qkv.weight", width, 2 * keys + values)
        matrix(b + "attn_gate.weight", width, values)
        matrix(b + "ssm_conv1d.weight", conv, 2 * keys + values)
        ones(b + "ssm_dt.bias", ranks)
        w.add_tensor(b + "ssm_a", -np.exp(rng.standard_normal(ranks)).astype(np.float32))
        matrix(b + "ssm_beta.weight", width, ranks)
        matrix(b + "ssm_alpha.weight", width, ranks)
        ones(b + "ssm_norm.weight", state)
        matrix(b + "ssm_out.weight", values, width)
    matrix(b + "ffn_gate.weight", width, ff)
    matrix(b + "ffn_up.weight", width, ff)
    matrix(b + "ffn_down.weight", ff, width)
w.write_header_to_file()
w.write_kv_data_to_file()
w.write_tensors_to_file()
w.close()
PY
cat > ask.py <<'PY'
import ctypes as c, glob, os
import numpy as np

where = os.path.abspath("package/bins/linux-x64")
for name in ("libggml-base.so", "libggml.v0.5.0.so"):
    ggml = c.CDLL(os.path.join(where, name), c.RTLD_GLOBAL)
lib = c.CDLL(os.path.join(where, "libllama.v0.5.0.so"))

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
    ("llama_get_logits_ith", c.POINTER(c.c_float), [c.c_void_p, c.c_int32]), ("llama_get_memory", c.c_void_p, [c.c_void_p]),
    ("llama_memory_seq_rm", c.c_bool, [c.c_void_p, c.c_int32, c.c_int32, c.c_int32]), ("llama_version", c.c_char_p, []),
    ("llama_free", None, [c.c_void_p]),
):
    getattr(lib, f).restype, getattr(lib, f).argtypes = result, args
ggml.ggml_backend_load_all_from_path(where.encode())
model = lib.llama_model_load_from_file(b"model.gguf", lib.llama_model_default_params())
assert model

def context(copies):
    p = lib.llama_context_default_params()
    p.words[0], p.words[4] = 512, copies  # n_ctx, n_rs_seq
    return lib.llama_init_from_model(model, p)

def put(ctx, first, last, at_once):
    step = last - first if at_once else 1
    for at in range(first, last, step):
        tokens = (c.c_int32 * step)(*[(7 * k) % 60 for k in range(at, at + step)])
        assert lib.llama_decode(ctx, lib.llama_batch_get_one(tokens, step)) == 0

def logits(ctx):
    return np.array(lib.llama_get_logits_ith(ctx, -1)[:64])

def take_back(copies, at_once):
    ctx = context(copies)
    put(ctx, 0, 40, at_once)
    before = logits(ctx)
    if not lib.llama_memory_seq_rm(lib.llama_get_memory(ctx), 0, 36, -1):
        return "refused"
    put(ctx, 36, 40, False)
    off = np.abs(logits(ctx) - before).max()
    lib.llama_free(ctx)
    return "accepted, and then " + ("the same" if off < 0.05 else "another" if off > 0.5 else f"off by {off}")

print("40 tokens in one call, 8 copies:", take_back(8, True))
print("40 tokens in 40 calls, 8 copies:", take_back(8, False))
print("40 tokens in 40 calls, no copies:", take_back(0, False))
PY
env/bin/python model.py
env/bin/python ask.py >out
cat out
cat >want <<'WANT'
40 tokens in one call, 8 copies: accepted, and then the same
40 tokens in 40 calls, 8 copies: accepted, and then another
40 tokens in 40 calls, no copies: refused
WANT
cmp out want && echo "as described"
