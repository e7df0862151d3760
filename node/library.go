package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// describe tells of a model in the store.
func describe(m *store.Model) api.Model {
	man := m.Manifest()
	out := api.Model{
		ID: m.ID().String(), Name: m.Name(), Names: m.Names(), Architecture: man.Architecture, Quantization: man.Quantization,
		Licence: man.Licence, Parameters: man.Parameters, Context: int(man.Context), Blocks: int(man.Blocks), Width: int(man.Width),
		Size: man.Size(), Allocated: m.Allocated(), Pinned: m.Pinned(), Origins: m.Origins(), Complete: true,
	}
	var part, pins []int
	for i, held := range m.Holds() {
		out.Complete = out.Complete && held
		if !held && m.HeldOf([]int{i}) > 0 {
			part = append(part, i)
		}
	}
	out.Held = heldNames(m)
	out.HeldBytes, out.Partial, out.Damaged = m.Held(), store.ShardNames(man, part), damageOf(m)
	if pins = m.PinnedShards(); !out.Pinned {
		out.Pins = store.ShardNames(man, pins)
	}
	return out
}

// heldNames are the shards that are whole here: runs of blocks as spans, others by
// their kind.
func heldNames(m *store.Model) []string {
	var whole []int
	for i, held := range m.Holds() {
		if held {
			whole = append(whole, i)
		}
	}
	out := []string{}
	for _, name := range store.ShardNames(m.Manifest(), whole) {
		var n int
		if _, err := fmt.Sscanf(name, "block %d", &n); err == nil {
			name = protocol.Span{From: n, To: n + 1}.String()
		}
		out = append(out, strings.TrimPrefix(name, "blocks "))
	}
	return out
}

// List tells of the models here, and of those that peers serve.
func (n *Node) List(ctx context.Context) ([]api.Model, error) {
	out := []api.Model{}
	for _, m := range n.store.Models() {
		out = append(out, describe(m))
	}
	ask, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, c := range n.listed(n.heard(n.net.Offers(ask, cid.Undef, nil))) {
		out = append(out, c.describe())
	}
	return out, nil
}

// describe tells of a model that peers serve.
func (c *claim) describe() api.Model {
	m := api.Model{ID: c.id.String(), Blocks: c.blocks, Width: c.width, Remote: true, Held: []string{}}
	if len(c.names) > 0 {
		m.Name = c.names[0]
	}
	return m
}

// Show tells of one model.
func (n *Node) Show(ctx context.Context, name string) (*api.Model, error) {
	m, err := n.local(name)
	if err != nil && api.AsError(err).Kind == api.UnknownModel {
		ask, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		for _, c := range n.heard(n.net.Offers(ask, cid.Undef, nil)) {
			if c.served && protocol.MatchModel(name, c.id, c.names) == protocol.MatchExact {
				d := c.describe()
				return &d, nil
			}
		}
	}
	if err != nil {
		return nil, err
	}
	d := describe(m)
	d.Abilities = abilities(m)
	return &d, nil
}

// local finds a model in the store.
func (n *Node) local(name string) (*store.Model, error) {
	m, err := n.store.Find(name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, api.Errorf(api.UnknownModel, "there is no model %q here; `shoal model ls` lists those there are", name)
	case err != nil:
		return nil, api.Errorf(api.BadInput, "%s", err)
	}
	return m, nil
}

// wantedSpan reads a span that may be empty (nil) or "all".
func wantedSpan(s string) (*protocol.Span, error) {
	if s == "" || s == "all" {
		return nil, nil
	}
	span, err := protocol.ParseSpan(s)
	if err != nil {
		return nil, api.Errorf(api.BadInput, "%s", err)
	}
	return &span, nil
}

// Add imports a model.
func (n *Node) Add(ctx context.Context, req api.AddRequest, progress func(api.Progress)) (*api.Model, error) {
	span, err := wantedSpan(req.Span)
	if err != nil {
		return nil, err
	}
	m, err := n.importModel(ctx, req, span, func(done, total int64) {
		if progress != nil {
			progress(api.Progress{Done: done, Total: total})
		}
	})
	if err != nil {
		return nil, input(err)
	}
	d := describe(m)
	return &d, nil
}

// input marks errors that are the caller's to mend.
func input(err error) error {
	for _, e := range []error{store.ErrSource, store.ErrSpan, gguf.ErrFormat, engine.ErrUnsupported, protocol.ErrManifest, text.ErrNoTemplate} {
		if errors.Is(err, e) {
			return api.Errorf(api.BadInput, "%s", err)
		}
	}
	if errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrBusy) {
		return api.Errorf(api.Refused, "%s", err)
	}
	return err
}

// Pull fetches a model's shards from peers and origins. Of what is whole here it checks every
// byte.
func (n *Node) Pull(ctx context.Context, req api.PullRequest, progress func(api.Progress)) (*api.Model, error) {
	span, err := wantedSpan(req.Span)
	if err != nil {
		return nil, err
	}
	w := wanted{may: toPull, sure: true, span: span, progress: func(done, total int64) {
		if progress != nil {
			progress(api.Progress{Done: done, Total: total})
		}
	}}
	if req.Import {
		w.may = toImport
	}
	m, err := n.find(ctx, req.Model, w)
	if err != nil {
		return nil, input(err)
	}
	shards := m.Shards()
	if span != nil {
		if all := m.Manifest().All(); !span.Valid(all.To) {
			return nil, api.Errorf(api.BadInput, "blocks %s: %s has blocks %s", span, m.Name(), all)
		}
		shards = m.Manifest().ShardsFor(*span)
	}
	if m.Whole(shards) { // then what is here is looked at, and what is damaged fetched anew
		if _, err := m.Verify(ctx, shards, false); err != nil {
			return nil, err
		}
	}
	if err := n.fetchShards(ctx, m, shards, progress); err != nil {
		return nil, input(err)
	}
	d := describe(m)
	return &d, nil
}

// Remove deletes a model that is not served.
func (n *Node) Remove(_ context.Context, name string) error {
	m, err := n.local(name)
	if err != nil {
		return err
	}
	n.mu.Lock()
	for _, s := range n.serving {
		if s.model == m {
			n.mu.Unlock()
			return api.Errorf(api.Refused, "%s is being served by this node; stop serving it first", m.Name())
		}
	}
	n.mu.Unlock()
	if err := n.store.Remove(m.ID()); err != nil {
		return input(err)
	}
	n.names.forget(m.ID())
	n.offerAll()
	return nil
}

// Tokenize gives a text's tokens by a model of this node or of its peers, or
// by a GGUF file on this machine.
func (n *Node) Tokenize(ctx context.Context, name, t string, special bool) ([]int32, error) {
	if isSource(name) && !isRemote(name) {
		return TokenizeFile(ctx, name, t, special)
	}
	m, err := n.find(ctx, name, wanted{})
	if err != nil {
		return nil, err
	}
	tools, err := n.tools(ctx, m)
	if err != nil {
		return nil, err
	}
	return n.encode(ctx, tools.Tokenizer, t, text.EncodeOptions{AddSpecial: special, ParseSpecial: special})
}

// TokenizeFile gives a text's tokens by the vocabulary of a GGUF file, which
// need hold nothing else.
func TokenizeFile(ctx context.Context, path, t string, special bool) ([]int32, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, api.Errorf(api.BadInput, "%s", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, api.Errorf(api.BadInput, "%s", err)
	}
	h, err := gguf.Read(f, st.Size())
	if err != nil {
		return nil, api.Errorf(api.BadInput, "%s: %s", path, err)
	}
	tok, err := text.New(h)
	if err != nil {
		return nil, api.Errorf(api.BadInput, "%s: %s", path, err)
	}
	return tok.Encode(ctx, t, text.EncodeOptions{AddSpecial: special, ParseSpecial: special})
}

// Status tells how the node is.
func (n *Node) Status(context.Context) (*api.Status, error) {
	st := &api.Status{
		Peer: n.net.Self().String(), Version: n.cfg.Version, Addrs: n.net.FullAddrs(), Home: n.cfg.Home, Uptime: time.Since(n.started),
		Peers: len(n.net.Peers()), Light: n.cfg.Client, Memory: n.cfg.Memory, Serving: []api.Serving{},
	}
	for _, m := range n.store.Models() {
		st.Allocated += m.Allocated()
	}
	st.Quota, st.QuotaUsed = n.cfg.Quota, n.store.Unpinned()
	passed := n.exchange.Stats()
	st.Given, st.Taken = passed.Given, passed.Taken
	total := n.exchange.Total()
	st.GivenAll, st.TakenAll = total.Given, total.Taken
	st.Up, st.Down = n.cfg.Up, n.cfg.Down
	n.mu.Lock()
	defer n.mu.Unlock()
	st.API, st.APIOpen = n.word.API, n.cfg.APIOpen && n.cfg.APIKey == ""
	for _, s := range n.serving {
		v := api.Serving{Name: s.spec.Model, From: s.span.From, To: s.span.To, Ready: s.ready, State: s.state, EnginePID: s.pid}
		if s.model != nil {
			v.Model, v.Name = s.model.ID().String(), s.model.Name()
		}
		if s.stage != nil {
			load := s.stage.Status()
			v.Sessions, v.KVFree, v.TokensPerS = load.Sessions, load.KVFree, load.TokensPerS
			v.Queued, v.Passes, v.Rows = load.QueuedRows, load.Passes, load.Rows
			v.KVTokens, v.StepMs = s.stage.Config().KVTokens, ms(load.DecodePass)
			v.Memory = s.info.Weights + s.info.KV + s.info.Graph
			if f := s.info.Fence; f != nil {
				v.Fence, v.Unfenced = f.Holds, f.Lacks
			}
			for _, d := range s.info.Devices {
				v.Devices = append(v.Devices, d.Library+" "+d.Name)
			}
		}
		st.Serving = append(st.Serving, v)
	}
	st.Warnings = append(st.Warnings, n.cfg.Warnings...)
	return st, nil
}

// Peers tells of the peers connected.
func (n *Node) Peers(ctx context.Context) ([]api.Peer, error) {
	ask, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	n.net.Offers(ask, cid.Undef, nil) // so that it is known what they serve
	out := []api.Peer{}
	for _, p := range n.net.Peers() {
		v := api.Peer{Peer: p.ID.String(), Addr: p.Addr, Transport: p.Transport, RTTMs: ms(p.RTT), Version: p.Version, Relayed: p.Relayed}
		account := n.exchange.Account(p.ID)
		v.Given, v.Taken = account.Given, account.Taken
		if account.Bad.After(time.Now()) {
			v.BadUntil = &account.Bad
		}
		if p.Offer != nil {
			for _, s := range p.Offer.Spans {
				if !s.Loaded {
					continue
				}
				v.Serves = append(v.Serves, fmt.Sprintf("%s %s", s.Name, s.Span()))
			}
		}
		out = append(out, v)
	}
	return out, nil
}
