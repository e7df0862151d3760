package generate

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/node/route"
	"github.com/shoalnet/shoal/node/session"
	"github.com/shoalnet/shoal/node/text"
	"github.com/shoalnet/shoal/node/text/answer"
	"github.com/shoalnet/shoal/node/text/constrain"
	"github.com/shoalnet/shoal/protocol"
)

const (
	// attempts at a route before the first token.
	attempts = 4
	// ownTime is how long a prompt waits for room at this node and those that it
	// trusts, where they serve all of its model, before it goes to strangers.
	ownTime = 3 * time.Second
	// roomTime is how long a prompt waits for room if all peers that could serve it
	// are full. It begins with firstRoomPause, and doubles the pause.
	roomTime       = 3 * time.Second
	firstRoomPause = 100 * time.Millisecond

	// Stages that were unloaded for want of use load again for a prompt that waits: at
	// this node and those that it trusts so long, at strangers less. They are asked again
	// when they should be ready, but not all the time and not too late.
	ownLoadTime, loadTime         = 10 * time.Minute, time.Minute
	leastLoadPause, mostLoadPause = 200 * time.Millisecond, 3 * time.Second
)

// generation is one answer under way. Session calls its methods from one goroutine,
// but for secondRoute.
type generation struct {
	*Generator
	prompt
	req   *api.GenerateRequest
	emit  func(api.Event) error
	seed  uint64
	trace *answerTrace
	costs costs

	ownEnd time.Time // until then it waits for room at this node rather than go to strangers

	format *constrain.Run // checks that the answer has its format; nil: it has none
	drawn  []int32        // the answer so far, if it is checked
	hops   []session.Hop  // of the route now

	changes [][]api.EngineChange // of each repair of the route that succeeded

	decoder *text.Decoder
	reader  *answer.Reader // nil: all of the answer is text
	stops   *text.Stops
	stopped bool // at a stop sequence, or after the only call
	calls   int  // of functions, so far
	count   int  // of tokens, so far

	said strings.Builder // the answer so far, if it must be a call
}

// errStopped ends a session whose answer has met a stop sequence.
var errStopped = errors.New("a stop sequence was met")

// Generate answers a prompt along the fastest route: it emits a Start, Tokens with
// Repairs among them, and a Done. Errors are the context's, emit's, and api's, whose
// kinds are BadInput, TooLong, UnknownModel, NoRoute and Refused; any other is a
// stage's failure after all attempts.
func (g *Generator) Generate(ctx context.Context, req *api.GenerateRequest, emit func(api.Event) error) (err error) {
	ctx, trace := g.observe(ctx, req)
	defer func() { trace.end(err) }()
	read, err := req.Shared.Do(func() (any, error) {
		one := &generation{Generator: g, req: req}
		err := one.readPrompt(ctx)
		return one.prompt, err
	})
	if err != nil {
		return err
	}
	one := &generation{Generator: g, prompt: read.(prompt), req: req, emit: emit, seed: rand.Uint64(), trace: trace}
	if req.Sampling.Seed != nil {
		one.seed = *req.Sampling.Seed
	}
	if one.machine != nil {
		one.format = one.machine.Start(one.stopIDs())
	}
	trace.encoded(one.model.Name(), len(one.ids))
	if !g.cfg.Survey.Fastest() {
		one.ownEnd = time.Now().Add(ownTime)
	}
	return one.run(ctx, one.attempt)
}

// run makes attempts until one comes through.
func (g *generation) run(ctx context.Context, attempt func(ctx context.Context, excluded map[string]bool) error) error {
	g.under.Add(1)
	defer g.under.Add(-1)
	excluded := map[string]bool{}
	var full error   // a refusal for lack of room
	var barred error // one by a peer's rules
	begin, retry := time.Now(), backoff.Backoff{First: firstRoomPause, Most: roomTime}
	end := begin.Add(roomTime)
	for try := 1; ; try++ {
		err := attempt(ctx, excluded)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil {
			return nil
		}
		g.blame(err)
		if g.count > 0 { // the caller has seen something
			return explain(err)
		}
		var where *session.StageError
		isStage := errors.As(err, &where)
		switch codeOf(err) {
		case protocol.Code_CODE_BUSY:
			full = err
		case protocol.Code_CODE_FORBIDDEN:
			barred = err
		}
		if left, ok := loads(err); ok && isStage && time.Since(begin) < g.loadTime(where.Hop.Peer) {
			if err := backoff.Pause(ctx, left); err != nil {
				return err
			}
			full = nil
			try--
			continue
		}
		// Before the first token another route may do. But this node's own machines are
		// waited for.
		own := full != nil && isStage && g.cfg.Survey.Trusted(where.Hop.Peer) && time.Now().Before(g.ownEnd)
		if try < attempts && len(g.req.Route) == 0 && isStage && retryElsewhere(err) && !own {
			g.cfg.Log.Info("a stage refused or was lost; trying another route", "error", err)
			excluded[where.Hop.Peer.String()] = true
			continue
		}
		if full == nil && barred != nil && !isStage { // there would be a route without the rules
			err = barred
		}
		if full == nil {
			return explain(err)
		}
		// There is no route without the full peers; but sessions end all the time.
		if time.Now().After(end) {
			return explain(full)
		}
		if err := retry.Wait(ctx); err != nil {
			return err
		}
		clear(excluded)
		full, try = nil, 0
	}
}

// loads reports whether a stage is loading its part of the model for this prompt, and
// after how long to ask again.
func loads(err error) (left time.Duration, ok bool) {
	var e *protocol.Error
	if !errors.As(err, &e) || !e.Loading || e.Code != protocol.Code_CODE_BUSY {
		return 0, false
	}
	return min(max(e.RetryAfter, leastLoadPause), mostLoadPause), true
}

// loadTime is how long a prompt waits for a peer's stage to load.
func (g *generation) loadTime(p peer.ID) time.Duration {
	if g.cfg.Survey.Trusted(p) { // this node among them
		return ownLoadTime
	}
	return loadTime
}

// codeOf returns the code with which a stage refused or ended a session; CODE_UNKNOWN if
// it is no such error.
func codeOf(err error) protocol.Code {
	var e *protocol.Error
	if !errors.As(err, &e) {
		return protocol.Code_CODE_UNKNOWN
	}
	return e.Code
}

// retryElsewhere reports whether a route without the peer that failed might do better.
func retryElsewhere(err error) bool {
	if errors.Is(err, protocol.ErrFrame) { // what the peer sent was wrong
		return true
	}
	var e *protocol.Error
	if !errors.As(err, &e) {
		return false
	}
	switch e.Code {
	case protocol.Code_CODE_BAD_REQUEST, protocol.Code_CODE_TOO_LONG:
		return false
	}
	return true
}

// explain gives a failure the kind by which the caller knows what to do.
func explain(err error) error {
	var e *protocol.Error
	var a *api.Error
	switch {
	case errors.As(err, &a):
		return a
	case errors.Is(err, route.ErrNoRoom):
		return &api.Error{Kind: api.Refused, Message: err.Error(), RetryAfter: 5 * time.Second}
	case errors.Is(err, route.ErrNoServer), errors.Is(err, route.ErrNoJoin), errors.Is(err, route.ErrNotReady):
		return api.Errorf(api.NoRoute, "no route: %w", err)
	case errors.As(err, &e):
		switch e.Code {
		case protocol.Code_CODE_BUSY, protocol.Code_CODE_DRAINING, protocol.Code_CODE_FORBIDDEN:
			return &api.Error{Kind: api.Refused, Message: err.Error(), RetryAfter: e.RetryAfter}
		case protocol.Code_CODE_TOO_LONG:
			return api.Errorf(api.TooLong, "the maximum context length of a stage on the route is exceeded: %s", err)
		case protocol.Code_CODE_NOT_SERVING:
			return api.Errorf(api.NoRoute, "%s", err)
		}
	}
	return err
}
