package library

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// api.Keeper, and export: what people do with the models on the disk besides adding,
// pulling and removing them.

// Verify checks what is held of a model, or of all, against its hashes, and with
// Repair fetches again what is damaged. That a repair fails is told in the result; an
// error is that of the name, the disk's, or the context's.
func (l *Library) Verify(ctx context.Context, req api.VerifyRequest, progress func(api.Progress)) ([]api.Verified, error) {
	models := l.store.Models()
	if req.Model != "" {
		m, err := l.local(req.Model)
		if err != nil {
			return nil, err
		}
		models = []*store.Model{m}
	}
	var p api.Progress
	for _, m := range models {
		p.Total += m.Held()
	}
	out := []api.Verified{}
	for _, m := range models {
		v := api.Verified{Model: m.ID().String(), Name: m.Name()}
		before := p.Done
		err := m.VerifyAll(ctx, func(bytes int) {
			p.Done += int64(bytes)
			if progress != nil && p.Done <= p.Total { // more may have come meanwhile
				progress(p)
			}
		})
		if errors.Is(err, store.ErrNotFound) { // removed meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		v.Checked, v.Damaged = p.Done-before, damageOf(m)
		if len(v.Damaged) > 0 {
			l.cfg.Changed() // it is no longer held
		}
		if len(v.Damaged) > 0 && req.Repair {
			if err := l.repair(ctx, m, progress); err != nil {
				if ctx.Err() != nil {
					return nil, err
				}
				v.Error = err.Error()
			}
			v.Repaired = len(m.Damaged()) == 0
		}
		out = append(out, v)
	}
	return out, nil
}

// repair fetches again what was found damaged.
func (l *Library) repair(ctx context.Context, m *store.Model, progress func(api.Progress)) error {
	var shards []int
	for _, leaf := range m.Damaged() {
		if !slices.Contains(shards, leaf.Shard) {
			shards = append(shards, leaf.Shard)
		}
	}
	return l.fetch(ctx, m, shards, damageWant{m}, progress)
}

// damageOf lists what was found damaged of a model and has not been replaced.
func damageOf(m *store.Model) []api.Damage {
	out := []api.Damage{}
	last := -1
	for _, l := range m.Damaged() {
		if l.Shard != last {
			last = l.Shard
			out = append(out, api.Damage{Shard: store.ShardNames(m.Manifest(), []int{l.Shard})[0]})
		}
		d := &out[len(out)-1]
		d.Leaves, d.Bytes = d.Leaves+1, d.Bytes+int64(l.Size)
	}
	return out
}

// GC frees disk space that nothing needs. Errors are the disk's.
func (l *Library) GC(_ context.Context, req api.GCRequest) (*api.Freed, error) {
	freed, err := l.store.GC(store.GCOptions{Unused: req.Unused, DryRun: req.DryRun})
	if err != nil {
		return nil, l.input(err)
	}
	out := &api.Freed{Total: freed.Left + freed.Gaps, Left: freed.Left, Gaps: freed.Gaps, Dropped: []api.Dropped{}, DryRun: req.DryRun}
	for _, d := range freed.Dropped {
		out.Total += d.Bytes
		out.Dropped = append(out.Dropped, api.Dropped{
			Model: d.Model.ID().String(), Name: d.Model.Name(), Shards: store.ShardNames(d.Model.Manifest(), d.Shards), Bytes: d.Bytes,
		})
	}
	if len(out.Dropped) > 0 && !req.DryRun {
		l.cfg.Changed()
	}
	return out, nil
}

// Pin protects blocks from the quota and from GC, or ends that. Errors are api's
// UnknownModel, and BadInput for a span that the model does not have.
func (l *Library) Pin(_ context.Context, req api.PinRequest) (*api.Model, error) {
	m, span, err := l.part(req.Model, req.Span)
	if err != nil {
		return nil, err
	}
	if span == nil {
		err = m.Pin(!req.Off)
	} else {
		err = m.PinShards(m.Manifest().ShardsFor(*span), !req.Off)
	}
	if err != nil {
		return nil, l.input(err)
	}
	d := Describe(m)
	return &d, nil
}

// Drop gives up the blocks of a span, and what only they need, with their pins. Errors
// are those of Pin, and api's Refused if the blocks are in use.
func (l *Library) Drop(_ context.Context, req api.DropRequest) (*api.Model, error) {
	m, span, err := l.part(req.Model, req.Span)
	if err != nil {
		return nil, err
	}
	if span == nil {
		span = new(m.Manifest().All())
	}
	drop := m.Only(*span)
	if err := m.DropShards(drop); err != nil {
		return nil, l.input(err)
	}
	if err := m.PinShards(drop, false); err != nil {
		return nil, l.input(err)
	}
	l.cfg.Changed()
	d := Describe(m)
	return &d, nil
}

// part finds a model in the store, and a span of it; nil: all.
func (l *Library) part(name, span string) (*store.Model, *protocol.Span, error) {
	m, err := l.local(name)
	if err != nil {
		return nil, nil, err
	}
	wanted, err := wantedSpan(span)
	if err != nil || wanted == nil {
		return m, nil, err
	}
	if all := m.Manifest().All(); !wanted.Valid(all.To) {
		return nil, nil, api.Errorf(api.BadInput, "blocks %s: %s has blocks %s", wanted, m.Name(), all)
	}
	return m, wanted, nil
}

// Export writes a model's original file. If it is not whole here the error is api's
// BadInput with the Lack; others are those of Show and Fetch, and the disk's.
func (l *Library) Export(ctx context.Context, req api.ExportRequest, progress func(api.Progress)) error {
	m, err := l.local(req.Model)
	if err != nil {
		return err
	}
	if req.Fetch {
		defer m.Use()() // what has come stays until it is written
		if err := l.Fetch(ctx, m, m.Shards(), progress); err != nil {
			return l.input(err)
		}
	}
	err = m.Export(ctx, req.Path, func(done, total int64) {
		if progress != nil {
			progress(api.Progress{Done: done, Total: total})
		}
	})
	var miss *store.Missing
	if errors.As(err, &miss) {
		lack := &api.Lack{Shards: miss.Names(), Leaves: miss.Leaves, Bytes: miss.Bytes}
		e := api.Errorf(api.BadInput, "%w", remedy.For(fmt.Errorf("%s is not whole here: %s are missing, of %s; they may be fetched first",
			m.Name(), store.SizeText(lack.Bytes), strings.Join(lack.Shards, ", ")), remedy.FetchFirst))
		e.Lack = lack
		return e
	}
	return l.input(err)
}
