package library

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/catalog"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
)

const (
	// lookTime is how long a manifest is sought.
	lookTime = 15 * time.Second

	maxTried  = 8               // manifests that are fetched for one name
	graceTime = 2 * time.Second // for the others, once one has come
)

// Reach is how far the node goes for a caller that names a model.
type Reach int

const (
	Ask    Reach = iota // what is here, in this program, or at a peer: a prompt's, and anybody's
	Pull                // and what the catalogue knows an origin of
	Import              // and any file or address: the operator's, who has the token
)

// Want is how a caller asks for a model.
type Want struct {
	May      Reach
	Sure     bool                    // a name that peers use for several models is an error
	Span     *protocol.Span          // to keep of a model that is imported; nil: all
	Progress func(done, total int64) // of an import, in bytes; may be nil
}

// place is where a model is that a name means.
type place int

const (
	unknown  place = iota // nowhere
	here                  // in the store
	atPeers               // its manifest came from them
	atOrigin              // it is to be imported
)

// resolution is what a name means.
type resolution struct {
	place    place
	model    *store.Model   // here
	id       cid.Cid        // at peers
	manifest []byte         // at peers: verified against id
	name     string         // at peers: what to call it; "": after the manifest
	entry    *catalog.Entry // if the catalogue's word decided; nil at an origin: the name is the source
	warning  string         // which of several models was taken, and why
	why      error          // unknown
}

// shelf is the models of this home: those of a store, open or not.
type shelf interface {
	Models() []*store.Model
	Model(id cid.Cid) (*store.Model, error)
	Find(name string) (*store.Model, error)
	From(source string) *store.Model
}

// resolver finds out what names mean. It asks peers, and changes nothing here.
type resolver struct {
	store    shelf
	names    *names
	sources  *sources
	net      Network
	survey   Survey
	manifest func(context.Context, cid.Cid) ([]byte, error)
	began    time.Time
}

// How long a peer is awaited that calls a model by a name: long while this node has
// just begun and meets its peers, and short later, when they have all said what they
// have.
const (
	lookNew    = lookTime / 3
	lookLater  = time.Second
	meetingEnd = 30 * time.Second
)

// patience is how long a name is sought among what peers offer.
func (v *resolver) patience() time.Duration {
	if time.Since(v.began) > meetingEnd {
		return lookLater
	}
	return lookNew
}

// query is one name on its way through the rules.
type query struct {
	name  string
	want  Want
	entry *catalog.Entry  // of the catalogue; nil: it is not in there
	id    cid.Cid         // that the name is, or means by the catalogue; undefined: neither
	short bool            // a catalogue's name that may be short for other models, too: smollm2
	met   bool            // peers were asked what they offer, for a name of the catalogue
	heard []*survey.Claim // and this is what
	why   error           // that nobody knows the model
}

// resolve finds out where the model is that a name means. The first of the rules to
// find it wins; doc.go has them as a table. Its errors are the context's, BadInput
// where a name means several models, and what the exchange fails with; that nobody
// knows the model is no error but a resolution.
func (v *resolver) resolve(ctx context.Context, name string, w Want) (*resolution, error) {
	q := v.query(name, w)
	for _, rule := range []func(context.Context, *query) (*resolution, error){v.here, v.source, v.claimed, v.identified, v.fitting, v.listed} {
		if r, err := rule(ctx, q); r != nil || err != nil {
			return r, err
		}
	}
	return &resolution{why: q.why}, nil
}

// query returns a name as the rules take it.
func (v *resolver) query(name string, w Want) *query {
	name = v.untagged(name)
	q := &query{name: name, want: w, entry: v.names.Find(name)}
	if q.entry != nil {
		q.id, q.short = v.names.meaning(q.entry), !strings.Contains(name, ":")
	} else if id, err := cid.Decode(name); err == nil {
		q.id = id
	}
	return q
}

// untagged returns the name that Ollama's clients write as NAME:latest, if it is one that
// is known without peers; MatchModel does it for the others.
func (v *resolver) untagged(name string) string {
	base, ok := strings.CutSuffix(name, ":latest")
	if ok && v.names.Find(name) == nil && (base == tinymodel.Name || v.names.Find(base) != nil) {
		return base
	}
	return name
}

// here finds the name in the store. Where the catalogue knows it, it must be the
// very name or model, unless it may be short for others.
func (v *resolver) here(_ context.Context, q *query) (*resolution, error) {
	if q.entry != nil {
		if m := v.called(q.name, q.entry.Name); m != nil {
			return &resolution{place: here, model: m}, nil
		}
	}
	if q.entry == nil || q.short {
		m, err := v.store.Find(q.name)
		if err == nil {
			return &resolution{place: here, model: m}, nil
		}
		if !errors.Is(err, store.ErrNotFound) {
			return nil, api.Errorf(api.BadInput, "%w", err)
		}
	}
	if q.entry != nil && q.id.Defined() {
		if m, err := v.store.Model(q.id); err == nil {
			return &resolution{place: here, model: m, entry: q.entry}, nil
		}
	}
	return nil, nil
}

// called returns the store's model of exactly one of the names, the first first.
func (v *resolver) called(names ...string) *store.Model {
	for _, want := range names {
		for _, m := range v.store.Models() {
			if slices.ContainsFunc(m.Names(), func(c string) bool { return strings.EqualFold(c, want) }) {
				return m
			}
		}
	}
	return nil
}

// source takes the name for something to import, unless that has been done.
func (v *resolver) source(_ context.Context, q *query) (*resolution, error) {
	if q.entry == nil && (q.name == tinymodel.Name || q.want.May == Import && isSource(q.name)) {
		if m := v.from(q.name); m != nil {
			return &resolution{place: here, model: m}, nil
		}
		return &resolution{place: atOrigin}, nil
	}
	return nil, nil
}

// claimed finds the model that peers call by the name. Where the catalogue knows
// it, peers' word counts only if it may be short for others, and none of them
// offers the model that the catalogue means.
func (v *resolver) claimed(ctx context.Context, q *query) (*resolution, error) {
	if q.entry == nil {
		if q.id.Defined() {
			return nil, nil
		}
		return v.lookUp(ctx, q)
	}
	wait, cancel := context.WithTimeout(ctx, lookTime/5)
	defer cancel()
	if v.net.WaitPeers(wait) != nil {
		return nil, ctx.Err()
	}
	q.met, q.heard = true, v.survey.Claims(ctx, true)
	if !q.short || slices.ContainsFunc(q.heard, func(c *survey.Claim) bool { return c.ID.Equals(q.id) }) {
		return nil, nil
	}
	return v.lookUp(ctx, q)
}

// lookUp finds the model that peers call by a name, or by one that begins with it,
// and waits a while for a peer that does. Names are claims: if peers mean different
// models the likeliest is taken, with a warning.
func (v *resolver) lookUp(ctx context.Context, q *query) (*resolution, error) {
	patience := v.patience()
	if isSource(q.name) { // no peer will call a model so
		patience = 0
	}
	wait, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := v.net.WaitPeers(wait); err != nil && ctx.Err() == nil && patience > 0 {
		q.why = v.unknownAlone(q.name)
		return nil, nil
	}
	for {
		all := v.survey.Claims(ctx, true)
		found, manifests := survey.Fitting(q.name, all), [][]byte{nil}
		if len(found) > 1 {
			found, manifests = v.proven(ctx, found, func(*protocol.Manifest) bool { return true })
		}
		if len(found) > 1 && q.want.Sure {
			return nil, api.Errorf(api.BadInput, "peers call %d models %q; name one of %s", len(found), q.name,
				survey.ListOf(found, func(c *survey.Claim) string { return c.ID.String() }))
		}
		if len(found) > 0 {
			return v.take(ctx, q, found, manifests[0])
		}
		select {
		case <-wait.Done():
			q.why = v.notFound(q.name, all)
			return nil, ctx.Err()
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// take resolves to the likeliest of claims, under the name that was asked for if
// peers call it so. manifest may be nil, if it has not been fetched yet.
func (v *resolver) take(ctx context.Context, q *query, found []*survey.Claim, manifest []byte) (*resolution, error) {
	c, warning := survey.Likeliest(q.name, found)
	if m, err := v.store.Model(c.ID); err == nil { // under another name
		return &resolution{place: here, model: m, warning: warning}, nil
	}
	name := q.name
	if len(c.Names) > 0 && !slices.ContainsFunc(c.Names, func(s string) bool { return strings.EqualFold(s, name) }) {
		name = c.Names[0]
	}
	if manifest != nil {
		return &resolution{place: atPeers, id: c.ID, manifest: manifest, name: name, warning: warning}, nil
	}
	r, err := v.fetch(ctx, q, c.ID)
	if r != nil {
		r.name, r.warning = name, warning
	}
	return r, err
}

// notFound is why a name means nothing where peers offer what they do.
func (v *resolver) notFound(name string, all []*survey.Claim) error {
	if isSource(name) {
		err := fmt.Errorf("there is no model %q, here or at a peer; one in a file or at an address must be added first", name)
		return api.Errorf(api.UnknownModel, "%w", remedy.For(err, remedy.AddModel))
	}
	known, kind := "", remedy.AddModel
	if len(all) > 0 {
		known, kind = "; known are "+survey.ListOf(all, (*survey.Claim).Name), remedy.SearchModels
	}
	return api.Errorf(api.UnknownModel, "%w", remedy.For(fmt.Errorf("nobody here knows a model %q%s%s", name, known, v.similar(name)), kind))
}

// unknownAlone is the error for a name that nothing here knows while there is no peer
// to ask.
func (v *resolver) unknownAlone(name string) error {
	err := fmt.Errorf("there is no model %q here or in the catalogue, and no peer was found to ask%s", name, v.similar(name))
	return api.Errorf(api.UnknownModel, "%w", remedy.For(err, remedy.SearchModels))
}

// similar names the catalogue's models that a name may have been meant to be.
func (v *resolver) similar(name string) string {
	near := v.names.Near(name)
	if len(near) == 0 {
		return ""
	}
	return "; the catalogue has " + strings.Join(near[:min(8, len(near))], ", ")
}

// identified finds the model of a CID at peers.
func (v *resolver) identified(ctx context.Context, q *query) (*resolution, error) {
	if !q.id.Defined() || q.entry != nil && !q.met {
		return nil, nil
	}
	r, err := v.fetch(ctx, q, q.id)
	if r != nil {
		if r.entry = q.entry; q.entry != nil {
			r.name = q.entry.Name
		} else {
			r.name = v.survey.NameOf(q.id)
		}
	}
	return r, err
}

// fetch resolves to a CID whose manifest peers have.
func (v *resolver) fetch(ctx context.Context, q *query, id cid.Cid) (*resolution, error) {
	if id.Type() != cid.DagCBOR {
		q.why = api.Errorf(api.UnknownModel, "%s is the CID of no model", id)
		return nil, nil
	}
	look, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	raw, err := v.manifest(look, id)
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, exchange.ErrNotFound) {
		q.why = api.Errorf(api.UnknownModel, "no peer that can be reached has model %s", id)
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, err
	}
	return &resolution{place: atPeers, id: id, manifest: raw}, nil
}

// fitting finds a model of the catalogue whose CID nobody knows at peers that call
// one so: those are believed whose manifest has the catalogue's size and hashes. A
// manifest may lie about those, which only a CID, or the origin, can show; so a
// caller that must be sure goes to the origin where several fit.
func (v *resolver) fitting(ctx context.Context, q *query) (*resolution, error) {
	if q.entry == nil || q.id.Defined() || !q.met {
		return nil, nil
	}
	e := q.entry
	var called []*survey.Claim
	for _, c := range q.heard {
		if slices.ContainsFunc(c.Names, func(c string) bool { return strings.EqualFold(c, e.Name) || strings.EqualFold(c, q.name) }) {
			called = append(called, c)
		}
	}
	fits, manifests := v.proven(ctx, called, func(man *protocol.Manifest) bool { return matches(e, man) })
	if len(fits) == 0 || ctx.Err() != nil || len(fits) > 1 && q.want.Sure {
		return nil, ctx.Err()
	}
	c, warning := survey.Likeliest(q.name, fits)
	return &resolution{place: atPeers, id: c.ID, manifest: manifests[0], name: e.Name, entry: e, warning: warning}, nil
}

// matches reports that a manifest can be of the files that the catalogue has.
func matches(e *catalog.Entry, man *protocol.Manifest) bool {
	sums := e.Sums()
	if e.Size > 0 && e.Size != man.Size() || len(sums) > 0 && len(sums) != len(man.Files) {
		return false
	}
	for i, sum := range sums {
		if !bytes.Equal(sum, man.Files[i].Sha256) {
			return false
		}
	}
	return e.Architecture == "" || e.Architecture == man.Architecture
}

// proven returns those of the likeliest claims whose manifests could be fetched and
// are good, in their order, with the manifests. Once one has come, the others have
// graceTime.
func (v *resolver) proven(ctx context.Context, found []*survey.Claim, good func(*protocol.Manifest) bool) (out []*survey.Claim, manifests [][]byte) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	found = found[:min(len(found), maxTried)]
	came := make([][]byte, len(found))
	var wg sync.WaitGroup
	for i, c := range found {
		wg.Go(func() {
			raw, err := v.manifest(ctx, c.ID)
			if err != nil {
				return
			}
			if man, err := protocol.DecodeManifest(raw); err == nil && good(man) {
				came[i] = raw
				time.AfterFunc(graceTime, cancel)
			}
		})
	}
	wg.Wait()
	for i, c := range found {
		if came[i] != nil {
			out, manifests = append(out, c), append(manifests, came[i])
		}
	}
	return out, manifests
}

// listed leaves a model of the catalogue to its origins, if the caller may have it
// from there.
func (v *resolver) listed(_ context.Context, q *query) (*resolution, error) {
	switch {
	case q.entry == nil:
		return nil, nil
	case q.want.May == Ask:
		err := fmt.Errorf("%s is in the catalogue, and neither here nor served by a peer", q.entry.Name)
		return &resolution{why: api.Errorf(api.UnknownModel, "%w", remedy.For(err, remedy.ServeModel, q.entry.Name))}, nil
	}
	return &resolution{place: atOrigin, entry: q.entry}, nil
}

// isRemote reports that a source is not of this machine.
func isRemote(from string) bool {
	return strings.HasPrefix(from, "hf:") || strings.HasPrefix(from, "http://") || strings.HasPrefix(from, "https://")
}

// isSource reports that a model's name is something to import.
func isSource(name string) bool {
	return isRemote(name) || strings.ContainsAny(name, `/\`) || strings.HasSuffix(strings.ToLower(name), ".gguf")
}
