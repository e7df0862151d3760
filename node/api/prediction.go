package api

import "encoding/json"

// prediction is OpenAI's word for a text that most of the answer is expected to repeat,
// such as the file that is to be edited. The answer is the same with it and without, and
// comes sooner where it does repeat the text.
type prediction struct {
	Type    string          `json:"type"`
	Content json.RawMessage `json:"content"` // string or text parts
}

// predictedText returns the text of the request's prediction; "" without one.
func predictedText(raw json.RawMessage) (string, error) {
	const param = "prediction"
	if !present(raw) || isEmpty(raw) {
		return "", nil
	}
	var p prediction
	if err := decodeAt(param, raw, &p); err != nil {
		return "", err
	}
	if p.Type != "content" {
		return "", badParam(param+".type", "must be content")
	}
	if !present(p.Content) {
		return "", badParam(param+".content", "is missing: it is the text that the answer is expected to repeat")
	}
	text, _, err := messageText(param+".content", p.Content)
	return text, err
}

// predictionOf is predictedText's opposite.
func predictionOf(text string) (json.RawMessage, error) {
	if text == "" {
		return nil, nil
	}
	content, err := json.Marshal(text)
	if err != nil {
		return nil, err
	}
	return json.Marshal(prediction{Type: "content", Content: content})
}
