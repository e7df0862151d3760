package api

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"unicode"
)

// Decisions as SGLang serves them over chat models: fields, words of the prompt, labels and
// what the numbers mean are SGLang's, and so is the version of the words.

const (
	promptFormat  = 1    // SGLang's number for the words of its prompts
	mostDecisions = 1024 // questions of a request
)

type decisionsRequest struct {
	Model       string            `json:"model"`
	Input       json.RawMessage   `json:"input"` // a text, or an object or list that the model reads as text
	Images      json.RawMessage   `json:"images"`
	Questions   []json.RawMessage `json:"questions"`
	Temperature *float64          `json:"temperature"` // of the options' probabilities alone
	Variables   json.RawMessage   `json:"chat_template_kwargs"`
	Format      *int              `json:"prompt_format_version"`
	Prompts     bool              `json:"return_prompt_token_ids"`
	Shoal       *Extension        `json:"shoal"`
}

// decisionsFields are those that a request may have.
var decisionsFields = []string{"model", "input", "images", "questions", "temperature", "chat_template_kwargs", "prompt_format_version", "return_prompt_token_ids", "shoal"}

type decisionsReply struct {
	Object  string         `json:"object"` // decisions
	Model   string         `json:"model"`
	Format  int            `json:"prompt_format_version"`
	Answers ordered        `json:"answers"` // by the questions' ids
	Usage   decisionsUsage `json:"usage"`
}

type decisionsUsage struct {
	Prompt     int `json:"prompt_tokens"`
	Total      int `json:"total_tokens"`
	Completion int `json:"completion_tokens"` // 0: nothing is generated
	Reasoning  int `json:"reasoning_tokens"`  // likewise
}

type decisionAnswer struct {
	Type          string   `json:"type"`
	Probabilities ordered  `json:"probabilities"`
	LabelMass     float64  `json:"label_mass"`
	Choice        *string  `json:"choice,omitempty"`
	Score         *float64 `json:"score,omitempty"`
	PromptIDs     []int32  `json:"prompt_token_ids,omitempty"`
	LabelIDs      []int32  `json:"label_token_ids,omitempty"`
}

// decisionQuestion has the fields of all types.
type decisionQuestion struct {
	ID       string            `json:"id"`
	Type     string            `json:"type"` // choice, score or yes_no
	Question json.RawMessage   `json:"question"`
	Options  []json.RawMessage `json:"options"` // of a choice
	Levels   []json.RawMessage `json:"levels"`  // of a score
	Yes      json.RawMessage   `json:"yes"`     // of a yes_no: what it means
	No       json.RawMessage   `json:"no"`

	names    []string // of the options, as in the answer
	meanings []string // of the options
	labels   []string
}

// decisionFields are those that a question of each type may have.
var decisionFields = map[string][]string{
	"choice": {"id", "type", "question", "options"},
	"score":  {"id", "type", "question", "levels"},
	"yes_no": {"id", "type", "question", "yes", "no"},
}

// decisions answers POST /v1/decisions.
func (s *server) decisions(w http.ResponseWriter, r *http.Request) error {
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	if speaksOpenAI(body) {
		return s.openDecisions(w, r, body)
	}
	var req decisionsRequest
	if err := decode(body, &req); err != nil {
		return err
	}
	if err := knownFields("", body, decisionsFields); err != nil {
		return err
	}
	ask, questions, err := req.read()
	if err != nil {
		return err
	}
	out, err := s.decide(w, r, ask, req.Shoal)
	if err != nil {
		if e := AsError(err); e.Kind == NoText { // SGLang's status
			return &Error{Kind: BadInput, Param: e.Param, Message: e.Message, Err: err}
		}
		return err
	}
	reply := decisionsReply{Object: "decisions", Model: cmp.Or(out.Name, out.Model), Format: promptFormat, Usage: decisionsUsage{Prompt: out.Count(), Total: out.Count()}}
	for i := range questions {
		reply.Answers = append(reply.Answers, orderedMember{questions[i].ID, questions[i].answer(&out.Reads[i], deref(req.Temperature, 1), req.Prompts)})
	}
	writeJSON(w, http.StatusOK, reply)
	return nil
}

// knownFields returns an error if an object at a place of the request has other fields.
func knownFields(param string, raw json.RawMessage, known []string) error {
	raw = json.RawMessage(strings.TrimPrefix(string(raw), string(byteOrderMark)))
	list, err := members(param, raw)
	if err != nil {
		return err
	}
	for _, m := range list {
		if !slices.Contains(known, m.key) {
			at := strings.TrimPrefix(param+"."+m.key, ".")
			return badParam(at, "is not known here: the fields are %s", strings.Join(known, ", "))
		}
	}
	return nil
}

// read makes questions for the model of the request.
func (req *decisionsRequest) read() (*DecideRequest, []decisionQuestion, error) {
	switch t := deref(req.Temperature, 1); {
	case len(req.Model) > 1024:
		return nil, nil, badParam("model", "is too long for a name")
	case given(req.Images):
		return nil, nil, badParam("images", "cannot be read: models here read text only")
	case !(t > 0) || math.IsInf(t, 0):
		return nil, nil, badParam("temperature", "must be more than 0")
	case req.Format != nil && *req.Format != promptFormat:
		return nil, nil, badParam("prompt_format_version", "%d is not served: this node uses version %d", *req.Format, promptFormat)
	case len(req.Questions) == 0:
		return nil, nil, badParam("questions", "is missing, or empty")
	case len(req.Questions) > mostDecisions:
		return nil, nil, badParam("questions", "has %d questions, where %d are possible: ask them in parts", len(req.Questions), mostDecisions)
	}
	ask := &DecideRequest{Model: req.Model, Prompts: req.Prompts}
	if ask.Model == "default" { // SGLang's name for the model that is served
		ask.Model = ""
	}
	input, err := decisionText("input", req.Input)
	if err != nil {
		return nil, nil, err
	}
	if ask.Variables, err = templateVariables(req.Variables); err != nil {
		return nil, nil, err
	}
	questions, seen := make([]decisionQuestion, len(req.Questions)), map[string]bool{}
	for i, raw := range req.Questions {
		q := &questions[i]
		words, err := q.read(fmt.Sprintf("questions[%d]", i), raw)
		if err != nil {
			return nil, nil, err
		}
		if seen[q.ID] {
			return nil, nil, badParam(fmt.Sprintf("questions[%d].id", i), "repeats that of another question")
		}
		seen[q.ID] = true
		ask.Questions = append(ask.Questions, DecideQuestion{Name: q.ID, User: input + "\n\n" + words, Labels: q.labels})
	}
	return ask, questions, nil
}

// decisionText reads a text, or an object or list as text. It must not be blank.
func decisionText(param string, raw json.RawMessage) (string, error) {
	switch first(raw) {
	case 0:
		return "", badParam(param, "is missing")
	case '"', '{', '[':
		text := textOrJSON(raw, ",", ":")
		if strings.TrimSpace(text) == "" || isEmpty(raw) {
			return "", badParam(param, "must not be blank")
		}
		return text, nil
	}
	return "", badParam(param, "must be a text, an object or a list")
}

// meaningText reads a text that may be missing, null or blank.
func meaningText(param string, raw json.RawMessage) (string, error) {
	switch first(raw) {
	case 0, 'n':
		return "", nil
	case '"', '{', '[':
		return textOrJSON(raw, ",", ":"), nil
	}
	return "", badParam(param, "must be a text, an object, a list or null")
}

// read reads a question at a place of the request, and returns it as the model reads it.
func (q *decisionQuestion) read(at string, raw json.RawMessage) (string, error) {
	if err := decodeAt(at, raw, q); err != nil {
		return "", err
	}
	known, ok := decisionFields[q.Type]
	if !ok {
		return "", badParam(at+".type", "must be choice, score or yes_no")
	}
	if err := knownFields(at, raw, known); err != nil {
		return "", err
	}
	if strings.TrimSpace(q.ID) == "" {
		return "", badParam(at+".id", "must not be blank")
	}
	question, err := decisionText(at+".question", q.Question)
	if err != nil {
		return "", err
	}
	lines := []string{"Question: " + question}
	switch q.Type {
	case "choice":
		err = q.readOptions(at)
	case "score":
		err = q.readLevels(at)
	default:
		lines[0] = "Is the following true? " + question
		err = q.readSides(at)
	}
	if err != nil {
		return "", err
	}
	for i, label := range q.labels {
		switch means := q.meanings[i]; {
		case q.Type == "yes_no" && means == "":
		case q.Type != "choice":
			lines = append(lines, label+": "+means)
		case means == "":
			lines = append(lines, label+": "+q.names[i])
		default:
			lines = append(lines, label+": "+q.names[i]+" - "+means)
		}
	}
	demand := demands[q.Type]
	if q.Type == "yes_no" {
		demand = demands["noul"]
	}
	return strings.Join(append(lines, demand), "\n"), nil
}

func (q *decisionQuestion) readOptions(at string) error {
	at += ".options"
	if n := len(q.Options); n < 2 || n > mostOptions {
		return badParam(at, "has %d options: 2 to %d are possible", n, mostOptions)
	}
	seen := map[string]bool{}
	for i, raw := range q.Options {
		one := fmt.Sprintf("%s[%d]", at, i)
		var o struct {
			Name        *string         `json:"name"`
			Description json.RawMessage `json:"description"`
		}
		if err := decodeAt(one, raw, &o); err != nil {
			return err
		}
		if err := knownFields(one, raw, []string{"name", "description"}); err != nil {
			return err
		}
		name := deref(o.Name, "")
		key := strings.ToLower(strings.TrimSpace(name))
		switch {
		case key == "":
			return badParam(one+".name", "must not be blank")
		case strings.ContainsFunc(name, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Zl, unicode.Zp) }):
			return badParam(one+".name", "must have no control characters or line breaks: each option is a line of the prompt")
		case seen[key]:
			return badParam(one+".name", "repeats that of another option")
		}
		seen[key] = true
		means, err := meaningText(one+".description", o.Description)
		if err != nil {
			return err
		}
		q.add(name, means, string(rune('A'+i)))
	}
	return nil
}

func (q *decisionQuestion) readLevels(at string) error {
	at += ".levels"
	if n := len(q.Levels); n < 2 || n > mostLevels {
		return badParam(at, "has %d levels: 2 to %d are possible", n, mostLevels)
	}
	for i, raw := range q.Levels {
		means, err := decisionText(fmt.Sprintf("%s[%d]", at, i), raw)
		if err != nil {
			return err
		}
		q.add(fmt.Sprint(i), means, fmt.Sprint(i))
	}
	return nil
}

func (q *decisionQuestion) readSides(at string) error {
	for _, side := range []struct {
		name string
		raw  json.RawMessage
	}{{"yes", q.Yes}, {"no", q.No}} {
		means, err := meaningText(at+"."+side.name, side.raw)
		if err != nil {
			return err
		}
		q.add(side.name, means, side.name)
	}
	return nil
}

func (q *decisionQuestion) add(name, means, label string) {
	q.names, q.meanings, q.labels = append(q.names, name), append(q.meanings, means), append(q.labels, label)
}

// answer is the answer to a question.
func (q *decisionQuestion) answer(read *DecideRead, temperature float64, prompts bool) *decisionAnswer {
	p := read.shares(temperature)
	out := &decisionAnswer{Type: q.Type, LabelMass: read.mass()}
	for i, name := range q.names {
		out.Probabilities = append(out.Probabilities, orderedMember{name, p[i]})
	}
	switch q.Type {
	case "choice":
		out.Choice = &q.names[likeliest(p)]
	case "score":
		out.Score = new(expected(p))
	}
	if prompts {
		out.PromptIDs, out.LabelIDs = read.PromptIDs, read.LabelIDs
	}
	return out
}
