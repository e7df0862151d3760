package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
)

// letters is an Embedder whose embeddings are a text's length and number of a's, and
// whose scores are how often a text has the query.
type letters struct{}

func (letters) Embed(_ context.Context, req *EmbedRequest) (*EmbedResult, error) {
	if req.Model == "speller" {
		return nil, badParam("model", "speller does not support embeddings")
	}
	if req.Model == "nope" {
		return nil, Errorf(UnknownModel, "there is no model nope")
	}
	if req.Dimensions > 0 && !req.Cut {
		return nil, badParam("dimensions", "are not supported")
	}
	out := &EmbedResult{Name: "letters"}
	for _, t := range req.Texts {
		n := max(len(t.Text), len(t.IDs))
		if n > 100 && !req.Truncate {
			return nil, Errorf(TooLong, "This model's maximum context length is 100 tokens")
		}
		v := []float32{float32(n), float32(strings.Count(t.Text, "a"))}
		if req.Query != nil {
			v = []float32{float32(strings.Count(t.Text, *req.Query))}
		}
		if req.Dimensions > 0 {
			v = v[:req.Dimensions]
		}
		out.Embeddings, out.Tokens = append(out.Embeddings, v), append(out.Tokens, n)
	}
	return out, nil
}

func TestEmbeddings(t *testing.T) {
	srv := start(t, &speller{}, nil)
	long := `"` + strings.Repeat("x", 101) + `"`
	many := `["x"` + strings.Repeat(`,"x"`, mostTexts) + `]`
	for _, c := range []struct {
		path, body string
		status     int
		says       string
	}{
		{"/v1/embeddings", `{"model":"letters","input":"aab"}`, 200, `"data":[{"object":"embedding","index":0,"embedding":[3,2]}],"model":"letters","usage":{"prompt_tokens":3,"total_tokens":3}`},
		{"/v1/embeddings", `{"model":"letters","input":["a","bb"]}`, 200, `"index":1,"embedding":[2,0]`},
		{"/v1/embeddings", `{"model":"letters","input":[5,6,7]}`, 200, `"embedding":[3,0]}],`},
		{"/v1/embeddings", `{"model":"letters","input":[[5,6.0],[7]],"encoding_format":"float"}`, 200, `"index":1,"embedding":[1,0]`},
		{"/v1/embeddings", `{"model":"letters","input":"aab","encoding_format":"base64"}`, 200, `"embedding":"` + base64.StdEncoding.EncodeToString([]byte{0, 0, 0x40, 0x40, 0, 0, 0, 0x40}) + `"`},
		{"/embeddings", `{"model":"letters","input":"a"}`, 200, `"embedding":[1,1]`},
		{"/v1/embeddings", `{"model":"letters"}`, 400, `"param":"input"`},
		{"/v1/embeddings", `{"model":"letters","input":""}`, 400, `"param":"input"`},
		{"/v1/embeddings", `{"model":"letters","input":[]}`, 400, `"param":"input"`},
		{"/v1/embeddings", `{"model":"letters","input":["a",""]}`, 400, `"param":"input[1]"`},
		{"/v1/embeddings", `{"model":"letters","input":["a",[1]]}`, 400, `not both`},
		{"/v1/embeddings", `{"model":"letters","input":[1,"a"]}`, 400, `"param":"input`},
		{"/v1/embeddings", `{"model":"letters","input":[["a"]]}`, 400, `"param":"input[0]`},
		{"/v1/embeddings", `{"model":"letters","input":{"a":1}}`, 400, `"param":"input"`},
		{"/v1/embeddings", `{"model":"letters","input":[1e99]}`, 400, `"param":"input`},
		{"/v1/embeddings", `{"model":"letters","input":` + many + `}`, 400, `2048 are possible`},
		{"/v1/embeddings", `{"model":"letters","input":` + long + `}`, 400, `context_length_exceeded`},
		{"/v1/embeddings", `{"model":"letters","input":"a","encoding_format":"int8"}`, 400, `"param":"encoding_format"`},
		{"/v1/embeddings", `{"model":"letters","input":"a","dimensions":0}`, 400, `"param":"dimensions"`},
		{"/v1/embeddings", `{"model":"letters","input":"a","dimensions":1}`, 400, `"param":"dimensions"`},
		{"/v1/embeddings", `{"model":"speller","input":"a"}`, 400, `does not support embeddings`},
		{"/api/embed", `{"model":"letters","input":"aab"}`, 200, `"model":"letters","embeddings":[[3,2]],"total_duration":`},
		{"/api/embed", `{"model":"letters","input":["a",""],"dimensions":1,"keep_alive":"5m","options":{"num_ctx":5}}`, 200, `"embeddings":[[1],[0]]`},
		{"/api/embed", `{"model":"letters","input":` + long + `}`, 200, `"embeddings":[[101,0]]`},
		{"/api/embed", `{"model":"letters","input":` + long + `,"truncate":false}`, 400, `maximum context length`},
		{"/api/embed", `{"model":"letters","input":5}`, 400, `input must be`},
		{"/api/embed", `{"model":"speller","input":[]}`, 200, `{"model":"speller","embeddings":[]}`},
		{"/api/embeddings", `{"model":"letters","prompt":"aab"}`, 200, `{"embedding":[3,2]}`},
		{"/api/embeddings", `{"model":"speller","prompt":""}`, 200, `{"embedding":[]}`},
		{"/v1/rerank", `{"model":"letters","query":"a","documents":["b","aa",{"text":"a"}],"top_n":2}`, 200, `"results":[{"index":1,"relevance_score":2},{"index":2,"relevance_score":1}]`},
		{"/v2/rerank", `{"model":"letters","query":{"text":"a"},"documents":["b"],"return_documents":true,"top_n":9}`, 200, `"results":[{"index":0,"relevance_score":0,"document":{"text":"b"}}]`},
		{"/rerank", `{"model":"letters","query":"a","documents":[{"text":"a","id":7}],"return_documents":true}`, 200, `"document":{"text":"a","id":7}`},
		{"/v1/rerank", `{"model":"letters","query":"","documents":["b"]}`, 400, `"param":"query"`},
		{"/v1/rerank", `{"model":"letters","query":"a","documents":[]}`, 400, `"param":"documents"`},
		{"/v1/rerank", `{"model":"letters","query":"a","documents":[{"title":"x"}]}`, 400, `"param":"documents[0]"`},
		{"/v1/rerank", `{"model":"letters","query":"a","documents":["b"],"top_n":0}`, 400, `"param":"top_n"`},
	} {
		resp, body := post(t, srv.URL+c.path, c.body)
		if resp.StatusCode != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s %.80s: %d %s, want %d and %s", c.path, c.body, resp.StatusCode, body, c.status, c.says)
		}
	}
}

// FuzzTexts: whatever a request has for texts is read as texts that are not empty, or
// refused.
func FuzzTexts(f *testing.F) {
	for _, s := range []string{`"a"`, `["a","b"]`, `[1,2]`, `[[1],[2.0]]`, `[]`, `[""]`, `{}`, `null`, `[1,"a"]`, `[[]]`, `"`, `[-1]`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if !json.Valid([]byte(s)) {
			return
		}
		texts, err := textsOf("input", json.RawMessage(s))
		if err != nil {
			if AsError(err).Kind != BadInput {
				t.Errorf("%s: %v", s, err)
			}
			return
		}
		for _, x := range texts {
			if x.Text == "" && len(x.IDs) == 0 || len(texts) > mostTexts {
				t.Errorf("%s: %+v", s, texts)
			}
		}
		_, _ = ollamaTexts(json.RawMessage(s))
	})
}
