package generate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/protocol"
)

// asked is the piece that the caller's constraint makes of the answer's text; nil: any
// text will do.
func (g *generation) asked() *protocol.Piece {
	switch {
	case g.req.Format != nil:
		return &protocol.Piece{Kind: &protocol.Piece_Schema{Schema: g.req.Format}}
	case g.req.Pattern != "":
		return &protocol.Piece{Kind: &protocol.Piece_Pattern{Pattern: g.req.Pattern}}
	case g.req.Grammar != "":
		return &protocol.Piece{Kind: &protocol.Piece_Grammar{Grammar: g.req.Grammar}}
	}
	return nil
}

// setFormat decides what the answer must look like, if the caller has asked for
// anything. A call that is demanded comes first: the text waits for the turn after it.
func (g *generation) setFormat(prompt string, tools []tool) {
	direct, body, syntax := g.req.Think == "off" || g.req.Continue, g.asked(), g.tools.Syntax
	switch {
	case g.req.MustCall:
		g.pieces = syntax.Calls(functions(tools), g.req.OneCall, prompt, direct)
	case body == nil:
	case g.req.Raw:
		g.pieces = []*protocol.Piece{body}
	case len(tools) > 0:
		g.free = func(f []answer.Function) []*protocol.Piece {
			return syntax.CallsOr(f, g.req.OneCall, body, prompt, direct)
		}
		g.pieces = g.free(functions(tools))
	default:
		g.pieces = syntax.Text(body, prompt, direct)
	}
}

// maxTold is the longest schema that a model is told, in bytes.
const maxTold = 16 << 10

// explainFormat tells the model the schema that its answer must follow: one that only
// finds its tokens taken away writes what is allowed, not what was meant.
func (g *generation) explainFormat(in *text.RenderInput) {
	if g.req.Format == nil || g.req.MustCall || g.silent || len(g.req.Format) > maxTold {
		return
	}
	schema := unspaced(string(g.req.Format))
	for _, m := range in.Messages {
		if strings.Contains(unspaced(m.Content), schema) {
			return
		}
	}
	if strings.Contains(g.tools.Template.Source(), "response_format") {
		if in.Extra == nil {
			in.Extra = map[string]any{}
		}
		in.Extra["response_format"] = map[string]any{"type": "json_schema", "json_schema": map[string]any{"name": "answer", "schema": g.req.Format}}
		return
	}
	words := "Answer with JSON that follows this schema, and with nothing else:\n" + string(g.req.Format)
	if len(in.Tools) > 0 || len(g.req.Tools) > 0 {
		words = "Unless you call a function, answer with JSON that follows this schema, and with nothing else:\n" + string(g.req.Format)
	}
	g.told = true
	instruct(in, g.tools.Template.Traits(), words)
}

// unspaced is a text without white space, and with the characters that Go escapes in JSON
// as they are.
func unspaced(s string) string {
	s = strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&").Replace(s)
	return strings.Join(strings.Fields(s), "")
}

// anyArguments is the schema of any function's arguments.
var anyArguments = []byte(`{"type":"object"}`)

func functions(tools []tool) (out []answer.Function) {
	for _, t := range tools {
		out = append(out, answer.Function{Name: t.Function.Name, Parameters: t.parameters()})
	}
	return out
}

// parameters of a function, as a JSON schema of objects. A function without any takes
// an empty object.
func (t *tool) parameters() json.RawMessage {
	var schema map[string]json.RawMessage
	if len(t.Function.Parameters) == 0 {
		return json.RawMessage(`{"type":"object","additionalProperties":false}`)
	}
	if json.Unmarshal(t.Function.Parameters, &schema) == nil && len(schema) == 0 {
		return anyArguments
	}
	return t.Function.Parameters
}

// stopIDs returns the tokens that end the answer.
func (g *generation) stopIDs() []int32 {
	if g.req.IgnoreEOS {
		return g.req.StopIDs
	}
	return append(g.tools.EOG(), g.req.StopIDs...)
}

// compileFormat prepares the check that the answer has its format. It fails with
// BadInput if no answer of the model could have it.
func (g *generation) compileFormat(ctx context.Context) error {
	if g.pieces == nil {
		return nil
	}
	if len(g.tools.EOG()) == 0 {
		return api.Errorf(api.BadInput, "%s has no token that ends an answer, so no answer of a given format could end", g.model.Name())
	}
	err := g.tryFormat(ctx)
	if err != nil && g.free != nil && ctx.Err() == nil {
		g.loosen(ctx)
		err = g.tryFormat(ctx)
	}
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	bad := &api.Error{Kind: api.BadInput, Param: cmp.Or(g.req.FormatField, "response_format"), Message: err.Error()}
	if !g.req.MustCall {
		return bad
	}
	bad.Param = "tools"
	tools, _ := readTools(g.req.Tools)
	for _, t := range tools { // find out whose they are
		one := []*protocol.Piece{{Kind: &protocol.Piece_Schema{Schema: t.parameters()}}}
		if _, err := g.tools.Compile(ctx, one); err != nil {
			bad.Message = "the parameters of " + t.Function.Name + ": " + err.Error()
			break
		}
	}
	return bad
}

// tryFormat compiles the format, and checks that an answer of the model could begin.
func (g *generation) tryFormat(ctx context.Context) error {
	if size := sizeOf(g.pieces); size > protocol.MaxFormat {
		return fmt.Errorf("the format that the answer must follow has %d KiB; %d are possible", size>>10, protocol.MaxFormat>>10)
	}
	m, err := g.tools.Compile(ctx, g.pieces)
	if err != nil {
		return err
	}
	g.machine = m
	_, err = m.Start(g.stopIDs()).Allowed(nil)
	return err
}

func sizeOf(pieces []*protocol.Piece) (size int) {
	for _, p := range pieces {
		size += proto.Size(p)
	}
	return size
}

// loosen allows any arguments where the parameters of a tool cannot be followed, or take
// too much room: the model is free to call it, and without a format beside the tools the
// arguments would not be checked at all.
func (g *generation) loosen(ctx context.Context) {
	tools, _ := readTools(g.req.Tools)
	list, large := functions(tools), sizeOf(g.pieces) > protocol.MaxFormat
	for i := range list {
		if !large {
			schema := []*protocol.Piece{{Kind: &protocol.Piece_Schema{Schema: list[i].Parameters}}}
			if _, err := g.tools.Compile(ctx, schema); err == nil {
				continue
			}
		}
		list[i].Parameters = anyArguments
	}
	g.pieces = g.free(list)
}

// checkFormat fails with a StageError if a token breaks the answer's format. The last
// stage drew it, and had accepted the format.
func (g *generation) checkFormat(id int32) error {
	if g.format == nil {
		return nil
	}
	ok, err := g.format.Follows(g.drawn, id)
	if ok && err == nil {
		g.drawn = append(g.drawn, id)
		return nil
	}
	if err == nil {
		err = errors.New("the answer does not follow the format that was asked for, though the stage said that it would")
	}
	last := len(g.hops) - 1
	return &session.StageError{Index: last, Hop: g.hops[last], Err: lieError{&protocol.Error{Code: protocol.Code_CODE_ENGINE, Message: err.Error()}}}
}
