package node

import (
	"context"
	"encoding/json"
	"errors"

	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/protocol"
)

// Answers of a given format. The client writes down what the answer must be; the
// last stage draws nothing else; and the client checks what comes.

// stageFormats reads formats for a stage that ends a model.
type stageFormats struct {
	node  *Node
	model *store.Model
}

func (f stageFormats) Compile(format []*protocol.Piece, stopIDs []int32) (stage.Format, error) {
	t, err := f.node.library.Tools(context.Background(), f.model) // its header is here
	if err != nil {
		return nil, err
	}
	m, err := t.Compile(context.Background(), format)
	if err != nil {
		return nil, err
	}
	return m.Start(stopIDs), nil
}

// prepare does beforehand what would keep the first client waiting, who would
// take the stage for a hanging one.
func (f stageFormats) prepare(ctx context.Context) {
	t, err := f.node.library.Tools(ctx, f.model)
	if err != nil {
		f.node.cfg.Log.Warn("answers of a given format cannot be served", "model", f.model.Name(), "error", err)
		return
	}
	t.Prepare()
}

// shape decides what the answer must be, if anything was asked for.
func (g *generation) shape(prompt string, tools []tool) {
	direct := g.req.Think == "off"
	switch {
	case g.req.MustCall:
		var functions []answer.Function
		for _, t := range tools {
			functions = append(functions, answer.Function{Name: t.Function.Name, Parameters: t.parameters()})
		}
		g.format = g.tools.Syntax.Calls(functions, g.req.OneCall, prompt, direct)
	case g.req.Format != nil && g.req.Raw:
		g.format = []*protocol.Piece{{Kind: &protocol.Piece_Schema{Schema: g.req.Format}}}
	case g.req.Format != nil:
		g.format = g.tools.Syntax.Schema(g.req.Format, prompt, direct)
	}
}

// parameters of a function, as a JSON schema of objects. One that names none has
// none.
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

// follow makes ready to check that the answer is what it must be.
func (g *generation) follow(ctx context.Context) error {
	if g.format == nil {
		return nil
	}
	size := 0
	for _, p := range g.format {
		size += proto.Size(p)
	}
	if size > protocol.MaxFormat {
		return api.Errorf(api.BadInput, "the JSON schemas that the answer must follow have %d KiB; %d are possible", size>>10, protocol.MaxFormat>>10)
	}
	if len(g.tools.EOG()) == 0 {
		return api.Errorf(api.BadInput, "%s has no token that ends an answer, so no answer of a given format could end", g.model.Name())
	}
	m, err := g.tools.Compile(ctx, g.format)
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
	for _, t := range tools { // which of them it is
		one := []*protocol.Piece{{Kind: &protocol.Piece_Schema{Schema: t.parameters()}}}
		if _, err := g.tools.Compile(ctx, one); err != nil {
			bad.Message = "the parameters of " + t.Function.Name + ": " + err.Error()
			break
		}
	}
	return bad
}

// broken says that a token is not what the format has: the last stage, whose
// word it is, is of no use.
func (g *generation) broken(id int32) error {
	if g.rule == nil {
		return nil
	}
	ok, err := g.rule.Follows(g.drawn, id)
	if ok && err == nil {
		g.drawn = append(g.drawn, id)
		return nil
	}
	if err == nil {
		err = errors.New("the answer does not follow the format that was asked for, though the stage said that it would")
	}
	last := len(g.hops) - 1
	return &session.StageError{Index: last, Hop: g.hops[last], Err: lie{&protocol.Error{Code: protocol.Code_CODE_ENGINE, Message: err.Error()}}}
}
