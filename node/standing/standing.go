package standing

import (
	"cmp"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Fault is a kind of misbehaviour of a peer.
type Fault int

// The faults.
const (
	Failed Fault = iota // it was lost, or did not do what it offers
	Slow                // it kept a session waiting
	Lied                // what it sent cannot be true
	faults
)

func (f Fault) String() string { return [...]string{"failed", "slow", "lied"}[f] }

// halfLife is the half-life of a mark.
var halfLife = [faults]time.Duration{Failed: 5 * time.Minute, Slow: 10 * time.Minute, Lied: 12 * time.Hour}

const (
	// Fresh is how long an answer proves that a span is working.
	Fresh = 10 * time.Minute

	maxPeers   = 1024
	maxAnswers = 4096
	mostMarks  = 8                   // per kind; more do not count
	turns      = 10                  // one session in this many may use a newcomer
	longUnseen = 30 * 24 * time.Hour // a peer that did no work is forgotten after this

	leastRatio, mostRatio = 0.5, 1e4 // limits of observed over claimed time

	most = 1 << 30 // limit of the counters
)

// Standing is what is known about a peer.
type Standing struct {
	Since  time.Time // first met; zero: never
	Done   int       // sessions of this node over the peer that ended well
	Failed int       // sessions of this node that the peer broke
	Work   float64   // tokens in the sessions that ended well, prompts included

	// Decode and Prefill are the observed time per block divided by the claimed
	// time: 2 is twice as slow as claimed. 0: nothing observed yet.
	Decode, Prefill float64

	Marks [faults]float64 // decayed sum per Fault; a fresh mark counts 1
	Why   string          // reason of the last mark
}

// Part is the time that a peer claimed for its part of a session.
type Part struct {
	Peer    peer.ID
	Decode  time.Duration // per token
	Prefill time.Duration // for the whole prompt
}

// Run is a session that ended well.
type Run struct {
	Parts  []Part // of the peers other than this node
	Tokens int    // of prompt and answer

	// Decode is the time per token, and Prefill the time for the prompt, that
	// these peers took together, without network latency between them. 0: too
	// little was observed.
	Decode, Prefill time.Duration
}

// Book is the record of all peers. Open makes one; the zero value is not
// usable. It is safe for concurrent use.
type Book struct {
	path string
	log  *slog.Logger

	writing sync.Mutex // serializes writes of the file; taken before mu

	mu      sync.Mutex
	peers   map[peer.ID]*entry
	answers map[answerKey]answer
	since   int // sessions since the last one that used a newcomer
	changed bool
	saved   time.Time
}

// entry is a peer's entry in the file.
type entry struct {
	Since   time.Time    `json:"since"`
	Seen    time.Time    `json:"seen"`
	Done    int          `json:"done,omitempty"`
	Failed  int          `json:"failed,omitempty"`
	Work    float64      `json:"work,omitempty"`
	Decode  float64      `json:"decode,omitempty"`
	Prefill float64      `json:"prefill,omitempty"`
	Marks   [faults]mark `json:"marks,omitzero"`
	Why     string       `json:"why,omitempty"`
}

// mark is a sum of marks of one kind, as of some time.
type mark struct {
	Weight float64   `json:"weight,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// left returns the sum after decay until now.
func (m mark) left(f Fault, now time.Time) float64 {
	return m.Weight * math.Exp2(-float64(max(0, now.Sub(m.At)))/float64(halfLife[f]))
}

type answerKey struct {
	peer peer.ID
	what string
}

// answer is a period in which a span kept answering.
type answer struct{ first, last time.Time }

// Meet notes that a peer is connected.
func (b *Book) Meet(p peer.ID) {
	b.mu.Lock()
	b.of(p)
	b.mu.Unlock()
	_ = b.save(saveEvery) // an error is in the log
}

// of returns a peer's entry, creating it if needed. Called with mu held.
func (b *Book) of(p peer.ID) *entry {
	now := time.Now().UTC().Truncate(time.Second)
	e := b.peers[p]
	if e == nil {
		if len(b.peers) >= maxPeers+maxPeers/8 {
			b.trim(now)
		}
		e = &entry{Since: now}
		b.peers[p], b.changed = e, true
	}
	if now.Sub(e.Seen) >= time.Minute {
		e.Seen, b.changed = now, true
	}
	return e
}

// Mark notes a fault of a peer; why is for people.
func (b *Book) Mark(p peer.ID, f Fault, why string) {
	b.mu.Lock()
	e := b.of(p)
	now := time.Now()
	e.Marks[f] = mark{min(mostMarks, e.Marks[f].left(f, now)+1), now.UTC()}
	e.Failed = min(e.Failed+1, most)
	e.Why = clip(why)
	b.changed = true
	b.mu.Unlock()
	if f == Lied { // must survive a restart
		_ = b.save(0) // an error is in the log
	}
}

// Ran notes a session that ended well.
func (b *Book) Ran(r Run) {
	b.mu.Lock()
	b.learn(&r, r.Decode, func(p *Part) time.Duration { return p.Decode }, func(e *entry) *float64 { return &e.Decode })
	b.learn(&r, r.Prefill, func(p *Part) time.Duration { return p.Prefill }, func(e *entry) *float64 { return &e.Prefill })
	for _, p := range r.Parts {
		e := b.of(p.Peer)
		e.Done = min(e.Done+1, most)
		e.Work = min(e.Work+float64(max(0, r.Tokens)), most)
		b.changed = true
	}
	b.mu.Unlock()
	_ = b.save(saveEvery) // an error is in the log
}

// learn adjusts the peers' ratios towards what was observed of them together.
// Called with mu held.
func (b *Book) learn(r *Run, seen time.Duration, claimed func(*Part) time.Duration, of func(*entry) *float64) {
	if seen <= 0 {
		return
	}
	excess, doubt := float64(seen), 0.0
	expect := make([]float64, len(r.Parts))
	for i := range r.Parts {
		p := &r.Parts[i]
		e := b.of(p.Peer)
		expect[i] = float64(max(1, claimed(p))) * cmp.Or(*of(e), 1)
		excess -= expect[i]
		doubt += 1 / float64(1+e.Done)
	}
	for i := range r.Parts {
		e := b.of(r.Parts[i].Peer)
		took := expect[i] + excess/float64(1+e.Done)/doubt
		ratio := min(max(took/float64(max(1, claimed(&r.Parts[i]))), leastRatio), mostRatio)
		old, follow := of(e), 1.0
		switch {
		case *old == 0:
		case ratio > *old:
			follow = 0.5
		default:
			follow = 0.2
		}
		*old += follow * (ratio - *old)
	}
}

// Answered notes that a span of a peer returned a token. what identifies the
// model and the span.
func (b *Book) Answered(p peer.ID, what string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.of(p)
	now := time.Now()
	k := answerKey{p, what}
	a, ok := b.answers[k]
	if !ok && len(b.answers) >= maxAnswers {
		b.trimAnswers(now)
	}
	if !ok || now.Sub(a.last) > Fresh {
		a.first = now
	}
	a.last = now
	b.answers[k] = a
}

// Answers returns since when a span of a peer has been answering, and when it
// last did; zero times if it never did.
func (b *Book) Answers(p peer.ID, what string) (first, last time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.answers[answerKey{p, what}]
	return a.first, a.last
}

// trimAnswers makes room by removing answers that are no longer fresh, or if
// all are fresh, an arbitrary one. Called with mu held.
func (b *Book) trimAnswers(now time.Time) {
	for k, a := range b.answers {
		if now.Sub(a.last) > Fresh {
			delete(b.answers, k)
		}
	}
	for k := range b.answers {
		if len(b.answers) < maxAnswers {
			return
		}
		delete(b.answers, k)
	}
}

// Of returns what is known about a peer now.
func (b *Book) Of(p peer.ID) Standing {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := b.peers[p]
	if e == nil {
		return Standing{}
	}
	s := Standing{Since: e.Since, Done: e.Done, Failed: e.Failed, Work: e.Work, Decode: e.Decode, Prefill: e.Prefill, Why: e.Why}
	now := time.Now()
	for f := range faults {
		s.Marks[f] = e.Marks[f].left(f, now)
	}
	return s
}

// Since returns when a peer was first met, or the zero time.
func (b *Book) Since(p peer.ID) time.Time { return b.Of(p).Since }

// Due reports whether the next session may use a newcomer.
func (b *Book) Due() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since >= turns-1
}

// Count notes a session that uses no newcomer.
func (b *Book) Count() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.since, b.changed = min(turns, b.since+1), true
}

// Explore takes the newcomers' turn; it returns false if another session has
// taken it.
func (b *Book) Explore() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.since < turns-1 {
		return false
	}
	b.since, b.changed = 0, true
	return true
}
