package convert

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

// FuzzSafetensors: accepted tensors lie inside the file and do not overlap.
func FuzzSafetensors(f *testing.F) {
	seed := func(head string, data int) {
		raw := binary.LittleEndian.AppendUint64(nil, uint64(len(head)))
		f.Add(append(append(raw, head...), make([]byte, data)...))
	}
	seed(`{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"__metadata__":{"format":"pt"}}`, 32)
	seed(`{"a":{"dtype":"F32","shape":[9223372036854775807,3],"data_offsets":[0,24]}}`, 24)
	seed(`{"a":{"dtype":"F16","shape":[],"data_offsets":[0,2]}}`, 2)
	seed(`{}`, 0)
	f.Fuzz(func(t *testing.T, raw []byte) {
		ts, err := readSafetensors(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		room := int64(len(raw)) - 8 - int64(binary.LittleEndian.Uint64(raw))
		var sum int64
		for name, s := range ts {
			n := numberSize[s.DType]
			for _, d := range s.Shape {
				n *= d
			}
			if n <= 0 || s.Offsets[1]-s.Offsets[0] != n || s.Offsets[0] < 0 || s.Offsets[1] > room {
				t.Fatalf("%q: %+v in %d bytes", name, s, room)
			}
			sum += n
		}
		if sum > room {
			t.Fatalf("%d bytes of tensors in %d", sum, room)
		}
	})
}

// FuzzDirectory: no config and no tokenizer crashes the reader.
func FuzzDirectory(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	f.Add([]byte(`{"architectures":["LlamaForCausalLM"],"hidden_size":8,"num_hidden_layers":1,"num_attention_heads":1,"rope_parameters":{"rope_theta":1,"rope_type":"linear"}}`), []byte(`{"model":{"type":"BPE","vocab":{"a":0}},"pre_tokenizer":{"type":"ByteLevel","use_regex":true,"add_prefix_space":false}}`), []byte(`{"weight_map":{"a":"b.safetensors"}}`))
	f.Add([]byte(`{"architectures":["Qwen3ForCausalLM"],"text_config":{"hidden_size":8}}`), []byte(`{"post_processor":{"type":"Sequence","processors":[null,{"type":"TemplateProcessing","single":[{}]}]}}`), []byte(`{}`))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, conf, tok, index []byte) {
		for name, raw := range map[string][]byte{"config.json": conf, "tokenizer.json": tok, indexName: index} {
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if c, err := readConfig(dir); err == nil && !json.Valid(c.files["config.json"]) {
			t.Fatalf("the library would read %q", c.files["config.json"])
		}
		if v, err := readVocabulary(dir); err == nil && v.json != nil {
			v.json.around()
			md := &metadata{}
			md.set("tokenizer.ggml.tokens", []string{"a", "b"})
			md.set("tokenizer.ggml.token_type", []int32{1, 1})
			_ = v.mend(dir, md)
		}
		_, _, _ = weights(dir)
	})
}

// FuzzPooling: no steps behind an encoder crash the reader, or have it read elsewhere.
func FuzzPooling(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	f.Add([]byte(`[{"type":"sentence_transformers.models.Transformer","path":""},{"type":"a.Pooling","path":"1_Pooling"}]`), []byte(`{"pooling_mode_cls_token":true}`))
	f.Add([]byte(`[{"type":"Pooling","path":"../1_Pooling"}]`), []byte(`{"pooling_mode_mean_tokens":1}`))
	f.Add([]byte(`{}`), []byte(`[]`))
	dir := filepath.Join(f.TempDir(), "model")
	if err := os.MkdirAll(filepath.Join(dir, "1_Pooling"), 0o755); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, modules, pool []byte) {
		for name, raw := range map[string][]byte{"modules.json": modules, "1_Pooling/config.json": pool} {
			if err := os.WriteFile(filepath.Join(dir, name), raw, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if kind, err := pooling(dir); err == nil && kind != poolMean && kind != poolCLS {
			t.Fatal(kind)
		}
	})
}
