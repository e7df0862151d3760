package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// System One, the format of TypeSafe's decision models, as vLLM 0.32 serves it over chat
// models: fields, words of the prompt, labels, limits and what the numbers mean are vLLM's.

// Limits of a request, vLLM's.
const (
	mostSystemOne = 64 // questions
	mostOptions   = 26 // of a choice, which are labelled A to Z
	mostLevels    = 10 // of a score, which are labelled 0 to 9
)

// systemOneRequest is vLLM's. Other fields are ignored, as there.
type systemOneRequest struct {
	Model        string          `json:"model"`
	State        json.RawMessage `json:"state"`     // a text, or JSON that the model reads as text
	Questions    json.RawMessage `json:"questions"` // by name, in order
	Instructions *string         `json:"instructions"`
	Images       json.RawMessage `json:"images"`
	Audio        json.RawMessage `json:"audio"`
	Videos       json.RawMessage `json:"videos"`
	Variables    json.RawMessage `json:"chat_template_kwargs"`
	CacheSalt    *string         `json:"cache_salt"`
	Priority     *int64          `json:"priority"` // has no effect here
	RequestID    string          `json:"request_id"`
	Shoal        *Extension      `json:"shoal"`
}

type systemOneReply struct {
	ID          string         `json:"id"`
	Object      string         `json:"object"` // structured_decision
	Created     int64          `json:"created"`
	Model       string         `json:"model"`
	Answers     ordered        `json:"answers"`
	Usage       systemOneUsage `json:"usage"`
	Diagnostics ordered        `json:"diagnostics"`
}

type systemOneUsage struct {
	Input  int `json:"input_tokens"`
	Output int `json:"output_tokens"`
}

type diagnostics struct {
	LabelMass  float64 `json:"label_mass"`
	TopIsLabel bool    `json:"argmax_is_label"`
}

// systemQuestion is one question as it was read.
type systemQuestion struct {
	name, kind string
	asks       string   // its instructions
	options    []string // of a choice their names, of a score the levels; of a noul yes and no
	meanings   []string // what the options mean; "": not said
	labels     []string
}

// systemOne answers POST /v1/systemone.
func (s *server) systemOne(w http.ResponseWriter, r *http.Request) error {
	var req systemOneRequest
	if err := readJSON(w, r, &req); err != nil {
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
	reply := systemOneReply{
		ID: "decision-" + cmp.Or(req.RequestID, newID("")), Object: "structured_decision", Created: time.Now().Unix(), Model: cmp.Or(out.Name, out.Model),
		Usage: systemOneUsage{Input: out.Count(), Output: len(questions)},
	}
	for i := range questions {
		q, read := &questions[i], &out.Reads[i]
		reply.Answers = append(reply.Answers, orderedMember{q.name, q.answer(read)})
		reply.Diagnostics = append(reply.Diagnostics, orderedMember{q.name, diagnostics{read.mass(), read.TopIsLabel}})
	}
	writeJSON(w, http.StatusOK, reply)
	return nil
}

// read makes questions for the model of the request.
func (req *systemOneRequest) read() (*DecideRequest, []systemQuestion, error) {
	ask := &DecideRequest{Model: req.Model}
	for _, m := range []struct {
		param string
		raw   json.RawMessage
	}{{"images", req.Images}, {"audio", req.Audio}, {"videos", req.Videos}} {
		if given(m.raw) {
			return nil, nil, badParam(m.param, "cannot be read: models here read text only")
		}
	}
	switch {
	case len(req.Model) > 1024:
		return nil, nil, badParam("model", "is too long for a name")
	case len(req.RequestID) > 256:
		return nil, nil, badParam("request_id", "is longer than 256 bytes")
	case first(req.State) == 0:
		return nil, nil, badParam("state", "is missing")
	case req.CacheSalt != nil && *req.CacheSalt == "":
		return nil, nil, badParam("cache_salt", "must not be an empty text")
	}
	ask.Alone = req.CacheSalt != nil // salts keep callers from each other's cache: a salted request leaves nothing there
	var err error
	if ask.Variables, err = templateVariables(req.Variables); err != nil {
		return nil, nil, err
	}
	if first(req.Questions) == 0 {
		return nil, nil, badParam("questions", "is missing")
	}
	list, err := members("questions", req.Questions)
	switch {
	case err != nil:
		return nil, nil, err
	case len(list) == 0:
		return nil, nil, badParam("questions", "needs at least one question")
	case len(list) > mostSystemOne:
		return nil, nil, badParam("questions", "has %d questions, where %d are possible: ask them in parts", len(list), mostSystemOne)
	}
	state := textOrJSON(req.State, ", ", ": ")
	questions := make([]systemQuestion, len(list))
	for i, m := range list {
		q := &questions[i]
		if err := q.read(m); err != nil {
			return nil, nil, err
		}
		ask.Questions = append(ask.Questions, DecideQuestion{Name: q.name, System: deref(req.Instructions, ""), User: state + "\n\n" + q.words(), Labels: q.labels})
	}
	return ask, questions, nil
}

// reasoningVariables turn a template's reasoning on or off.
var reasoningVariables = []string{"enable_thinking", "thinking"}

// templateVariables reads the variables for a chat template.
func templateVariables(raw json.RawMessage) (map[string]any, error) {
	const param = "chat_template_kwargs"
	if !present(raw) {
		return nil, nil
	}
	list, err := members(param, raw)
	if err != nil {
		return nil, err
	}
	out := map[string]any{}
	for _, m := range list {
		at := param + "." + m.key
		switch {
		case slices.Contains(reasoningVariables, m.key) && string(m.value) != "false":
			return nil, badParam(at, "must be false: what is read is where the answer begins, and reasoning would come first")
		case slices.Contains([]string{"messages", "tools", "add_generation_prompt", "continue_final_message"}, m.key):
			return nil, badParam(at, "cannot be set: the question is the message, and the answer begins after it")
		}
		out[m.key] = m.value
	}
	return out, nil
}

// read reads a question.
func (q *systemQuestion) read(m member) error {
	q.name = m.key
	at := "questions." + q.name
	if q.name == "" {
		return badParam("questions", "has a question without a name: ids must not be empty")
	}
	fields, err := members(at, m.value)
	if err != nil {
		return err
	}
	var criteria json.RawMessage
	for _, f := range fields {
		switch f.key {
		case "type":
			if err := decodeAt(at+".type", f.value, &q.kind); err != nil {
				return err
			}
		case "instructions":
			if present(f.value) {
				q.asks = textOrJSON(f.value, ", ", ": ")
			}
		case "criteria":
			criteria = f.value
		default:
			return badParam(at+"."+f.key, "is not known: a question has type, instructions and criteria")
		}
	}
	return q.readCriteria(at+".criteria", criteria)
}

// readCriteria reads the options of a question.
func (q *systemQuestion) readCriteria(at string, raw json.RawMessage) error {
	switch q.kind {
	case "choice":
		return q.readChoice(at, raw)
	case "noul":
		return q.readNoul(at, raw)
	case "score":
		return q.readScore(at, raw)
	}
	return badParam("questions."+q.name+".type", "must be choice, noul or score")
}

func (q *systemQuestion) readChoice(at string, raw json.RawMessage) error {
	if first(raw) != '{' {
		return badParam(at, "must be an object: of each option its name, and what it means or null")
	}
	list, err := members(at, raw)
	switch {
	case err != nil:
		return err
	case len(list) == 0:
		return badParam(at, "needs at least one option")
	case len(list) > mostOptions:
		return badParam(at, "has %d options, where %d are possible", len(list), mostOptions)
	}
	for i, m := range list {
		q.add(m.key, m.value, string(rune('A'+i)))
	}
	return nil
}

func (q *systemQuestion) readNoul(at string, raw json.RawMessage) error {
	means := map[string]json.RawMessage{}
	if present(raw) {
		list, err := members(at, raw)
		if err != nil {
			return err
		}
		for _, m := range list {
			if m.key != "true" && m.key != "false" {
				return badParam(at+"."+m.key, "is not known: the criteria of a noul are true and false")
			}
			means[m.key] = m.value
		}
	}
	q.add("yes", means["true"], "yes")
	q.add("no", means["false"], "no")
	return nil
}

func (q *systemQuestion) readScore(at string, raw json.RawMessage) error {
	var list []json.RawMessage
	if first(raw) != '[' {
		return badParam(at, "must be a list of levels, the lowest first")
	}
	if err := decodeAt(at, raw, &list); err != nil {
		return err
	}
	if len(list) < 2 || len(list) > mostLevels {
		return badParam(at, "has %d levels: 2 to %d are possible", len(list), mostLevels)
	}
	for i, level := range list {
		name := textOrJSON(level, ", ", ": ")
		if slices.Contains(q.options, name) {
			return badParam(at, "has the level %q twice", name)
		}
		q.add(name, nil, fmt.Sprint(i))
	}
	return nil
}

// add adds an option; meaning may be missing or null.
func (q *systemQuestion) add(name string, meaning json.RawMessage, label string) {
	said := ""
	if present(meaning) {
		said = textOrJSON(meaning, ", ", ": ")
	}
	q.options, q.meanings, q.labels = append(q.options, name), append(q.meanings, said), append(q.labels, label)
}

// demands end a question, by its kind.
var demands = map[string]string{
	"choice": "Answer with the letter of one option only.",
	"noul":   "Answer with yes or no only.",
	"score":  "Answer with the number of one level only.",
}

// words are the question as the model reads it, after what it is about.
func (q *systemQuestion) words() string {
	var lines []string
	if q.asks != "" {
		lines = append(lines, "Question: "+q.asks)
	}
	for i, label := range q.labels {
		switch name, means := q.options[i], q.meanings[i]; {
		case q.kind == "noul" && means == "":
			lines = append(lines, label)
		case q.kind == "noul":
			lines = append(lines, label+": "+means)
		case means == "":
			lines = append(lines, label+": "+name)
		default:
			lines = append(lines, label+": "+name+" - "+means)
		}
	}
	return strings.Join(append(lines, demands[q.kind]), "\n")
}

// answer is the answer to a question. Confidence is the likeliest option's probability
// among all tokens.
func (q *systemQuestion) answer(read *DecideRead) ordered {
	p := read.shares(1)
	top := likeliest(p)
	out := ordered{{"type", q.kind}}
	of := ordered{}
	for i, name := range q.options {
		if q.kind == "score" {
			name = fmt.Sprint(i)
		}
		of = append(of, orderedMember{name, p[i]})
	}
	switch q.kind {
	case "choice":
		out = append(out, orderedMember{"choice", q.options[top]})
	case "noul":
		out = append(out, orderedMember{"noul", p[0]})
	case "score":
		legend := ordered{}
		for i, name := range q.options {
			legend = append(legend, orderedMember{fmt.Sprint(i), name})
		}
		out = append(out, orderedMember{"score", expected(p)}, orderedMember{"legend", legend})
	}
	return append(out, orderedMember{"probabilities", of}, orderedMember{"confidence", p[top] * read.mass()})
}
