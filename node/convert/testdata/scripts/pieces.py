"""Trains small SentencePiece models and prints them with the ids that SentencePiece itself
gives texts, as pieces.json.

    pip install sentencepiece==0.2.3
    python pieces.py > ../pieces.json
"""
import base64
import io
import json
import os
import tempfile

import sentencepiece

corpus = [
    "Once upon a time there was a small fox who lived in the deep forest.",
    "The fox liked to play with the ball, and she ran and ran until the sun went down.",
    "One day the fox met a bird. The bird said: I can fly, can you?",
    "No, said the fox, but I can run faster than the wind in the trees.",
    "Größe, naïve, café and the letters äöü are here as well. 1234567890",
    "They played until it was dark, then they went home and slept in the forest.",
] * 20
texts = [
    "", "a", " a", "a ", "the  fox", "  the   fox  ", "\tthe\nfox\r\n", "the fox ran", "Once upon a time", "Größe café", "ﬁne Ⅷ ｆｕｌｌ", "e\u0301te\u0301",
    "日本語", "日本語 fox 🦊🦊 fox", "\u00a0fox\u3000fox\u200b", "▁fox▁", "<s>fox</s>", "fox<unk>", "1234567890", "x" * 40, "the<mask>fox <mask> end",
]
plain = dict(model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False, byte_fallback=True)
kinds = {
    "plain": plain,
    "no space before": dict(plain, add_dummy_prefix=False),
    "no bytes": dict(plain, byte_fallback=False, vocab_size=120),
    "symbols": dict(plain, add_dummy_prefix=False, user_defined_symbols=["<mask>"]),
    "extra spaces": dict(plain, remove_extra_whitespaces=True),
    "composed": dict(plain, normalization_rule_name="rules"),
    "spaces not escaped": dict(plain, escaped=False),
    "spaces at the end": dict(plain, treat_whitespace_as_suffix=True),
    "unigram": dict(plain, model_type="unigram"),
}
out = {}
with tempfile.TemporaryDirectory() as tmp:
    rules = os.path.join(tmp, "rules.tsv")
    with open(rules, "w") as f:
        f.write("FB01\t66 69\n65 301\tE9\n9\t20\n")  # a few of NFKC's: all of them take 240 KB
    for name, kind in kinds.items():
        kind = dict(kind)
        if kind["normalization_rule_name"] == "rules":
            del kind["normalization_rule_name"]
            kind["normalization_rule_tsv"] = rules
        escaped = kind.pop("escaped", True)
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus), model_writer=model, vocab_size=kind.pop("vocab_size", 360), hard_vocab_limit=False,
            minloglevel=2, num_threads=1, **kind)
        raw = model.getvalue()
        if not escaped:  # the trainer has no option for it
            from sentencepiece import sentencepiece_model_pb2 as pb
            m = pb.ModelProto.FromString(raw)
            m.normalizer_spec.escape_whitespaces = False
            raw = m.SerializeToString()
        sp = sentencepiece.SentencePieceProcessor(model_proto=raw)
        out[name] = {"model": base64.b64encode(raw).decode(), "ids": [sp.encode(t) for t in texts]}
print(json.dumps({"texts": texts, "models": out}, ensure_ascii=True))
