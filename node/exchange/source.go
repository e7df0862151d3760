package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/shoalnet/shoal/node/backoff"
	"golang.org/x/sync/errgroup"
)

const (
	mostTries   = 6               // failures of a source in a row, before it is given up
	longestWait = 5 * time.Minute // that a server may ask for
)

// errBad marks what an honest source does not send.
var errBad = errors.New("it sends what is not what it was asked for")

// permanent is a failure that another try would not mend.
type permanent struct{ error }

func (p permanent) Unwrap() error { return p.error }

// later is a failure after which the source says when to try again.
type later struct {
	error
	after time.Duration // 0: it did not say
}

func (l later) Unwrap() error { return l.error }

// Need is a block that is missing. Sources other than bitswap need a leaf's
// number and place.
type Need struct {
	CID    cid.Cid
	Number int   // of the leaf in the model; -1: not known
	Size   int   // bytes
	File   int   // the model's file that has the leaf
	Offset int64 // of the leaf in that file, bytes
	// Heading says that the block is no weights, and small: it may come over a relay.
	Heading bool
}

// source is somewhere leaves come from: a peer in bulk, an origin, or, as one
// source, all peers that only speak bitswap.
type source interface {
	name() string
	// mayAsk reports whether the source has a leaf. Called with scheduler.mu held.
	mayAsk(n Need) bool
	batch(rate float64) int // leaves per request, by the source's rate in bytes per second; 0: not known
	workers() int           // requests at once
	// get asks for leaves and calls got for each as it comes, before anything
	// has been checked. It fails with permanent, later, errBad or what the
	// connection failed with.
	get(ctx context.Context, ask []Need, got func(i int, data []byte) error) error
}

// bitswapSource stands for all peers that only speak bitswap. Its one worker is
// fetchByBitswap.
type bitswapSource struct{}

func (bitswapSource) name() string      { return "bitswap" }
func (bitswapSource) mayAsk(Need) bool  { return true }
func (bitswapSource) batch(float64) int { return 1 }
func (bitswapSource) workers() int      { return 1 }
func (bitswapSource) get(context.Context, []Need, func(int, []byte) error) error {
	return errors.New("bitswap is asked by fetchByBitswap")
}

// sourceState is what the scheduler knows of a source.
type sourceState struct {
	src       source
	swarmPeer *swarmPeer  // src, if it is one; else nil
	origin    *origin     // likewise
	ready     func() bool // it may be asked now; nil: always

	// With scheduler.mu:
	workerRate  float64 // bytes per second of one worker; 0: not known
	busyWorkers int
	lastCame    time.Time // when it last sent a leaf
	pausedUntil time.Time
}

// rate is a source's rate in bytes per second. Called with scheduler.mu held.
func (st *sourceState) rate() float64 {
	return st.workerRate * float64(max(st.busyWorkers, st.src.workers()))
}

// startSource makes a source work until ctx ends, it proves useless (gone is
// then called), or leave is called.
func (f *fetch) startSource(ctx context.Context, src source, gone func()) (leave func()) {
	st := &sourceState{src: src}
	st.swarmPeer, _ = src.(*swarmPeer)
	if st.origin, _ = src.(*origin); st.origin != nil && st.origin.http {
		st.ready = func() bool { return f.met() }
	}
	if _, ok := src.(*relayedPeer); ok {
		st.ready = f.relaysTurn
	}
	ctx, cancel := context.WithCancel(ctx)
	out := f.scheduler.addSource(st)
	over := make(chan struct{})
	go func() {
		defer close(over)
		g, gctx := errgroup.WithContext(ctx)
		for range src.workers() {
			g.Go(func() error { return f.work(gctx, st) })
		}
		err := g.Wait()
		useless := err != nil && ctx.Err() == nil
		if useless { // first, so that whoever sees it gone can say why
			f.giveUpSource(st, err)
		}
		out()
		if useless {
			gone()
		}
	}()
	return func() {
		cancel()
		<-over
	}
}

// giveUpSource reports why a source is not asked any more.
func (f *fetch) giveUpSource(st *sourceState, err error) {
	name := st.src.name()
	if errors.Is(err, errBad) {
		f.blame(name, err.Error())
		return
	}
	f.x.log.Warn("a source is given up", "source", name, "model", f.model, "error", err)
	if st.origin != nil {
		f.trouble(fmt.Sprintf("%s is not asked any more: %s", name, err))
	}
}

// blame remembers a source that lied, and names it in the progress.
func (f *fetch) blame(name, why string) {
	f.x.ledger.blame(name)
	f.x.log.Warn("a source is dropped for "+badTime.String(), "source", name, "model", f.model, "why", why)
	f.trouble(fmt.Sprintf("%s is dropped: %s", name, why))
}

// work is one worker of a source: it takes requests from the scheduler until
// none can come any more. It returns an error if the source is to be given up.
func (f *fetch) work(ctx context.Context, st *sourceState) error {
	retry := backoff.Backoff{First: time.Second, Most: 4 * time.Second}
	for failed := 0; ; {
		req := f.scheduler.next(ctx, st, nil)
		if req == nil {
			return nil
		}
		ask := make([]Need, len(req.leaves))
		for i, t := range req.leaves {
			ask[i] = t.need
		}
		n := 0
		err := st.src.get(req.ctx, ask, func(i int, data []byte) error {
			n++
			return f.accept(ctx, req, i, data)
		})
		taken := context.Cause(req.ctx) == errOvertaken
		f.scheduler.finish(req)
		var p permanent
		var k keepError
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the fetch is over: no fault of the source
		case err == nil || taken:
			failed = 0
			retry.Reset()
			continue
		case errors.As(err, &k):
			f.fail(k.error)
			return nil
		case errors.Is(err, errBad), errors.As(err, &p):
			return err
		}
		if n > 0 {
			failed = 0
			retry.Reset()
		}
		if failed++; failed >= mostTries {
			return err
		}
		f.x.log.Debug("a source fails", "source", st.src.name(), "error", err)
		var l later
		if errors.As(err, &l) {
			if l.after > 0 {
				f.scheduler.pause(st, min(l.after, longestWait))
			}
		}
		_ = retry.Wait(ctx)
	}
}

// keepError means that a leaf came and could not be stored.
type keepError struct{ error }

func (k keepError) Unwrap() error { return k.error }

// accept checks a leaf that has come, and stores it.
func (f *fetch) accept(ctx context.Context, req *request, i int, data []byte) error {
	t := req.leaves[i]
	sum, err := t.need.CID.Prefix().Sum(data)
	if err != nil || sum != t.need.CID {
		return fmt.Errorf("%w: leaf %d is another", errBad, t.need.Number)
	}
	f.x.ledger.Pass(req.source.src.name(), 0, len(data))
	if m, ok := req.source.src.(*swarmPeer); ok && m.in.Worked != nil {
		m.in.Worked(m.id)
	}
	if req.source.origin == nil {
		f.x.taken.Add(uint64(len(data)))
	} else {
		f.x.origins.Add(uint64(len(data)))
	}
	if !f.scheduler.received(req, i) {
		return nil
	}
	defer f.scheduler.stored()
	if err := f.put(ctx, t.need.CID, t.need.Number, data); err != nil {
		return keepError{err}
	}
	return nil
}

// leafFrom reads a leaf into a buffer and passes it to got. beat is called before
// each chunk with the time by which it must have come.
func (f *fetch) leafFrom(ctx context.Context, r io.Reader, n Need, beat func(time.Time) error, got func([]byte) error) error {
	buf, err := f.buffer(ctx)
	if err != nil {
		return err
	}
	defer f.release(buf)
	if err := f.readPaced(ctx, buf[:n.Size], r, beat); err != nil {
		return err
	}
	return got(buf[:n.Size])
}

// readPaced fills data chunk by chunk, no faster than the operator and running
// sessions allow.
func (f *fetch) readPaced(ctx context.Context, data []byte, r io.Reader, deadline func(time.Time) error) error {
	for at := 0; at < len(data); {
		n := min(len(data)-at, bulkChunk)
		if err := f.x.down.wait(ctx, n); err != nil {
			return err
		}
		_ = deadline(time.Now().Add(stallTime))
		if _, err := io.ReadFull(r, data[at:at+n]); err != nil {
			return err
		}
		at += n
		f.mark(&f.lastCame)
	}
	return nil
}
