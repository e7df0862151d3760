package library

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
)

// Find returns a model by name or CID, with its manifest here. Errors are api's:
// UnknownModel if it is nowhere that w reaches, BadInput if the name means several
// models. If the likeliest of several was taken, a warning is logged.
func (l *Library) Find(ctx context.Context, name string, w Want) (*store.Model, error) {
	m, warning, err := l.find(ctx, name, w)
	if warning != "" {
		l.cfg.Log.Warn("a name is not clear", "warning", warning)
	}
	return m, err
}

// find resolves a name and brings what it means. warning says which of several
// models was taken.
func (l *Library) find(ctx context.Context, name string, w Want) (m *store.Model, warning string, err error) {
	name = l.resolver.untagged(name)
	r, err := l.resolver.resolve(ctx, name, w)
	if err != nil {
		return nil, "", err
	}
	m, err = l.obtain(ctx, name, r, w)
	return m, r.warning, err
}

// obtain makes what a name means a model of the store.
func (l *Library) obtain(ctx context.Context, name string, r *resolution, w Want) (m *store.Model, err error) {
	switch r.place {
	case here:
		m = r.model
	case atPeers:
		if m, err = l.addNamed(ctx, r); err != nil {
			return nil, l.input(err)
		}
	case atOrigin:
		if r.entry != nil {
			return l.importListed(ctx, r.entry, "", w)
		}
		return l.importSource(ctx, api.AddRequest{Source: name}, w)
	default:
		return nil, r.why
	}
	if _, err := l.base(ctx, m); err != nil {
		return nil, err
	}
	if r.entry == nil {
		return m, nil
	}
	err = m.Note(r.entry.Name, r.entry.Own, r.entry.Origins...)
	if r.place == atPeers && l.names.meaning(r.entry).Equals(r.id) { // a CID is proof; a manifest's hashes are not
		err = errors.Join(err, l.names.remember(r.entry, r.id))
	}
	return m, err
}

// addNamed adds a model of peers under the name by which lists have shown it, whatever
// it was asked for by, so that clients that keep its name find it again.
func (l *Library) addNamed(ctx context.Context, r *resolution) (*store.Model, error) {
	name := r.name
	for _, c := range l.cfg.Survey.Claims(ctx, false) {
		if c.ID.Equals(r.id) && len(c.Names) > 0 {
			name = l.DescribeClaim(c).Name
		}
	}
	m, err := l.store.AddManifest(r.manifest, r.id, name)
	if err == nil && r.name != "" && !strings.EqualFold(r.name, name) {
		err = m.Note(r.name, false)
	}
	return m, err
}

// Pick returns the model that a caller who asks for an answer means; without a name
// the only one that is served, or the likeliest, if it leads. warning says which of
// several was taken, and why. Errors are those of Find, and api's NoRoute if no peer
// serves a model.
func (l *Library) Pick(ctx context.Context, name string) (m *store.Model, warning string, err error) {
	if name != "" {
		return l.find(ctx, name, Want{})
	}
	wait, cancel := context.WithTimeout(ctx, l.resolver.patience())
	defer cancel()
	for {
		// A node that has just joined asks all members. Later, what is known will do,
		// or one that has gone would keep every answer waiting.
		served := survey.ServedOf(l.cfg.Survey.Claims(ctx, false))
		if len(served) == 0 {
			served = survey.ServedOf(l.cfg.Survey.Claims(ctx, true))
		} else {
			l.cfg.Survey.Renew(ctx)
		}
		if len(served) > 1 {
			if !served[0].Leads(served[1]) {
				return nil, "", &api.Error{Kind: api.BadInput, Param: "model", Message: "several models are served; name one of " + survey.ListOf(served, (*survey.Claim).Name)}
			}
			warning = fmt.Sprintf("%d models are served, and none was named: this is %s, which %s", len(served), served[0].ID, served[0].Why())
		}
		if len(served) > 0 {
			m, err = l.Find(ctx, served[0].ID.String(), Want{})
			return m, warning, err
		}
		select {
		case <-wait.Done():
			if ctx.Err() != nil {
				return nil, "", ctx.Err()
			}
			return nil, "", api.Errorf(api.NoRoute, "%w", remedy.For(errors.New("no peer that can be reached serves a model"), remedy.NamePeer))
		case <-time.After(300 * time.Millisecond):
		}
	}
}

// HasOrigin reports that a model is known here which can be had without peers.
func (l *Library) HasOrigin(name string) bool {
	m, err := l.store.Find(name)
	return err == nil && len(m.Origins()) > 0 || l.names.Find(name) != nil
}
