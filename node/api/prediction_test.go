package api

import (
	"encoding/json"
	"testing"
)

func TestPrediction(t *testing.T) {
	const ok = `"messages":[{"role":"user","content":"hi"}]`
	for value, want := range map[string]string{
		`{"type":"content","content":"one\ntwo"}`:                                                    "one\ntwo",
		`{"type":"content","content":[{"type":"text","text":"one"},{"type":"text","text":"\ntwo"}]}`: "one\ntwo",
		`{"type":"content","content":""}`:                                                            "",
		`{"type":"content","content":[]}`:                                                            "",
		`null`:                                                                                       "",
		`{}`:                                                                                         "",
	} {
		j, err := decodeChat([]byte(`{` + ok + `,"prediction":` + value + `}`))
		if err != nil || j.reqs[0].Prediction != want {
			t.Errorf("%s: %v", value, err)
		}
	}
	for value, param := range map[string]string{
		`"SECRET"`:                           "prediction",
		`[1]`:                                "prediction",
		`{"type":"SECRET","content":"a"}`:    "prediction.type",
		`{"content":"a"}`:                    "prediction.type",
		`{"type":"content"}`:                 "prediction.content",
		`{"type":"content","content":null}`:  "prediction.content",
		`{"type":"content","content":7}`:     "prediction.content",
		`{"type":"content","content":{}}`:    "prediction.content",
		`{"type":"content","content":["a"]}`: "prediction.content[0]",
		`{"type":"content","content":[{"type":"image_url"}]}`: "prediction.content[0].type",
	} {
		body := `{` + ok + `,"prediction":` + value + `}`
		_, err := decodeChat([]byte(body))
		checkRefusal(t, body, param, err)
	}
}

// A client of this package sends what the server reads.
func TestPredictionSent(t *testing.T) {
	for _, text := range []string{"", "a \"quoted\"\nline"} {
		_, body, err := wireRequest(&GenerateRequest{Messages: []Message{{Role: "user", Content: "hi"}}, Prediction: text})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		j, err := decodeChat(raw)
		if err != nil || j.reqs[0].Prediction != text {
			t.Errorf("%s: %v", raw, err)
		}
	}
}
