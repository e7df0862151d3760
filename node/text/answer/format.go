package answer

import (
	"encoding/json"

	"github.com/shoalnet/shoal/protocol"
)

// Formats that an answer must have, in the syntax of its model, which a Reader
// parses again.

// Function is a function that can be called.
type Function struct {
	Name       string
	Parameters []byte // a JSON schema
}

// Text returns the format of an answer whose text follows a piece. The model may first
// reason, if it marks its reasoning, unless direct is set.
func (s *Syntax) Text(body *protocol.Piece, prompt string, direct bool) []*protocol.Piece {
	return s.reasoned(s.said(body), prompt, direct)
}

// said is the text of an answer, with the marks before it.
func (s *Syntax) said(body *protocol.Piece) []*protocol.Piece {
	if s.harmony {
		return []*protocol.Piece{exactly("<|channel|>final<|message|>"), body}
	}
	return []*protocol.Piece{body}
}

// Calls returns the format of an answer that calls exactly one of the
// functions, or, without one, at least one of them and more where the model's
// syntax allows that. The model may first reason, unless direct is set.
func (s *Syntax) Calls(functions []Function, one bool, prompt string, direct bool) []*protocol.Piece {
	return s.reasoned(s.called(functions, one), prompt, direct)
}

// called is the calls of an answer.
func (s *Syntax) called(functions []Function, one bool) []*protocol.Piece {
	w := s.writes
	each := &protocol.Either{}
	for _, f := range functions {
		each.Of = append(each.Of, &protocol.Pieces{Pieces: []*protocol.Piece{
			exactly(w.open + w.quote(f.Name) + w.arguments), follows(f.Parameters), exactly(w.shut),
		}})
	}
	call := &protocol.Piece{Kind: &protocol.Piece_Either{Either: each}}
	body := []*protocol.Piece{exactly(w.before), call}
	if !one && w.several {
		body = append(body, &protocol.Piece{Kind: &protocol.Piece_Again{Again: &protocol.Pieces{Pieces: []*protocol.Piece{exactly(w.between), call}}}})
	}
	return append(body, exactly(w.after))
}

// CallsOr returns the format of an answer that is either calls, as of Calls, or text, as
// of Text.
func (s *Syntax) CallsOr(functions []Function, one bool, body *protocol.Piece, prompt string, direct bool) []*protocol.Piece {
	ways := &protocol.Either{Of: []*protocol.Pieces{{Pieces: s.said(body)}, {Pieces: s.called(functions, one)}}}
	return s.reasoned([]*protocol.Piece{{Kind: &protocol.Piece_Either{Either: ways}}}, prompt, direct)
}

// reasoned puts optional reasoning before a body.
func (s *Syntax) reasoned(body []*protocol.Piece, prompt string, direct bool) []*protocol.Piece {
	switch {
	case direct && s.begun(prompt):
		return append([]*protocol.Piece{exactly("\n\n" + s.think.shut + "\n\n")}, body...)
	case direct:
		return body
	case s.harmony:
		return optional([]*protocol.Piece{exactly("<|channel|>analysis<|message|>"), until("<|end|>"), exactly("<|start|>assistant")}, body)
	case s.begun(prompt):
		return append([]*protocol.Piece{until(s.think.shut), layout}, body...)
	case !s.thinks:
		return body
	}
	return optional([]*protocol.Piece{exactly(s.think.open), until(s.think.shut), layout}, body)
}

// layout is the white space with which a model may separate its answer from its
// reasoning.
var layout = either(exactly(""), exactly("\n"), exactly("\n\n"))

// optional returns begin followed by body, or neither.
func optional(begin, body []*protocol.Piece) []*protocol.Piece {
	e := &protocol.Either{Of: []*protocol.Pieces{{}, {Pieces: begin}}}
	return append([]*protocol.Piece{{Kind: &protocol.Piece_Either{Either: e}}}, body...)
}

func exactly(text string) *protocol.Piece {
	return &protocol.Piece{Kind: &protocol.Piece_Text{Text: text}}
}

func until(text string) *protocol.Piece {
	return &protocol.Piece{Kind: &protocol.Piece_Until{Until: text}}
}

func follows(schema []byte) *protocol.Piece {
	return &protocol.Piece{Kind: &protocol.Piece_Schema{Schema: schema}}
}

func either(ways ...*protocol.Piece) *protocol.Piece {
	e := &protocol.Either{}
	for _, w := range ways {
		e.Of = append(e.Of, &protocol.Pieces{Pieces: []*protocol.Piece{w}})
	}
	return &protocol.Piece{Kind: &protocol.Piece_Either{Either: e}}
}

// writing is how a model writes calls: the marks around all of them, around
// each, and around a name.
type writing struct {
	before, between, after string
	open, arguments, shut  string
	bare                   bool // the name is not in quotes
	several                bool
}

func (w *writing) quote(name string) string {
	if w.bare {
		return name
	}
	b, _ := json.Marshal(name) // a string can always be encoded
	return string(b)
}

// plainJSON is a call without marks, with the given key for arguments.
func plainJSON(arguments string) writing {
	return writing{open: `{"name": `, arguments: `, "` + arguments + `": `, shut: "}"}
}
