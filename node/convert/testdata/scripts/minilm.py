# minilm.py MODEL.onnx TOKENIZER.json > ../minilm.json: embeddings of all-MiniLM-L6-v2 by
# ONNX Runtime. It needs the packages onnxruntime, tokenizers and numpy.
import base64, json, sys
import numpy, onnxruntime, tokenizers

TEXTS = [
    "hello world", "Ünïcödé façade naïve café", "日本語のテキスト and English", "emoji 😀 here", "a\tb\nc   d", "don't stop -- believin'!",
    "The quick brown fox jumps over the lazy dog.", "1,234.56 € on 2024-01-02 at https://example.org/a?b=c",
    "Machines of many owners compute one model together. " * 25,
]
session = onnxruntime.InferenceSession(sys.argv[1])
tokenizer = tokenizers.Tokenizer.from_file(sys.argv[2])
tokenizer.no_padding()
tokenizer.no_truncation()
out = []
for text in TEXTS:
    ids = numpy.array([tokenizer.encode(text).ids], dtype=numpy.int64)
    hidden = session.run(None, {"input_ids": ids, "attention_mask": numpy.ones_like(ids), "token_type_ids": numpy.zeros_like(ids)})[0][0]
    mean = hidden.mean(0)
    vector = (mean / numpy.linalg.norm(mean)).astype("<f4")
    out.append({"text": text, "tokens": ids.shape[1], "embedding": base64.b64encode(vector.tobytes()).decode()})
json.dump(out, sys.stdout, ensure_ascii=False, indent=0)
