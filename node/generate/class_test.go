package generate

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/route"
)

// When a stage is lost in the middle of an answer, one that computes alike takes over,
// though another is faster. Where there is none, the answer says so, and what computed it.
func TestEngineChange(t *testing.T) {
	m := tiny(t)
	text := strings.Repeat(" there was a fox.", 60) // longer than a stage is ahead
	const ggml, llama = "ggml v1, CPU, f16", "llama v2, CPU, f16"
	for name, c := range map[string]struct {
		others map[string]string // peer: class; those later in the alphabet are slower
		lost   int               // tokens before the loss
		by     string
		want   []api.EngineChange
	}{
		"the same class":          {map[string]string{"b": llama, "c": ggml}, 2, "c", nil},
		"another":                 {map[string]string{"b": llama}, 2, "b", []api.EngineChange{{From: 0, To: int(m.Manifest().Blocks), Was: ggml, Now: llama}}},
		"an older node, unnamed":  {map[string]string{"b": ""}, 2, "b", []api.EngineChange{{From: 0, To: int(m.Manifest().Blocks), Was: ggml}}},
		"before there was a word": {map[string]string{"b": llama}, 0, "b", nil},
	} {
		w := newWorld(m)
		w.serve(id("a"), route.Stranger, time.Millisecond, w.recites(t, text, nil))
		w.list[0].Class = ggml
		for _, p := range []string{"b", "c"} {
			if class, there := c.others[p]; there {
				w.serve(id(p), route.Stranger, time.Duration(p[0]-'a'+1)*time.Millisecond, w.recites(t, text, nil))
				w.list[len(w.list)-1].Class = class
			}
		}
		said, by, engine := "", "", ""
		var repaired, all []api.EngineChange
		lose := func() { w.stages[0].Close(errors.New("lost")) }
		if c.lost == 0 {
			lose()
		}
		err := w.generator().Generate(t.Context(), &api.GenerateRequest{Raw: true, Prompt: "Once upon a time"}, func(e api.Event) error {
			switch {
			case e.Start != nil:
				by, engine = e.Start.Route[0].Peer, e.Start.Route[0].Engine
			case e.Repair != nil && len(e.Repair.Route) > 0:
				by, engine = e.Repair.Route[0].Peer, e.Repair.Route[0].Engine
				repaired = append(repaired, e.Repair.Engines...)
			case e.Token != nil:
				if said += e.Token.Text; e.Token.Index+1 == c.lost {
					lose()
				}
			case e.Done != nil:
				said += e.Done.Text
				for _, r := range e.Done.Recoveries {
					all = append(all, r.Engines...)
				}
			}
			return nil
		})
		if err != nil || said != text || by != id(c.by).String() || engine != c.others[c.by] {
			t.Errorf("%s: %d of %d bytes, from %s by %q, %v", name, len(said), len(text), by, engine, err)
		}
		if !slices.Equal(repaired, c.want) || !slices.Equal(all, c.want) {
			t.Errorf("%s: told of %v, and at the end of %v; want %v", name, repaired, all, c.want)
		}
		w.close()
	}
}
