package protocol

import (
	"testing"

	"github.com/ipfs/go-cid"
)

// Names as Ollama's clients write them.
func TestMatchTagged(t *testing.T) {
	id := cid.MustParse("bafyreiesj7ygrhkeq6rqlqzwplj3v4hktdc2bytzkinzm4ddsu7z5srlhu")
	for _, c := range []struct {
		word, name string
		want       Match
	}{
		{"tinytales:latest", "tinytales", MatchTagged}, {"TinyTales:Latest", "tinytales", MatchTagged}, {"tiny:latest", "tinytales", MatchBegin}, {"tinytales:latest", "tinytales:latest", MatchExact},
		{"tinytales:9m", "tinytales", MatchNone}, {"smollm2:135m-instruct-q4_1", "SmolLM2-135M-Instruct.Q4_1", MatchTagged}, {"smollm2:135m", "SmolLM2-135M-Instruct.Q4_1", MatchBegin},
		{"smollm2:135m", "smollm2:135m", MatchExact}, {"smollm2135m", "SmolLM2-135M-Instruct.Q4_1", MatchNone}, {":latest", "x", MatchNone}, {":", "x", MatchNone}, {"x:", "x", MatchTagged},
		{id.String() + ":latest", "x", MatchTagged},
	} {
		if got := MatchModel(c.word, id, []string{c.name}); got != c.want {
			t.Errorf("%q for %q: %d, want %d", c.word, c.name, got, c.want)
		}
	}
}
