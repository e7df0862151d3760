package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// OpenAI's Decisions API has the path of SGLang's, and another form. Its questions have
// instructions, where SGLang's have a question, so that each request is one of the two. The
// words of the prompt and the labels are those of vLLM, which serves it over chat models.

// mostOpenDecisions is how many questions a request may have, OpenAI's limit.
const mostOpenDecisions = 200

type openDecisionsRequest struct {
	Model     string            `json:"model"`
	Input     json.RawMessage   `json:"input"` // a text, or messages of the user
	Questions []json.RawMessage `json:"questions"`
	Safety    *string           `json:"safety_identifier"` // has no effect here
	Shoal     *Extension        `json:"shoal"`
}

type openDecisionsReply struct {
	Model   string             `json:"model"`
	Answers []openAnswer       `json:"answers"` // in the order of the questions
	Usage   openDecisionsUsage `json:"usage"`
}

type openDecisionsUsage struct {
	Input        int `json:"input_tokens"`
	InputDetails struct {
		Cached  int `json:"cached_tokens"`
		Written int `json:"cache_write_tokens"`
	} `json:"input_tokens_details"`
	Output        int `json:"output_tokens"`
	OutputDetails struct {
		Reasoning int `json:"reasoning_tokens"`
	} `json:"output_tokens_details"`
	Total int `json:"total_tokens"`
}

// openQuestion has the fields of all types.
type openQuestion struct {
	Type         string  `json:"type"` // predicate, choice or score
	Name         *string `json:"name"`
	Instructions string  `json:"instructions"`
	Choices      []struct {
		Value       json.RawMessage `json:"value"` // a text, true or false
		Description string          `json:"description"`
	} `json:"choices"`
	Levels []struct {
		Label       string `json:"label"`
		Description string `json:"description"`
	} `json:"levels"`

	labels []string
}

// openFields are those that a question of each type may have.
var openFields = map[string][]string{
	"predicate": {"type", "name", "instructions"},
	"choice":    {"type", "name", "instructions", "choices"},
	"score":     {"type", "name", "instructions", "levels"},
}

type openAnswer struct {
	Type          string            `json:"type"`
	Name          *string           `json:"name"`                  // null: the question has none
	Probability   *float64          `json:"probability,omitempty"` // of a predicate
	Choice        json.RawMessage   `json:"choice,omitempty"`
	Score         *float64          `json:"score,omitempty"`
	Probabilities []openProbability `json:"probabilities,omitempty"`
	Confidence    *float64          `json:"confidence,omitempty"`
}

type openProbability struct {
	Value       json.RawMessage `json:"value"` // of a score the level's index
	Label       string          `json:"label,omitempty"`
	Probability float64         `json:"probability"`
}

// speaksOpenAI reports whether a body of /v1/decisions has OpenAI's form.
func speaksOpenAI(body []byte) bool {
	var req struct {
		Questions []struct {
			Instructions *json.RawMessage `json:"instructions"`
			Question     *json.RawMessage `json:"question"`
		} `json:"questions"`
	}
	return decode(body, &req) == nil && len(req.Questions) > 0 && req.Questions[0].Instructions != nil && req.Questions[0].Question == nil
}

// openDecisions answers POST /v1/decisions in OpenAI's form.
func (s *server) openDecisions(w http.ResponseWriter, r *http.Request, body []byte) error {
	var req openDecisionsRequest
	if err := decode(body, &req); err != nil {
		return err
	}
	if err := knownFields("", body, []string{"model", "input", "questions", "safety_identifier", "shoal"}); err != nil {
		return err
	}
	ask, questions, err := req.read()
	if err != nil {
		return err
	}
	out, err := s.decide(w, r, ask, req.Shoal)
	if err != nil {
		return err
	}
	reply := openDecisionsReply{Model: cmp.Or(out.Name, out.Model)}
	reply.Usage.Input, reply.Usage.Output = out.Count(), len(questions)
	reply.Usage.InputDetails.Cached, reply.Usage.Total = out.Cached, out.Count()+len(questions)
	for i := range questions {
		reply.Answers = append(reply.Answers, questions[i].answer(&out.Reads[i]))
	}
	writeJSON(w, http.StatusOK, reply)
	return nil
}

// read makes questions for the model of the request.
func (req *openDecisionsRequest) read() (*DecideRequest, []openQuestion, error) {
	switch n := len(req.Questions); {
	case len(req.Model) > 1024:
		return nil, nil, badParam("model", "is too long for a name")
	case n == 0 || n > mostOpenDecisions:
		return nil, nil, badParam("questions", "has %d questions: 1 to %d are possible", n, mostOpenDecisions)
	}
	input, err := openInput(req.Input)
	if err != nil {
		return nil, nil, err
	}
	ask, questions := &DecideRequest{Model: req.Model}, make([]openQuestion, len(req.Questions))
	for i, raw := range req.Questions {
		q := &questions[i]
		words, err := q.read(fmt.Sprintf("questions[%d]", i), raw)
		if err != nil {
			return nil, nil, err
		}
		ask.Questions = append(ask.Questions, DecideQuestion{Name: deref(q.Name, fmt.Sprint(i)), User: input + "\n\n" + words, Labels: q.labels})
	}
	return ask, questions, nil
}

// openInput reads a text, or the texts of messages.
func openInput(raw json.RawMessage) (string, error) {
	const param = "input"
	switch first(raw) {
	case 0:
		return "", badParam(param, "is missing")
	case '"':
		var text string
		return text, decodeAt(param, raw, &text)
	case '[':
	default:
		return "", badParam(param, "must be a text or a list of messages")
	}
	var list []struct {
		Role    string          `json:"role"`
		Content json.RawMessage `json:"content"`
	}
	if err := decodeAt(param, raw, &list); err != nil {
		return "", err
	}
	var texts []string
	for i, m := range list {
		at := fmt.Sprintf("%s[%d]", param, i)
		if m.Role != "user" {
			return "", badParam(at+".role", "must be user")
		}
		text, err := openContent(at+".content", m.Content)
		if err != nil {
			return "", err
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "\n\n"), nil
}

// openContent reads the content of a message.
func openContent(at string, raw json.RawMessage) (string, error) {
	if first(raw) == '"' {
		var text string
		return text, decodeAt(at, raw, &text)
	}
	if first(raw) != '[' {
		return "", badParam(at, "must be a text or a list of parts")
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if err := decodeAt(at, raw, &parts); err != nil {
		return "", err
	}
	texts := make([]string, len(parts))
	for i, p := range parts {
		if p.Type != "input_text" {
			return "", badParam(fmt.Sprintf("%s[%d].type", at, i), "must be input_text: models here read text only")
		}
		texts[i] = p.Text
	}
	return strings.Join(texts, "\n"), nil
}

// read reads a question at a place of the request, and returns it as the model reads it.
func (q *openQuestion) read(at string, raw json.RawMessage) (string, error) {
	if err := decodeAt(at, raw, q); err != nil {
		return "", err
	}
	known, ok := openFields[q.Type]
	if !ok {
		return "", badParam(at+".type", "must be predicate, choice or score")
	}
	if err := knownFields(at, raw, known); err != nil {
		return "", err
	}
	ask := systemQuestion{kind: "choice", asks: q.Instructions}
	add := func(name, means string) {
		ask.options, ask.meanings, ask.labels = append(ask.options, name), append(ask.meanings, means), append(ask.labels, string(rune('A'+len(ask.labels))))
	}
	switch q.Type {
	case "predicate":
		add("false", "")
		add("true", "")
	case "choice":
		at += ".choices"
		if n := len(q.Choices); n < 2 || n > mostOptions {
			return "", badParam(at, "has %d choices: 2 to %d are possible", n, mostOptions)
		}
		for i, c := range q.Choices {
			if !slices.Contains([]byte{'"', 't', 'f'}, first(c.Value)) {
				return "", badParam(fmt.Sprintf("%s[%d].value", at, i), "must be a text, true or false")
			}
			name := jsonText(c.Value, "", "")
			if slices.Contains(ask.options, name) {
				return "", badParam(fmt.Sprintf("%s[%d].value", at, i), "repeats that of another choice")
			}
			add(name, c.Description)
		}
	case "score":
		at += ".levels"
		if n := len(q.Levels); n < 2 || n > mostLevels {
			return "", badParam(at, "has %d levels: 2 to %d are possible", n, mostLevels)
		}
		for _, l := range q.Levels {
			add(l.Label, l.Description)
		}
	}
	q.labels = ask.labels
	return ask.words(), nil
}

// answer is the answer to a question.
func (q *openQuestion) answer(read *DecideRead) openAnswer {
	p := read.shares(1)
	out := openAnswer{Type: q.Type, Name: q.Name}
	if q.Type == "predicate" {
		out.Probability = &p[1]
		return out
	}
	top := likeliest(p)
	out.Confidence = new(p[top] * read.mass())
	if q.Type == "score" {
		out.Score = new(expected(p))
		for i, l := range q.Levels {
			out.Probabilities = append(out.Probabilities, openProbability{Value: json.RawMessage(fmt.Sprint(i)), Label: l.Label, Probability: p[i]})
		}
		return out
	}
	out.Choice = q.Choices[top].Value
	for i, c := range q.Choices {
		out.Probabilities = append(out.Probabilities, openProbability{Value: c.Value, Probability: p[i]})
	}
	return out
}
