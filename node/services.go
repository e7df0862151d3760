package node

import (
	"context"
	"log/slog"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/node/report"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/serve"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/node/text/constrain"
	"github.com/shoalnet/shoal/protocol"
)

// The services declare what they need; here each gets it from the others.

// served is what spans are served with.
func (n *Node) served() serve.Config {
	c := &n.cfg
	return serve.Config{
		Light: c.Client, Specs: c.Serve, Home: c.Home, Memory: c.Memory, Threads: c.Threads, Nice: c.Nice, Devices: c.Devices,
		KVType: c.KVType, KVTokens: c.KVTokens, Exact: c.Exact, MaxSessions: c.MaxSessions, DrainTime: c.DrainTime, Lend: c.Lend,
		Load: n.load, InProcess: c.InProcess,
		Models: models{n}, Network: n.net, Survey: n.survey, Probe: n.probe, Dialer: stageDialer{streams{n.net}}, Stages: n.stages,
		Metrics: n.metrics, Tracer: n.traces.Tracer(), Events: c.Events, Log: c.Log,
	}
}

// reported is what reports are made of. Serving has begun when the first is asked for.
func (n *Node) reported() report.Config {
	c := &n.cfg
	return report.Config{
		Version: c.Version, Home: c.Home, StoreDir: c.path(storeDir), Light: c.Client, APIOpen: c.APIOpen && c.APIKey == "",
		Memory: c.Memory, Quota: c.Quota, Up: c.Up, Down: c.Down, Threads: c.Threads, Nice: c.Nice, Devices: c.Devices, MaxSessions: c.MaxSessions, Lend: c.Lend,
		API: n.apiAddress, Warnings: warnings, Drain: n.Drain,
		Network: n.net, Exchange: n.exchange, Store: n.store, Survey: n.survey, Serving: func() serve.Snapshot { return n.serve.Snapshot() }, Library: models{n},
	}
}

// apiAddress is where the API is asked, once it listens.
func (n *Node) apiAddress() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.word.API
}

// warnings are about this program on this machine.
func warnings() []string {
	if w := engine.BuiltForThisMachine(); w != "" {
		return []string{w}
	}
	return nil
}

// load loads a span into an engine, in a process of its own unless the operator wants
// it in this one.
func (n *Node) load(ctx context.Context, cfg engine.Config, log *slog.Logger) (engine.Engine, error) {
	if n.cfg.InProcess {
		return engine.Load(ctx, cfg, log)
	}
	return engine.Start(ctx, n.cfg.Command, cfg, log)
}

// probe drives a session for one token along a route, and records that its peers
// answered.
func (n *Node) probe(ctx context.Context, m *store.Model, r *route.Route, where map[string]session.Hop, prompt []int32) error {
	out, err := session.Run(ctx, sessionDialer{streams{n.net}}, &session.Request{
		Model: m.ID(), Route: hopsOf(r, where), Prompt: prompt, Sampling: &protocol.Sampling{MaxTokens: 1},
	}, func(*protocol.Token) error { return nil })
	if err != nil {
		return err
	}
	n.answered(m.ID(), out.Route)
	return nil
}

// models are the node's models as the services need them.
type models struct{ n *Node }

func (m models) Await(ctx context.Context, name string, only *protocol.Span) (*store.Model, error) {
	return m.n.awaitModel(ctx, name, only)
}

func (m models) List() []*store.Model { return m.n.store.Models() }

func (m models) Fetch(ctx context.Context, of *store.Model, shards []int, progress func(api.Progress)) error {
	return m.n.fetchShards(ctx, of, shards, progress)
}

func (m models) Download() float64 { return m.n.download.get() }

func (m models) Compile(ctx context.Context, of *store.Model, format []*protocol.Piece) (*constrain.Machine, error) {
	t, err := m.n.tools(ctx, of)
	if err != nil {
		return nil, err
	}
	return t.machines.compile(ctx, t.Tokenizer, format)
}

func (m models) Prepare(ctx context.Context, of *store.Model) error {
	t, err := m.n.tools(ctx, of)
	if err != nil {
		return err
	}
	t.machines.mu.Lock()
	defer t.machines.mu.Unlock()
	t.machines.prepare(t.Tokenizer)
	return nil
}

func (m models) Describe(of *store.Model) api.Model { return describe(of) }

func (m models) DescribeClaim(c *survey.Claim) api.Model { return describeClaim(c) }

func (m models) Listed(claims []*survey.Claim) []*survey.Claim { return m.n.listed(claims) }

func (m models) Fetches() []api.Fetch { return m.n.fetches.list() }

func (m models) Imported() uint64 { return m.n.imported.Load() }
