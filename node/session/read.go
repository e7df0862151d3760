package session

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/protocol"
)

// ErrNoReadings is the error of a stage of an older version.
var ErrNoReadings = protocol.Errorf(protocol.Code_CODE_NOT_SERVING, "is of an older version, which reads no probabilities of given tokens")

const (
	readChunk        = protocol.MaxLinkRows // rows of a step to the first stage
	probabilityError = 1e-3                 // by which probabilities may add up to more than 1
)

// ReadRequest is what a session of readings is to compute.
type ReadRequest struct {
	Model cid.Cid
	Route []Hop
	Asks  []Ask // protocol.MaxReadings at most
	Vocab int   // number of tokens that the model has; 0: unknown
	Codec protocol.TensorCodec
	Trace string // W3C traceparent for the stages; "": none

	// SlowestRow is as that of Request: by it, each stage may round the rows that it sends.
	SlowestRow time.Duration
	// Alone keeps the rows from being shared with other sessions, earlier or later.
	Alone bool
	// Wait is how long no reading may come before a stage is taken to hang.
	Wait time.Duration
}

// Ask is a sequence after whose last token the probabilities of labels are wanted: the
// first Keep tokens of the one before it, and then Tokens.
type Ask struct {
	Keep   int // fewer than that one has; the first keeps none
	Tokens []int32
	Labels []int32 // protocol.MaxLabels at most
}

// Reading is the answer to an Ask.
type Reading struct {
	Logprobs []float32 // natural logarithms, of the whole vocabulary, in the order of the labels
	Top      int32     // the most probable token of all
}

// Read has a session read the probabilities of labels. The sequences follow each other
// through the stages at once, and what one shares with the one before it is computed once.
// emit gets the readings in the order of the asks, each once; its error ends the session.
// Where stages cannot be taken back, all of a sequence is computed each time, and a session
// may end in order before the last reading, at least with the first.
//
// Read fails with a *StageError if a stage failed, or sent what a reading cannot be, with
// emit's error, or with ctx's. What was emitted until then is right; a session is not
// repaired, since the caller can have the readings that are missing computed on another
// route. cached is how many rows no stage had to compute.
func Read(ctx context.Context, d Dialer, req *ReadRequest, emit func(i int, r Reading) error) (cached int, err error) {
	s := &readSession{req: req, emit: emit}
	if err := s.measure(); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	s.session = session{
		req: &Request{Model: req.Model, Codec: req.Codec, SlowestRow: req.SlowestRow}, dial: d, begin: time.Now(), ring: ring{epoch: 1}, events: make(chan event, 64),
		over: ctx.Done(), avoid: map[peer.ID]time.Time{},
	}
	if !req.Alone {
		s.chain = SharedPrefix(req.Asks)
	}
	s.wait = req.Wait
	for _, h := range req.Route {
		s.stages = append(s.stages, s.newStage(h))
	}
	defer s.close()
	defer cancel()
	var h *head
	if from, ok := expected(req.Route, s.lengths[0]-1, s.chain); ok {
		h = newHead(s.plan(s.epoch+1, from), from, 0)
	}
	if err := s.open(ctx, h, s.readFrame); err != nil {
		return 0, err
	}
	cached, held := s.assign(h)
	if held {
		go h.rest(s.stages[0])
	} else {
		go s.stages[0].sendSteps(s.plan(s.epoch, cached))
	}
	return cached, s.run(ctx, s)
}

// readSession is one call of Read.
type readSession struct {
	oneWay
	req     *ReadRequest
	emit    func(int, Reading) error
	lengths []int // tokens of each sequence
	due     int   // readings that will come
	have    int   // readings that have come
}

// measure checks the request and counts the tokens.
func (s *readSession) measure() error {
	if n := len(s.req.Asks); n == 0 || n > protocol.MaxReadings || len(s.req.Route) == 0 {
		return fmt.Errorf("session: %d readings over a route of %d stages", n, len(s.req.Route))
	}
	length := 0
	for _, a := range s.req.Asks {
		if n := len(a.Labels); a.Keep < 0 || a.Keep > length || len(a.Tokens) == 0 || n == 0 || n > protocol.MaxLabels {
			return fmt.Errorf("session: a reading of %d labels after %d of %d tokens and %d more", n, a.Keep, length, len(a.Tokens))
		}
		length = a.Keep + len(a.Tokens)
		s.lengths = append(s.lengths, length)
	}
	return nil
}

// SharedPrefix returns the prefix hashes of the tokens that all sequences begin with: what
// comes after them is written over by the next.
func SharedPrefix(asks []Ask) []uint64 {
	common := len(asks[0].Tokens)
	for _, a := range asks[1:] {
		common = min(common, a.Keep)
	}
	return protocol.AppendPrefix(nil, asks[0].Tokens[:common])
}

// readFrame is the Open for the stage at a position.
func (s *readSession) readFrame(pos int) *protocol.Open {
	g, n := s.stages[pos], len(s.stages)
	o := &protocol.Open{
		Session: s.id[:], Model: s.req.Model.Bytes(), From: uint32(g.hop.Span.From), To: uint32(g.hop.Span.To),
		Index: g.index, Stages: uint32(n), Epoch: s.epoch, MaxTokensTotal: uint32(slices.Max(s.lengths)), Readings: uint32(len(s.req.Asks)),
		Codec: s.req.Codec, Trace: s.req.Trace, Prefix: s.chain[:min(len(s.chain), protocol.MaxOpenPrefix)],
	}
	s.chooseCodec(o, slices.Max(s.lengths)) // all rows, so that a question has the same answer alone and in company
	if pos > 0 {
		o.Prev = []byte(s.stages[pos-1].hop.Peer)
	}
	if pos < n-1 {
		o.Next = nextHop(s.stages, pos)
		return o
	}
	o.Sampling = &protocol.Sampling{}
	for _, a := range s.req.Asks {
		o.Sampling.Readings = append(o.Sampling.Readings, &protocol.Labels{Ids: a.Labels})
	}
	return o
}

// assign makes the stages begin at the same row, and returns which: that of h, if what h
// has sent holds. The last row of the first sequence is computed in any case.
func (s *readSession) assign(h *head) (from int, held bool) {
	from, some := s.lengths[0]-1, h != nil
	for _, g := range s.stages {
		from, some = min(from, g.cached), some || g.cached > 0
	}
	from -= from % protocol.PrefixBlock // shared blocks are never written to
	for _, g := range s.stages {
		from = min(from, g.backTo(from))
	}
	held = h != nil && h.holds(s.stages, 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	if some {
		s.epoch++ // takes all stages back to the same position
	}
	switch {
	case held:
		from = h.from
	case h != nil: // what was sent is void
		s.epoch++
	}
	return from, held
}

// plan returns the steps of the sequences in an epoch, from a row of the first one on, for
// as many of them as a session may have rows.
func (s *readSession) plan(epoch uint64, from int) (steps []*protocol.Step) {
	s.rows, s.due = 0, 0
	var all []int32 // the sequence
	at := 0         // where the stages are
	for i, a := range s.req.Asks {
		all = append(all[:a.Keep], a.Tokens...)
		begin := from
		if i > 0 {
			begin = s.backTo(at, a.Keep)
		}
		if s.rows += len(all) - begin; i > 0 && s.rows > slices.Max(s.lengths)+protocol.MaxReadRows {
			return steps
		}
		s.due++
		for left := (len(all) - begin + readChunk - 1) / readChunk; left > 0; left-- {
			n := (len(all) - begin + left - 1) / left // of even lengths: a row alone would count as a decode
			steps = append(steps, &protocol.Step{
				Epoch: epoch, Base: uint32(begin), Rows: uint32(n), Tokens: slices.Clone(all[begin : begin+n]), Sample: left == 1, Back: begin < at,
			})
			begin += n
			at = begin
		}
	}
	return steps
}

// backTo returns where all stages go on that are to be taken back from a row to an earlier
// one: there, or at 0 where one is not certain that it can.
func (s *readSession) backTo(from, to int) int {
	for _, g := range s.stages {
		if g.back > 0 && from-to > g.back {
			return 0
		}
	}
	return to
}

// finished reports whether all readings have come.
func (s *readSession) finished() bool { return s.have == s.due }

// reply takes a reading.
func (s *readSession) reply(pos int, ev event) error {
	k, ok := ev.f.Kind.(*protocol.Frame_Reading)
	if !ok || pos != len(s.stages)-1 {
		return s.stages[pos].fail(pos, errNotDue)
	}
	if err := s.check(k.Reading); err != nil {
		return s.stages[pos].fail(pos, fmt.Errorf("%w: %w", protocol.ErrFrame, err))
	}
	i := s.have
	s.have++
	return s.emit(i, Reading{Logprobs: k.Reading.Logprobs, Top: k.Reading.Top})
}

// check returns an error for a reading that no honest stage sends.
func (s *readSession) check(r *protocol.Reading) error {
	labels := s.req.Asks[s.have].Labels
	switch {
	case int(r.Index) != s.have:
		return fmt.Errorf("reading %d, where %d was due", r.Index, s.have)
	case len(r.Logprobs) != len(labels):
		return fmt.Errorf("the log probabilities of %d labels, where %d were asked for", len(r.Logprobs), len(labels))
	case r.Top < 0 || s.req.Vocab > 0 && int(r.Top) >= s.req.Vocab:
		return errors.New("a token that the model does not have")
	}
	sum, seen := 0.0, map[int32]bool{}
	for i, p := range r.Logprobs {
		if p != p || p > probabilityError {
			return errors.New("a log probability that is none")
		}
		if !seen[labels[i]] {
			seen[labels[i]] = true
			sum += math.Exp(float64(p))
		}
	}
	if sum > 1+probabilityError {
		return errors.New("probabilities of more than 1 together")
	}
	return nil
}
