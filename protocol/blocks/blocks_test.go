package blocks

import (
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/protocol"
)

type header map[string]any

func (h header) Value(key string) any { return h[key] }

// of makes a header of an architecture's keys.
func of(arch string, blocks int, pairs ...any) header {
	h := header{"general.architecture": arch, arch + ".block_count": uint32(blocks), arch + ".attention.head_count": uint32(8), arch + ".embedding_length": uint32(512)}
	for i := 0; i < len(pairs); i += 2 {
		h[arch+"."+pairs[i].(string)] = pairs[i+1]
	}
	return h
}

func TestCutsByArchitecture(t *testing.T) {
	hybrid := []uint32{0, 2, 0, 2, 0, 2}
	for _, c := range []struct {
		name          string
		md            header
		yes, no, text string
	}{
		{"plain", of("llama", 6), "0-1 2-5 5-6", "", ""},
		{"unknown", of("tomorrow", 6), "0-1 2-5 5-6", "", ""},
		{"window", of("gemma3", 18, "attention.sliding_window", uint32(512)), "0-6 6-12 0-3 0-1 4-6 5-7 9-18", "5-6 11-12 17-18", "attends to a window"},
		{"no window", of("gemma3", 18), "0-3 5-6 17-18", "", ""},
		{"flags", of("gemma4", 4, "attention.sliding_window_pattern", []bool{true, false, true, false}), "0-2 2-4 1-3", "0-1 1-2 3-4", "whole text (1 or 3) and a block that attends to a window (0 or 2)"},
		{"all with a window", of("gemma4", 3, "attention.sliding_window_pattern", []bool{true, true, true}), "0-1", "", ""},
		{"period of its own", of("cohere2", 6, "attention.sliding_window_pattern", uint32(3)), "0-2 3-6 2-4", "2-3 5-6", ""},
		{"first of a period", of("laguna", 8, "attention.sliding_window", int32(64)), "0-2 1-4 4-8", "0-1 4-5", ""},
		{"27B", of("gemma3", 62, "attention.sliding_window", uint32(1024), "attention.key_length", uint32(128)), "0-62", "0-31", "how many blocks"},
		{"no 62 of more", of("gemma3", 70, "attention.sliding_window", uint32(1024), "attention.key_length", uint32(128)), "0-35 35-70", "0-62", "does not have 62 blocks"},
		{"27B with an even scale", of("gemma3", 62, "attention.sliding_window", uint32(1024), "attention.key_length", uint32(64)), "0-23 0-62", "5-6", ""},
		{"scaled inputs", of("gemma2", 26), "0-26", "0-13", "enters the first block"},
		{"interval", of("qwen35", 8), "0-4 4-8 3-5", "0-3 3-4", "a recurrent block"},
		{"recurrent flags", of("qwen3next", 4, "attention.recurrent_layers", []bool{true, false, false, true}), "0-2 2-4", "1-3", ""},
		{"no heads", of("granitehybrid", 6, "attention.head_count_kv", hybrid), "0-2 1-3", "0-1 1-2", ""},
		{"feed-forward blocks", of("nemotron_h", 6, "attention.head_count_kv", []uint32{0, 0, 2, 0, 0, 2}, "feed_forward_length", []uint32{0, 64, 0, 0, 64, 0}), "0-3 2-4 3-6", "0-2 1-2 4-6", ""},
		{"phase", of("smollm3", 12), "0-4 4-12", "0-3 2-12", "begins at a multiple of 4"},
		{"no four", of("smallthinker", 12, "attention.sliding_window", uint32(64)), "0-8 4-12", "0-4 2-10", "does not have 4 blocks"},
		{"two phases", of("llama4", 24, "interleave_moe_layer_step", uint32(3)), "0-12 12-24", "0-4 8-24", "multiple of 12"},
		{"prediction", of("glm4moe", 5, "nextn_predict_layers", uint32(1)), "0-3 3-5 0-5", "0-4 4-5", "before block 4"},
		{"shared caches", of("gemma4", 10, "attention.shared_kv_layers", uint32(4), "attention.sliding_window_pattern", []bool{true, false, true, true, true, false, true, true, true, false}), "0-4 4-10 2-10", "0-5 5-10 0-8", "no later than at block 4"},
		{"per-layer tokens", of("gemma4", 10, "embedding_length_per_layer_input", uint32(256), "attention.sliding_window_pattern", uint32(5)), "0-10", "0-5", "tokens themselves"},
		{"indexers", of("glm-dsa", 6, "attention.indexer.types", []uint32{1, 0, 1, 0, 0, 1}), "0-2 2-5 5-6", "0-1 1-2 3-6", "an indexer"},
		{"lite", of("deepseek2", 27), "0-9 9-27 0-26", "", ""},
		{"not lite", of("deepseek2", 61, "attention.q_lora_rank", uint32(1536)), "0-30 30-61", "0-27 0-26", "26 or 27"},
		{"encoder", of("bert", 6), "0-6", "0-3", "encoder"},
		{"bidirectional", of("qwen3", 6, "attention.causal", false), "0-6", "0-3", "encoder"},
		{"streams", of("deepseek4", 6), "0-6", "0-3", "more than one state"},
		{"counted", of("exaone4", 64), "0-64", "0-32", ""},
		{"small", of("exaone4", 30), "0-1", "", ""},
		{"both", of("falcon-h1", 4), "0-1", "", ""},
		{"too many", of("llama", 600), "0-600", "0-300", "512 blocks"},
	} {
		m, err := Of(c.md)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		cuts := m.Cuts()
		check := func(list string, want bool) {
			for _, word := range strings.Fields(list) {
				s, err := protocol.ParseSpan(word)
				if err != nil {
					t.Fatal(err)
				}
				if cuts.Allows(s) != want {
					t.Errorf("%s: %s is allowed: %v (%+v)", c.name, word, !want, cuts)
				}
			}
		}
		check(c.yes, true)
		check(c.no, false)
		if !strings.Contains(cuts.Why, c.text) {
			t.Errorf("%s: the reason is %q, which should name %q", c.name, cuts.Why, c.text)
		}
		if cuts.Anywhere() != (c.no == "") {
			t.Errorf("%s is cut anywhere: %v", c.name, !(c.no == ""))
		}
	}
}

func TestCache(t *testing.T) {
	for _, c := range []struct {
		name string
		md   header
		kv   string
		want Cache
	}{
		{"plain", of("llama", 2, "attention.head_count_kv", uint32(2)), "f16", Cache{Token: 2 * 2 * 2 * 64 * 2}},
		{"other sizes", of("qwen3", 2, "attention.head_count_kv", uint32(2), "attention.key_length", uint32(128), "attention.value_length", uint32(32)), "f32", Cache{Token: 2 * 2 * (128 + 32) * 4}},
		{"q8_0", of("llama", 1, "attention.head_count_kv", uint32(2)), "q8_0", Cache{Token: 2 * 128 / 32 * 34}},
		{"heads by block", of("openelm", 3, "attention.head_count_kv", []int32{1, 2, 3}), "f16", Cache{Token: 6 * 64 * 2 * 2}},
		{"windows", of("gemma4", 3, "attention.sliding_window", uint32(512), "attention.sliding_window_pattern", []bool{true, true, false},
			"attention.head_count_kv", uint32(1), "attention.key_length_swa", uint32(32), "attention.value_length_swa", uint32(32)), "f16",
			Cache{Token: 2 * 64 * 2, Windowed: 2 * 2 * 32 * 2, Window: 512}},
		{"shared", of("gemma4", 5, "attention.shared_kv_layers", uint32(2), "attention.sliding_window", uint32(512), "attention.sliding_window_pattern", []bool{true, true, false, true, false},
			"attention.head_count_kv", uint32(1)), "f16", Cache{Token: 2 * 64 * 2, Windowed: 2 * 2 * 64 * 2, Window: 512}},
		{"latent", of("deepseek2", 2, "attention.head_count_kv", uint32(1), "attention.key_length", uint32(576), "attention.value_length", uint32(512),
			"attention.key_length_mla", uint32(192), "attention.value_length_mla", uint32(128)), "f16", Cache{Token: 2 * 576 * 2}},
		{"states", of("qwen35", 4, "attention.head_count_kv", uint32(1), "ssm.conv_kernel", uint32(4), "ssm.inner_size", uint32(256), "ssm.state_size", uint32(16), "ssm.group_count", uint32(2)), "f16",
			Cache{Token: 2 * 64 * 2, Sequence: 3 * 4 * (3*(256+2*2*16) + 16*256)}},
		{"short convolutions", of("lfm2", 2, "attention.head_count_kv", []uint32{0, 1}, "shortconv.l_cache", uint32(3)), "f16", Cache{Token: 2 * 64 * 2, Sequence: 4 * 512 * 2}},
		{"prediction", of("glm4moe", 2, "nextn_predict_layers", uint32(1), "attention.head_count_kv", uint32(1)), "f16", Cache{Token: 2 * 64 * 2}},
	} {
		m, err := Of(c.md)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		all := protocol.Span{From: 0, To: len(m.Blocks)}
		got := m.Cache(all, c.kv)
		if got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if token, session := CacheCost(c.md, all, c.kv); token != got.Token+got.Windowed || session != got.Sequence {
			t.Errorf("%s: %d and %d", c.name, token, session)
		}
	}
	if token, session := CacheCost(header{}, protocol.Span{From: 0, To: 3}, ""); token != 0 || session != 0 {
		t.Error("a cost of nothing")
	}
}

// Headers come from strangers.
func FuzzOf(f *testing.F) {
	for arch := range kinds {
		f.Add(arch, uint32(12), int64(4), []byte{1, 0, 1, 255})
	}
	f.Fuzz(func(t *testing.T, arch string, blocks uint32, n int64, list []byte) {
		h := header{"general.architecture": arch, arch + ".block_count": blocks}
		for i, key := range []string{
			"attention.head_count", "embedding_length", "attention.head_count_kv", "attention.sliding_window", "attention.sliding_window_pattern", "full_attention_interval",
			"attention.recurrent_layers", "attention.shared_kv_layers", "nextn_predict_layers", "interleave_moe_layer_step", "attention.key_length", "attention.indexer.types",
			"ssm.conv_kernel", "ssm.inner_size", "kda.head_dim", "wkv.head_size", "feed_forward_length",
		} {
			switch (int(blocks) + i) % 4 {
			case 0:
				h[arch+"."+key] = n
			case 1:
				h[arch+"."+key] = list
			case 2:
				h[arch+"."+key] = float32(n)
			}
		}
		m, err := Of(h)
		if err != nil {
			return
		}
		cuts := m.Cuts()
		if !cuts.Allows(protocol.Span{From: 0, To: len(m.Blocks)}) || !slices.IsSorted(cuts.Edges) || (cuts.Why == "") != cuts.Anywhere() && cuts.Why == "" {
			t.Fatalf("%+v", cuts)
		}
		if len(m.Blocks) <= 64 {
			at := 0
			for _, s := range cuts.Divide(len(m.Blocks), 3) {
				if s.From != at || !cuts.Allows(s) {
					t.Fatalf("%+v is cut into %v", cuts, s)
				}
				at = s.To
			}
		}
		if c := m.Cache(protocol.Span{From: 0, To: len(m.Blocks)}, "f32"); c.Token < 0 || c.Windowed < 0 || c.Sequence < 0 {
			t.Fatalf("%+v", c)
		}
	})
}
