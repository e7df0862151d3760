package generate

import (
	"context"
	"encoding/json"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/protocol"
)

// setFormat decides what the answer must look like, if the caller has asked for
// anything.
func (g *generation) setFormat(prompt string, tools []tool) {
	direct := g.req.Think == "off" || g.req.Continue
	switch {
	case g.req.MustCall:
		var functions []answer.Function
		for _, t := range tools {
			functions = append(functions, answer.Function{Name: t.Function.Name, Parameters: t.parameters()})
		}
		g.pieces = g.tools.Syntax.Calls(functions, g.req.OneCall, prompt, direct)
	case g.req.Format != nil && g.req.Raw:
		g.pieces = []*protocol.Piece{{Kind: &protocol.Piece_Schema{Schema: g.req.Format}}}
	case g.req.Format != nil:
		g.pieces = g.tools.Syntax.Schema(g.req.Format, prompt, direct)
	}
}

// parameters of a function, as a JSON schema of objects. A function without any takes
// an empty object.
func (t *tool) parameters() json.RawMessage {
	var schema map[string]json.RawMessage
	if len(t.Function.Parameters) == 0 {
		return json.RawMessage(`{"type":"object","additionalProperties":false}`)
	}
	if json.Unmarshal(t.Function.Parameters, &schema) == nil && len(schema) == 0 {
		return json.RawMessage(`{"type":"object"}`)
	}
	return t.Function.Parameters
}

// compileFormat prepares the check that the answer has its format. It fails with
// BadInput if no answer of the model could have it.
func (g *generation) compileFormat(ctx context.Context) error {
	if g.pieces == nil {
		return nil
	}
	size := 0
	for _, p := range g.pieces {
		size += proto.Size(p)
	}
	if size > protocol.MaxFormat {
		return api.Errorf(api.BadInput, "the JSON schemas that the answer must follow have %d KiB; %d are possible", size>>10, protocol.MaxFormat>>10)
	}
	if len(g.tools.EOG()) == 0 {
		return api.Errorf(api.BadInput, "%s has no token that ends an answer, so no answer of a given format could end", g.model.Name())
	}
	m, err := g.tools.Compile(ctx, g.pieces)
	if err == nil {
		g.machine = m
		_, err = m.Start(g.tools.EOG()).Allowed(nil)
	}
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	bad := &api.Error{Kind: api.BadInput, Param: "response_format", Message: err.Error()}
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
