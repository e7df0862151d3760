//go:build cgo

package node_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/engine/llama/random"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// reranker is a node that serves a model of random weights with a classifier's head.
type reranker struct {
	n    *node.Node
	file string
	tok  *text.Tokenizer
}

func newReranker(t *testing.T, edits ...gguf.KV) *reranker {
	t.Helper()
	file, engines := embedder(t, "bert ranking", edits...)
	n, _ := serveVectors(t, node.Config{Engines: engines}, file, "all")
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	tok, err := text.New(h)
	if err != nil {
		t.Fatal(err)
	}
	return &reranker{n, file, tok}
}

// rerank asks for scores of documents over HTTP, and returns them by document.
func (r *reranker) rerank(t *testing.T, query string, documents []string) (scores []float64, status int, body string) {
	t.Helper()
	ask, err := json.Marshal(map[string]any{"model": "vectors", "query": query, "documents": documents})
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the pairs have a route", func() bool {
		w, req := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1/v1/rerank", bytes.NewReader(ask))
		req.Header.Set("Content-Type", "application/json")
		r.n.Handler().ServeHTTP(w, req)
		status, body = w.Code, w.Body.String()
		return status != http.StatusServiceUnavailable
	})
	var reply struct {
		Results []struct {
			Index int
			Score float64 `json:"relevance_score"`
		}
	}
	if err := json.Unmarshal([]byte(body), &reply); err != nil {
		t.Fatal(body)
	}
	scores = make([]float64, len(reply.Results))
	last := math.Inf(1)
	for _, s := range reply.Results {
		if scores[s.Index] = s.Score; s.Score > last {
			t.Errorf("the results are not ordered by score: %s", body)
		}
		last = s.Score
	}
	return scores, status, body
}

// score is what the library's own computation makes of a pair.
func (r *reranker) score(t *testing.T, pair []int32) float64 {
	t.Helper()
	out, err := random.Embed(os.Getenv("SHOAL_LIBLLAMA"), r.file, pair, 1)
	if err != nil {
		t.Fatal(err)
	}
	return 1 / (1 + math.Exp(-float64(out[0])))
}

// A model with a classifier's head scores documents as the library itself does.
func TestRerank(t *testing.T) {
	r := newReranker(t)
	documents := []string{"a fox", "snow in June, and rain", "z", strings.Repeat("words and more ", 40)}
	got, status, body := r.rerank(t, "Which animal?", documents)
	if status != http.StatusOK || len(got) != len(documents) {
		t.Fatal(status, body)
	}
	q := encoded(t, r.tok, "Which animal?")
	for i, d := range documents {
		if want := r.score(t, r.tok.Pair(q, encoded(t, r.tok, d))); math.Abs(got[i]-want) > 0.01 {
			t.Errorf("document %d scores %v, by the library %v", i, got[i], want)
		}
	}
	if slices.Max(got)-slices.Min(got) < 0.01 {
		t.Errorf("all documents score the same: %v", got)
	}
}

// encoded is a text's tokens; special ones are read if a template is meant.
func encoded(t *testing.T, tok *text.Tokenizer, s string) []int32 {
	t.Helper()
	ids, err := tok.Encode(t.Context(), s, text.EncodeOptions{ParseSpecial: true})
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// Where a reranker has a template, it is the document of an over-long pair that is cut:
// what comes after it in the template, by which the model answers, stays.
func TestRerankTemplate(t *testing.T) {
	const before, after = "Query: %s Document: ", " Does it answer? <yes or no>"
	r := newReranker(t, gguf.KV{Key: "tokenizer.chat_template.rerank", Value: fmt.Sprintf(before, "{query}") + "{document}" + after})
	long := strings.Repeat("the quick brown fox, ", 400)
	got, status, body := r.rerank(t, "Who?", []string{long + "and a", long + long, "a fox"})
	if status != http.StatusOK {
		t.Fatal(body)
	}
	suffix := encoded(t, r.tok, after)
	if n := len(encoded(t, r.tok, long)); n < random.Context {
		t.Fatalf("a document of %d tokens fits", n)
	}
	for i, d := range []string{long, long, "a fox"} {
		want := encoded(t, r.tok, fmt.Sprintf(before, "Who?")+d+after)
		if len(want) > random.Context {
			want = append(want[:random.Context-len(suffix)], suffix...)
		}
		if want := r.score(t, want); math.Abs(got[i]-want) > 0.01 {
			t.Errorf("document %d scores %v, by the library %v", i, got[i], want)
		}
	}
	if _, status, body = r.rerank(t, long, []string{"a fox"}); status != http.StatusBadRequest || !strings.Contains(body, "the query and the model's instructions have") {
		t.Errorf("a query that leaves no room: %d %s", status, body)
	}
}
