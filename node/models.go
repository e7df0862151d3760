package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// lookTime is how long a model that nobody knows yet is looked for when
// someone waits for an answer.
const lookTime = 15 * time.Second

// awaitModel finds a model that is to be served, and waits for as long as
// nobody is there who knows it.
func (n *Node) awaitModel(ctx context.Context, name string, span *protocol.Span) (*store.Model, error) {
	var progress func(done, total int64) // of a name's; an address may carry a secret
	if e := n.names.Find(name); e != nil {
		progress = n.fetchingEvents(e.Name, span)
	}
	for told := false; ; {
		m, err := n.find(ctx, name, wanted{may: toImport, span: span, progress: progress})
		var e *api.Error
		if err == nil || !errors.As(err, &e) || e.Kind != api.UnknownModel {
			return m, err
		}
		if !told {
			n.cfg.Events(Event{Event: "waiting", Name: name, Error: err.Error()})
			told = true
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
}

// reach is how far this node goes for somebody who names a model.
type reach int

const (
	toAsk    reach = iota // what is here, in this program, or at a peer: a prompt's, and anybody's
	toPull                // and what the catalogue knows an origin of
	toImport              // and any file or address: the operator's, who has the token
)

// wanted is how somebody asks for a model.
type wanted struct {
	may      reach
	sure     bool                    // a name that peers give to several models is an error
	span     *protocol.Span          // to keep of a model that is imported; nil: all
	progress func(done, total int64) // of an import; may be nil
	warn     func(string)            // is told which of several models a name is taken for; nil: the log
}

// find gives a model by name or CID, with its manifest here.
func (n *Node) find(ctx context.Context, name string, w wanted) (*store.Model, error) {
	if w.warn == nil {
		w.warn = func(s string) { n.cfg.Log.Warn("a name is not clear", "warning", s) }
	}
	if e := n.names.Find(name); e != nil {
		m, err := n.known(ctx, e, name, w)
		switch {
		case m != nil || err != nil:
			return m, err
		case w.may == toAsk:
			return nil, api.Errorf(api.UnknownModel, "%s is in the catalogue, and neither here nor served by a peer; `shoal node --model %s` fetches and serves it", e.Name, e.Name)
		}
		return n.importListed(ctx, e, "", w.span, w.progress)
	}
	m, err := n.store.Find(name)
	if err == nil {
		return m, nil
	}
	if !errors.Is(err, store.ErrNotFound) {
		return nil, api.Errorf(api.BadInput, "%s", err)
	}
	if name == tinymodel.Name || w.may == toImport && isSource(name) {
		return n.importModel(ctx, api.AddRequest{Source: name}, w.span, w.progress)
	}
	if id, err := cid.Decode(name); err == nil {
		return n.learn(ctx, id, "")
	}
	return n.lookUp(ctx, name, w)
}

// learn fetches a model's manifest.
func (n *Node) learn(ctx context.Context, id cid.Cid, name string) (*store.Model, error) {
	if id.Type() != cid.DagCBOR {
		return nil, api.Errorf(api.UnknownModel, "%s is the CID of no model", id)
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	raw, err := n.exchange.Manifest(ctx, id)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, exchange.ErrNotFound) {
			return nil, api.Errorf(api.UnknownModel, "no peer that can be reached has model %s", id)
		}
		return nil, err
	}
	if name == "" {
		name = n.nameOf(id)
	}
	m, err := n.store.AddManifest(raw, id, name)
	if err != nil {
		return nil, input(err)
	}
	return m, nil
}

// nameOf is what peers call a model.
func (n *Node) nameOf(id cid.Cid) string {
	for _, o := range n.net.Known(id) {
		for _, s := range o.Spans {
			if s.ModelID() == id && s.Name != "" {
				return s.Name
			}
		}
		for _, h := range o.Shards {
			if string(h.Model) == string(id.Bytes()) && h.Name != "" {
				return h.Name
			}
		}
	}
	return ""
}

// lookUp finds the model that peers call by a name, or by one that begins so, and
// waits a while for somebody to call one so. Names are claims: if peers mean
// different models, the likeliest is taken, in words.
func (n *Node) lookUp(ctx context.Context, name string, w wanted) (*store.Model, error) {
	patience := lookTime / 3
	if isSource(name) { // nobody is waited for to call one so
		patience = 0
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := n.net.WaitPeers(wait); err != nil && ctx.Err() == nil && patience > 0 {
		return nil, api.Errorf(api.UnknownModel, "model %q is not here, and %s", name, err)
	}
	for {
		all := n.heard(n.net.Offers(ctx, cid.Undef, nil))
		found := fitting(name, all)
		if len(found) > 1 {
			found = n.real(ctx, found, func(*protocol.Manifest) bool { return true })
		}
		if len(found) > 1 && w.sure {
			return nil, unclear(name, found)
		}
		if len(found) > 0 {
			c, warning := choose(name, found)
			if warning != "" {
				w.warn(warning)
			}
			return n.take(ctx, c, name)
		}
		select {
		case <-wait.Done():
			switch {
			case ctx.Err() != nil:
				return nil, ctx.Err()
			case isSource(name):
				return nil, api.Errorf(api.UnknownModel, "there is no model %q, here or at a peer; `shoal model add` brings models from files and addresses", name)
			case len(all) > 0:
				return nil, api.Errorf(api.UnknownModel, "nobody here knows a model %q; known are %s%s", name, listOf(all, (*claim).name), n.names.hint(name))
			}
			return nil, api.Errorf(api.UnknownModel, "nobody here knows a model %q; add it with `shoal model add`%s", name, n.names.hint(name))
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// take gives the model of a claim, under the name by which it was asked for if
// peers call it so.
func (n *Node) take(ctx context.Context, c *claim, name string) (*store.Model, error) {
	if m, err := n.store.Model(c.id); err == nil { // under another name
		return m, nil
	}
	if len(c.names) > 0 && !slices.ContainsFunc(c.names, func(s string) bool { return strings.EqualFold(s, name) }) {
		name = c.names[0]
	}
	return n.learn(ctx, c.id, name)
}

// isRemote says that a source is not of this machine.
func isRemote(from string) bool {
	return strings.HasPrefix(from, "hf:") || strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://")
}

// isSource says that a model's name is something to import.
func isSource(name string) bool {
	return isRemote(name) || strings.ContainsAny(name, `/\`) || strings.HasSuffix(strings.ToLower(name), ".gguf")
}

// importModel imports a model from a file, a URL, or this program itself.
func (n *Node) importModel(ctx context.Context, req api.AddRequest, span *protocol.Span, progress func(done, total int64)) (*store.Model, error) {
	if e := n.names.Find(req.Source); e != nil && req.Quantize == "" {
		return n.importListed(ctx, e, req.Name, span, progress)
	}
	opt := store.AddOptions{Name: req.Name, Span: span, Progress: progress}
	from := req.Source
	if isDirectory(from) {
		path, done, err := n.convertDirectory(ctx, req, progress)
		if err != nil {
			return nil, err
		}
		defer done()
		if opt.Name == "" {
			opt.Name = convertedName(from, req.Quantize)
		}
		from, opt.Transient = path, true
	} else if req.Quantize != "" {
		return nil, api.Errorf(api.BadInput, "only a directory of safetensors is quantized; %s is none", req.Source)
	}
	if from == tinymodel.Name {
		f, err := os.CreateTemp(n.cfg.Home, ownPattern)
		if err != nil {
			return nil, err
		}
		defer os.Remove(f.Name())
		if _, err := f.Write(tinymodel.GGUF()); err != nil {
			f.Close()
			return nil, err
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
		from, opt.Transient = f.Name(), true
		if opt.Name == "" {
			opt.Name = tinymodel.Name
		}
	}
	return n.addToStore(ctx, from, opt)
}

// addToStore imports a model, and counts what comes over the network.
func (n *Node) addToStore(ctx context.Context, from string, opt store.AddOptions) (*store.Model, error) {
	tell, last := opt.Progress, int64(0)
	opt.Progress = func(done, total int64) {
		if isRemote(from) {
			n.imported.Add(uint64(done - last))
		}
		if last = done; tell != nil {
			tell(done, total)
		}
	}
	m, err := n.store.Add(ctx, from, opt)
	if err == nil {
		n.offerAll()
	}
	return m, err
}

// fetchShards brings what is lacking of some shards, and nothing else, from
// peers and from the model's origins. progress may be nil.
func (n *Node) fetchShards(ctx context.Context, m *store.Model, shards []int, progress func(api.Progress)) error {
	if m.Whole(shards) {
		return nil
	}
	if err := n.fetch(ctx, m, shards, shardWant{m, shards}, progress); err != nil {
		return err
	}
	if len(shards) > 1 { // who wants the header alone, wants no others
		n.learnNodes(ctx, m)
	}
	return nil
}

// fetch brings what a want lacks of some shards of a model. progress may be nil.
func (n *Node) fetch(ctx context.Context, m *store.Model, shards []int, want lackingWant, progress func(api.Progress)) error {
	done, err := n.store.Claim(m, shards)
	if err != nil {
		return fmt.Errorf("fetching %s: %w", m.Name(), err)
	}
	defer done()
	total, begin := want.lacks(), time.Now()
	note, ended := n.fetches.begin(m.Name(), total)
	defer ended()
	n.offerAll() // who fetches has something to give before it is done
	err = n.exchange.Fetch(ctx, m.ID(), want, func(p exchange.Progress) {
		n.download.note(p.Bytes, time.Since(begin))
		note(min(p.Bytes, total), p.Holders+p.Origins)
		if progress != nil {
			out := api.Progress{Done: min(p.Bytes, total), Total: total, Sources: p.Holders + p.Origins, Peers: p.Holders, Origins: p.Origins, Rate: p.Rate, Trouble: p.Trouble}
			if p.Rate > 0 {
				out.Left = float64(total-out.Done) / p.Rate
			}
			progress(out)
		}
	}, originsOf(m)...)
	switch {
	case errors.Is(err, exchange.ErrNotFound):
		return api.Errorf(api.NoRoute, "%s: %s", m.Name(), err)
	case errors.Is(err, store.ErrFull):
		return fmt.Errorf("fetching %s: %w; %s are still to come: `shoal model gc` and `shoal model rm` free some space, and the same command goes on from here",
			m.Name(), err, store.SizeText(want.lacks()))
	case err != nil:
		return fmt.Errorf("fetching %s: %w", m.Name(), err)
	}
	n.offerAll()
	return nil
}

// HasOrigin says that a model is known here which can be had without peers.
func (n *Node) HasOrigin(name string) bool {
	m, err := n.store.Find(name)
	return err == nil && len(m.Origins()) > 0 || n.names.Find(name) != nil
}

// learnNodes fetches what lists the leaves of a model's other shards, while
// there is somebody to ask; it is some bytes a MiB of the model.
func (n *Node) learnNodes(ctx context.Context, m *store.Model) {
	all := m.Shards()
	if lacking, err := m.NeedNodes(all); err != nil || len(lacking) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime/3)
	defer cancel()
	if err := n.exchange.Fetch(ctx, m.ID(), nodeWant{shardWant{m, all}}, nil); err != nil {
		n.cfg.Log.Debug("the lists of a model's other leaves", "model", m.ID(), "error", err)
	}
}

// rateMeter is the rate of the last long enough download.
type rateMeter struct {
	mu   sync.Mutex
	rate float64 // bytes a second
}

// note takes a download's state; too little says nothing.
func (r *rateMeter) note(bytes int64, took time.Duration) {
	if bytes < 4<<20 || took < 100*time.Millisecond {
		return
	}
	r.mu.Lock()
	r.rate = float64(bytes) / took.Seconds()
	r.mu.Unlock()
}

func (r *rateMeter) get() float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rate
}
