package node_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/ahead"
	"github.com/shoalnet/shoal/node/stage"
)

// unhurried is node/ahead's guesser where nothing is known of the ring, so that a busy
// machine does not keep it from guessing.
type unhurried struct{ *ahead.Runner }

func (u unhurried) Token(id int32, at time.Time, _ stage.Measures) {
	u.Runner.Token(id, at, ahead.Measures{})
}

// predicted is an answer of the chat endpoint, whole or streamed.
type predicted struct {
	status  int
	content string
	problem struct{ Message, Param string }
	usage   struct {
		Completion int `json:"completion_tokens"`
		Details    struct {
			Accepted *int `json:"accepted_prediction_tokens"`
			Rejected *int `json:"rejected_prediction_tokens"`
		} `json:"completion_tokens_details"`
	}
}

// predict asks for a chat's answer with a prediction; nil: without.
func predict(t *testing.T, url string, prediction any, stream bool) (p predicted) {
	t.Helper()
	ask := map[string]any{
		"model": "tales", "temperature": 0, "max_tokens": 40, "stream": stream,
		"messages": []map[string]string{{"role": "user", "content": "Tell me a story about a fox and a lantern, and about what they saw in the old mill by the river."}},
	}
	if prediction != nil {
		ask["prediction"] = prediction
	}
	if stream {
		ask["stream_options"] = map[string]bool{"include_usage": true}
	}
	body, err := json.Marshal(ask)
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Post(url+"/v1/chat/completions", "application/json", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	p.status = res.StatusCode
	type object struct {
		Choices []struct{ Message, Delta struct{ Content string } }
		Usage   json.RawMessage
		Error   json.RawMessage
	}
	take := func(raw []byte) {
		var o object
		if err := json.Unmarshal(raw, &o); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
		for _, c := range o.Choices {
			p.content += c.Message.Content + c.Delta.Content
		}
		for raw, into := range map[*json.RawMessage]any{&o.Usage: &p.usage, &o.Error: &p.problem} {
			if len(*raw) > 0 && json.Unmarshal(*raw, into) != nil {
				t.Fatalf("%s", *raw)
			}
		}
	}
	if !stream || p.status != http.StatusOK {
		raw, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		take(raw)
		return p
	}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok && data != "[DONE]" {
			take([]byte(data))
		}
	}
	return p
}

// With OpenAI's `prediction`, over HTTP and real stages that are far from each other, the
// answer is the one without it, whether the text is right, wrong, or far too long, and
// usage has the guesses that were right and wrong. What is no prediction is refused.
func TestPrediction(t *testing.T) {
	t.Parallel()
	guess := func(most int) stage.Guesser { return unhurried{ahead.New(ahead.Config{MaxInFlight: most})} }
	a := aheadRoute(t, node.Config{Guess: guess}, aheadCuts[1], 20*time.Millisecond)
	srv := httptest.NewServer(a.Handler())
	defer srv.Close()
	want := predict(t, srv.URL, nil, false)
	if want.status != http.StatusOK || want.usage.Completion < 20 {
		t.Fatalf("%+v", want)
	}
	content := func(c any) any { return map[string]any{"type": "content", "content": c} }
	part := func(s string) map[string]string { return map[string]string{"type": "text", "text": s} }
	half := len(want.content) / 2
	for name, prediction := range map[string]any{
		"none":           nil,
		"a string":       content(want.content),
		"parts":          content([]any{part(want.content[:half]), part(want.content[half:])}),
		"another text":   content(strings.Repeat("It was the best of times, it was the worst of times. ", 20)),
		"an edited text": content("No! " + strings.ReplaceAll(want.content, "the", "a")),
		"2 MB":           content(want.content + strings.Repeat("abc ", 1<<19)),
	} {
		for _, stream := range []bool{false, true} {
			got := predict(t, srv.URL, prediction, stream)
			if got.status != http.StatusOK || got.content != want.content || got.usage.Completion != want.usage.Completion {
				t.Errorf("%s, streamed %v: %+v\nwithout\n%+v", name, stream, got, want)
				continue
			}
			yes, no := got.usage.Details.Accepted, got.usage.Details.Rejected
			if yes == nil || no == nil {
				t.Errorf("%s, streamed %v: no counts", name, stream)
				continue
			}
			t.Logf("%s, streamed %v: %d tokens, %d accepted, %d rejected", name, stream, got.usage.Completion, *yes, *no)
			if right := name == "a string" || name == "parts"; right && *yes < got.usage.Completion/3 || *yes >= got.usage.Completion || *no < 0 {
				t.Errorf("%s, streamed %v: of %d tokens %d accepted, %d rejected", name, stream, got.usage.Completion, *yes, *no)
			}
		}
	}
	for param, prediction := range map[string]any{
		"prediction":                 "a text",
		"prediction.type":            map[string]string{"type": "text", "content": "a"},
		"prediction.content":         content(7),
		"prediction.content[0].type": content([]any{map[string]string{"type": "image_url"}}),
	} {
		for _, stream := range []bool{false, true} {
			got := predict(t, srv.URL, prediction, stream)
			if got.status != http.StatusBadRequest || got.problem.Param != param || !strings.Contains(got.problem.Message, "prediction") {
				t.Errorf("%s, streamed %v: %+v", fmt.Sprint(prediction), stream, got)
			}
		}
	}
}
