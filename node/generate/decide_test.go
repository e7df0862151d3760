package generate

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/engine/sample"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol"
)

// judge is an engine to which every token's logit is what it has heard so far, but for
// those that it likes, each less than the one before it.
type judge struct {
	vocab int
	likes []int32
	heard *[]int32 // by its one session
}

func (j judge) Run(_ context.Context, b *engine.Batch) (*engine.Result, error) {
	*j.heard = append((*j.heard)[:b.Rows[0].Pos], b.Tokens...)
	res := &engine.Result{}
	for _, o := range b.Outputs {
		logits := make([]float32, j.vocab)
		for id := range logits {
			logits[id] = float32(id%7) / 10
		}
		for i, id := range j.likes {
			logits[id] = 9 - float32(i) + float32(len(*j.heard)%3)
		}
		res.Tokens = append(res.Tokens, sample.Sample(logits, o.Sampling, o.Sampled, o.Position, o.Allowed))
	}
	return res, nil
}

func (judge) Remove(int, int32) error          { return nil }
func (judge) CopyPrefix(int, int, int32) error { return errors.New("there is one session at a time") }

// judges is a stage with that engine.
func (w *world) judges(likes ...int32) func(conn) {
	man := w.Manifest()
	st := stage.New(stage.Config{
		Model: w.ID(), Span: man.All(), Blocks: int(man.Blocks), Width: int(man.Width), Vocab: w.tools.VocabSize(),
		KVTokens: 4096, MaxSeqs: 1, MaxBatch: 64, MaxContext: 512,
	}, judge{w.tools.VocabSize(), likes, new([]int32)}, nil)
	w.stages = append(w.stages, st)
	srv := stage.NewServer(slog.New(slog.DiscardHandler), nil)
	srv.Add(st)
	return func(c conn) { srv.Serve(c) }
}

// elderly is a stage of a version that knows nothing of readings: it accepts sessions of
// them as if they were others.
func elderly(how func(conn)) func(conn) {
	return func(c conn) {
		r := bufio.NewReader(c)
		f, _, err := protocol.ReadFrame(r, 0)
		if err != nil {
			return
		}
		b, _ := protocol.AppendFrame(nil, f, nil)
		if f.GetOpen().GetReadings() > 0 {
			b, _ = protocol.AppendFrame(nil, &protocol.Frame{Kind: &protocol.Frame_Opened{Opened: &protocol.Opened{}}}, nil)
			_, _ = c.Write(b)
			_, _ = io.Copy(io.Discard, r)
			return
		}
		how(conn{replayed{c.Conn, io.MultiReader(bytes.NewReader(b), r)}, c.peer})
	}
}

type replayed struct {
	net.Conn
	r io.Reader
}

func (c replayed) Read(p []byte) (int, error) { return c.r.Read(p) }

// literate is the tiny model with tokens for yes and no, which it lacks.
func literate(t *testing.T) *oneModel {
	m := tiny(t)
	h, err := m.Header()
	if err != nil {
		t.Fatal(err)
	}
	for i, kv := range h.KVs {
		switch kv.Key {
		case "tokenizer.ggml.tokens":
			list := slices.Clone(kv.Value.([]string))
			n := len(list)
			list[n-2], list[n-1] = "yes", "no"
			h.KVs[i].Value = list
		case "tokenizer.ggml.merges":
			list := slices.Clone(kv.Value.([]string))
			n := len(list)
			list[n-2], list[n-1] = "y es", "n o"
			h.KVs[i].Value = list
		}
	}
	return &oneModel{m.Model, toolsOf(t, h)}
}

func questionOf(user string, labels ...string) *api.DecideRequest {
	return &api.DecideRequest{Questions: []api.DecideQuestion{{Name: "q", User: user, Labels: labels}}}
}

// Labels' probabilities come from a stage of the present version, and the same from an
// older one where they are among the most probable tokens.
func TestDecide(t *testing.T) {
	m := tiny(t)
	ask := questionOf("Who was it?", "A", "B")
	ask.Questions = append(ask.Questions, api.DecideQuestion{Name: "r", User: "Who was it, and how long?", Labels: []string{"0", "1", "2"}}, ask.Questions[0])
	ask.Prompts = true
	var want *api.DecideResult
	for _, old := range []bool{false, true} {
		w := newWorld(m)
		a := id("a")
		how := w.judges(id32(t, m, "A"), id32(t, m, "B"), id32(t, m, "0"), id32(t, m, "1"), id32(t, m, "2"))
		if old {
			how = elderly(how)
		}
		w.serve(a, route.Stranger, time.Millisecond, how)
		got, err := w.generator().Decide(t.Context(), ask)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
			if r := got.Reads[0]; len(got.Reads) != 3 || !r.TopIsLabel || math.Abs(r.Logprobs[0]-r.Logprobs[1]-1) > 1e-6 || !slices.Equal(r.LabelIDs, []int32{id32(t, m, "A"), id32(t, m, "B")}) ||
				r.PromptTokens != len(r.PromptIDs) || got.Count() != 2*r.PromptTokens+got.Reads[1].PromptTokens || got.Name != m.Name() || len(got.Route) != 1 {
				t.Errorf("got %+v", got)
			}
		}
		for i := range want.Reads {
			if !slices.Equal(got.Reads[i].Logprobs, want.Reads[i].Logprobs) || got.Reads[i].TopIsLabel != want.Reads[i].TopIsLabel {
				t.Errorf("old %v: question %d has %v, not %v", old, i, got.Reads[i].Logprobs, want.Reads[i].Logprobs)
			}
		}
		if s := w.book.Of(a); s.Failed > 0 {
			t.Errorf("old %v: recorded as %+v", old, s)
		}
		w.close()
	}
}

// id32 is the token of a text.
func id32(t *testing.T, m *oneModel, s string) int32 {
	t.Helper()
	ids, err := m.tools.Encode(t.Context(), s, text.EncodeOptions{})
	if err != nil || len(ids) != 1 {
		t.Fatal(s, ids, err)
	}
	return ids[0]
}

// Where an older stage does not say what labels are worth, nothing is made up: another
// route is taken, or the request fails and says why.
func TestDecideTooOld(t *testing.T) {
	m := tiny(t)
	w := newWorld(m)
	defer w.close()
	a, b := id("a"), id("b")
	w.serve(a, route.Stranger, time.Millisecond, elderly(w.judges()))
	_, err := w.generator().Decide(t.Context(), questionOf("Who?", "A", "B"))
	if !errors.Is(err, session.ErrNoReadings) && api.AsError(err).Kind != api.NoRoute || !strings.Contains(err.Error(), "older version") {
		t.Errorf("an old stage alone: %v", err)
	}
	w.serve(b, route.Stranger, 2*time.Millisecond, w.judges())
	if got, err := w.generator().Decide(t.Context(), questionOf("Who?", "A", "B")); err != nil || got.Route[0].Peer != b.String() {
		t.Errorf("with a new stage beside it: %+v, %v", got, err)
	}
	if s := w.book.Of(a); s.Failed > 0 {
		t.Errorf("to be of an older version is no fault, and was recorded as %+v", s)
	}
}

// What cannot be asked is refused before any route is sought, with the name of the question
// and of what is wrong with it.
func TestDecideRefused(t *testing.T) {
	m := tiny(t)
	w := newWorld(m)
	for name, c := range map[string]struct {
		ask  *api.DecideRequest
		kind api.Kind
		says string
	}{
		"a label of several tokens": {questionOf("Is it?", "Yes", "yes"), api.BadInput, `question "q": the label "yes"`},
		"a label twice":             {questionOf("Is it?", "A", "A"), api.BadInput, `the label "A"`},
		"an empty label":            {questionOf("Is it?", ""), api.BadInput, `the label ""`},
		"too long":                  {questionOf(strings.Repeat("long ", 600), "A", "B"), api.TooLong, "maximum context length"},
		"another model":             {&api.DecideRequest{Model: "other"}, api.UnknownModel, "other"},
	} {
		_, err := w.generator().Decide(t.Context(), c.ask)
		if e := api.AsError(err); err == nil || e.Kind != c.kind || !strings.Contains(e.Message, c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	vectors := *m.tools
	vectors.Embeds = &Embeds{}
	g := newWorld(&oneModel{m.Model, &vectors}).generator()
	if _, err := g.Decide(t.Context(), questionOf("Is it?", "A")); api.AsError(err).Kind != api.NoText {
		t.Errorf("a model of embeddings: %v", err)
	}
}

// A chat model scores texts by the probability of yes, and cuts those that are too long.
func TestScoreByChat(t *testing.T) {
	m := literate(t)
	w := newWorld(m)
	defer w.close()
	n := int32(m.tools.VocabSize())
	w.serve(id("a"), route.Stranger, time.Millisecond, w.judges(n-2, n-1))
	query := "What is a fox?"
	ask := &api.EmbedRequest{Query: &query, Truncate: true, Texts: []api.EmbedText{{Text: "An animal."}, {Text: strings.Repeat("A drum. ", 400)}}}
	got, err := w.generator().Embed(t.Context(), ask)
	if err != nil {
		t.Fatal(err)
	}
	yes := 1 / (1 + math.Exp(-1))
	if len(got.Embeddings) != 2 || math.Abs(float64(got.Embeddings[0][0])-yes) > 1e-5 || math.Abs(float64(got.Embeddings[1][0])-yes) > 1e-5 || got.Tokens[1] < 300 || got.Tokens[1] > 512 {
		t.Errorf("got %v of %v tokens", got.Embeddings, got.Tokens)
	}
	ask.Truncate = false
	if _, err := w.generator().Embed(t.Context(), ask); api.AsError(err).Kind != api.TooLong {
		t.Errorf("a text that is too long: %v", err)
	}
}
