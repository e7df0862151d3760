package node

import (
	"cmp"
	"context"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/catalog"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/generate"
	"github.com/shoalnet/shoal/node/library"
	"github.com/shoalnet/shoal/node/report"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/node/swarm"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/constrain"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// The services declare what they need; here each gets it from the others.

// usable returns an error if metadata are no model's, or its text cannot be read. Whether
// an engine of this node computes it does not matter: peers may have another one.
func usable(md interface{ Value(key string) any }) error {
	return cmp.Or(engine.Plausible(md), text.Check(md))
}

// newLibrary makes the library.
func (n *Node) newLibrary(c *catalog.Catalog) (*library.Library, error) {
	return library.New(library.Config{
		Home: n.cfg.Home, Store: n.store, Catalog: c, Network: n.net, Exchange: n.exchange, Survey: n.survey,
		Cuts:    func(h *gguf.Header) *protocol.Cuts { return engine.CutsFor(n.cfg.Engines.Use, h) },
		Ability: engine.Ability, Convert: n.cfg.Convert, BadInput: []error{engine.ErrUnsupported, text.ErrVocabulary},
		Served: func(m *store.Model) bool { return n.serve.Serves(m) }, Changed: func() { n.serve.Offer() }, Gained: func() { n.serve.Retry() },
		Log: n.cfg.Log.With("part", "library"),
	})
}

// served is what spans are served with.
func (n *Node) served() serve.Config {
	c := &n.cfg
	load := c.Engine
	if load == nil {
		load = engine.InChild()
	}
	return serve.Config{
		Light: c.Client, Name: c.Name, Specs: c.Serve, Home: c.Home, Memory: c.Memory, Threads: c.Threads, Nice: c.Nice, Devices: c.Devices,
		KVType: c.KVType, KVTokens: c.KVTokens, Exact: c.Exact, MaxSessions: c.MaxSessions, DrainTime: c.DrainTime, UnloadAfter: c.UnloadAfter, Lend: c.Lend,
		Load: load, InProcess: c.Engine != nil, Engines: c.Engines, Version: c.Version, Measured: c.home().Measured(),
		Models: models{n}, Network: n.net, Survey: n.survey, Probe: n.generator.Probe, Dialer: stageDialer{n.net}, Lending: n.desk, Stages: n.stages,
		Metrics: n.metrics, Tracer: n.traces.Tracer(), Events: c.Events, NoAhead: c.Ahead == "off", Guess: c.Guess, Log: c.Log,
		Free:  func() int64 { return files.FreeSpace(c.home().Store()) },
		Began: func() { n.life.update(func() {}) }, // a node that is to serve nothing is ready now
	}
}

// reported is what reports are made of.
func (n *Node) reported() report.Config {
	c := &n.cfg
	return report.Config{
		Version: c.Version, Name: c.Name, Home: c.Home, StoreDir: c.home().Store(), Light: c.Client, Exact: c.Exact, Nice: c.Nice, Devices: c.Devices,
		Limits: n.limits, Word: n.doors, Warnings: c.Warnings, Drain: n.Drain, Ahead: n.generator.Ahead, Network: n.net, Exchange: n.exchange, Store: n.store, Survey: n.survey, Serving: n.serve.Snapshot, Library: models{n}, Swarms: swarm.Owned(c.Swarms),
	}
}

// doors is where the API is asked, once it listens.
func (n *Node) doors() Word {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.word
}

// models are the library as the other services want it. The library needs the
// exchange, which needs to know how busy the others are, so it is looked up at each
// call.
type models struct{ n *Node }

func (m models) Pick(ctx context.Context, name string) (*store.Model, string, error) {
	return m.n.library.Pick(ctx, name)
}

func (m models) Obtain(ctx context.Context, name string, only *protocol.Span, progress func(done, total int64)) (*store.Model, error) {
	return m.n.library.Find(ctx, name, library.Want{May: library.Import, Span: only, Progress: progress})
}

func (m models) List() []*store.Model { return m.n.store.Models() }

func (m models) Fetch(ctx context.Context, of *store.Model, shards []int, progress func(api.Progress)) error {
	return m.n.library.Fetch(ctx, of, shards, progress)
}

func (m models) Download() float64 { return m.n.library.Download() }

func (m models) Tools(ctx context.Context, of *store.Model) (*generate.Tools, error) {
	t, err := m.n.library.Tools(ctx, of)
	if err != nil {
		return nil, err
	}
	tools := &generate.Tools{Tokenizer: t.Tokenizer, Template: t.Template, TemplateErr: t.TemplateErr, Syntax: t.Syntax, Cuts: t.Cuts, Compile: t.Compile}
	if h, err := of.Header(); err == nil {
		tools.Embeds, tools.Recurrent = (*generate.Embeds)(engine.EmbedsOf(h)), engine.IsRecurrent(h)
	}
	return tools, nil
}

func (m models) Encode(ctx context.Context, by *text.Tokenizer, t string, opt text.EncodeOptions) ([]int32, error) {
	return m.n.library.Encode(ctx, by, t, opt)
}

func (m models) Compile(ctx context.Context, of *store.Model, format []*protocol.Piece) (*constrain.Machine, error) {
	t, err := m.n.library.Tools(ctx, of)
	if err != nil {
		return nil, err
	}
	return t.Compile(ctx, format)
}

func (m models) Prepare(ctx context.Context, of *store.Model) error {
	t, err := m.n.library.Tools(ctx, of)
	if err != nil {
		return err
	}
	t.Prepare()
	return nil
}

func (models) Describe(of *store.Model) api.Model { return library.Describe(of) }

func (m models) DescribeClaim(c *survey.Claim) api.Model { return m.n.library.DescribeClaim(c) }

func (m models) Listed(claims []*survey.Claim) []*survey.Claim { return m.n.library.Listed(claims) }

func (m models) Fetches() []api.Fetch { return m.n.library.Fetches() }

func (m models) Imported() uint64 { return m.n.library.Imported() }
