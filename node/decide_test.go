package node_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node"
)

// decided is what a node says to a body at a path.
func decided(t *testing.T, n *node.Node, path, body string) (status int, answers map[string]map[string]any, text string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1"+path, strings.NewReader(body))
	r.RemoteAddr = "127.0.0.1:1"
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	n.Handler().ServeHTTP(w, r)
	var out struct{ Answers map[string]map[string]any }
	if err := json.Unmarshal(w.Body.Bytes(), &out); err != nil {
		t.Fatal(err, w.Body.String())
	}
	return w.Code, out.Answers, w.Body.String()
}

// numbers are all numbers in answers, by where they stand.
func numbers(at string, v any, out map[string]float64) map[string]float64 {
	switch v := v.(type) {
	case float64:
		out[at] = v
	case map[string]map[string]any:
		for k, x := range v {
			numbers(at+"/"+k, x, out)
		}
	case map[string]any:
		for k, x := range v {
			numbers(at+"/"+k, x, out)
		}
	}
	return out
}

// TestDecisions: probabilities are those of one node, over three and from a client, of each
// question alone and of all together, before and after others have asked of the same state.
func TestDecisions(t *testing.T) {
	t.Parallel()
	one, _ := start(t, node.Config{Serve: []node.ServeSpec{{Model: tinymodel.Name, Span: "all"}}}, true)
	nodes, addrs := three(t)
	client, _ := start(t, node.Config{Client: true, Bootstrap: addrs}, false)
	var questions []string
	for i := range 5 {
		questions = append(questions, fmt.Sprintf(`"c%d":{"type":"choice","instructions":"Who was in the story, %d?","criteria":{"fox":"an animal","drum":null,"boy":null}}`, i, i),
			fmt.Sprintf(`"s%d":{"type":"score","instructions":"How long was it, %d?","criteria":["short","long","very long","endless"]}`, i, i))
	}
	ask := func(list ...string) string {
		return `{"state":{"story":"Once upon a time there was a fox who had a drum. ` + strings.Repeat("He played it all day. ", 8) + `"},"questions":{` + strings.Join(list, ",") + `}}`
	}
	want := map[string]float64{}
	for _, q := range questions {
		status, answers, text := decided(t, one, "/v1/systemone", ask(q))
		if status != http.StatusOK {
			t.Fatal(status, text)
		}
		numbers("", answers, want)
	}
	for _, n := range append([]*node.Node{one, client}, nodes...) {
		for range 2 {
			status, answers, text := decided(t, n, "/v1/systemone", ask(questions...))
			if status != http.StatusOK {
				t.Fatal(status, text)
			}
			got := numbers("", answers, map[string]float64{})
			if len(got) != len(want) {
				t.Errorf("%d numbers, want %d", len(got), len(want))
			}
			for at, w := range want {
				if math.Abs(got[at]-w) > 1e-6 {
					t.Errorf("%s is %v, want %v", at, got[at], w)
				}
			}
		}
	}
	// The tiny model knows no "yes".
	for path, body := range map[string]string{
		"/v1/systemone": ask(`"q":{"type":"noul","instructions":"Is it long?"}`),
		"/v1/decisions": `{"input":"A story.","questions":[{"id":"q","type":"yes_no","question":"It is long."}]}`,
	} {
		if status, _, text := decided(t, client, path, body); status != http.StatusBadRequest || !strings.Contains(text, `\"yes\"`) || !strings.Contains(text, `\"q\"`) {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	// SGLang's form of the same questions has the same words, and so the same numbers.
	status, answers, text := decided(t, client, "/v1/decisions", `{"input":"A story.","return_prompt_token_ids":true,"questions":[{"id":"q","type":"choice","question":"Who?","options":[{"name":"fox","description":"an animal"},{"name":"drum"}]}]}`)
	_, same, _ := decided(t, one, "/v1/systemone", `{"state":"A story.","questions":{"q":{"type":"choice","instructions":"Who?","criteria":{"fox":"an animal","drum":null}}}}`)
	if status != http.StatusOK || fmt.Sprint(answers["q"]["probabilities"]) != fmt.Sprint(same["q"]["probabilities"]) || len(answers["q"]["prompt_token_ids"].([]any)) < 10 || len(answers["q"]["label_token_ids"].([]any)) != 2 {
		t.Errorf("%d %s, want %v", status, text, same)
	}
}
