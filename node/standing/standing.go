package standing

import (
	"cmp"
	"log/slog"
	"math"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Fault is what a peer did wrong.
type Fault int

// The faults.
const (
	Failed Fault = iota // it was lost, or did not do what it offers
	Slow                // it kept a session waiting
	Lied                // what it sent cannot be true
	faults
)

func (f Fault) String() string { return [...]string{"failed", "slow", "lied"}[f] }

// halfLife is the time after which half of a mark is left.
var halfLife = [faults]time.Duration{Failed: 5 * time.Minute, Slow: 10 * time.Minute, Lied: 12 * time.Hour}

const (
	// Fresh is how long an answer of a span says that it answers.
	Fresh = 10 * time.Minute

	maxPeers   = 1024
	maxAnswers = 4096
	mostMarks  = 8                   // of one kind; more do not count
	turns      = 10                  // one session in so many may go over a newcomer
	longUnseen = 30 * 24 * time.Hour // a peer that did no work is forgotten after this

	leastRatio, mostRatio = 0.5, 1e4 // between what was seen and what was claimed

	most = 1 << 30 // of what is counted
)

// Standing is what is known of a peer.
type Standing struct {
	Since  time.Time // first met; zero: never
	Done   int       // sessions of this node's that went over it to the end
	Failed int       // and those that it broke
	Work   float64   // tokens of those sessions, prompts included

	// Decode and Prefill are what a block took for what it was claimed to take:
	// 2 is twice as long. 0: not seen so far.
	Decode, Prefill float64

	Marks [faults]float64 // what is left of them; 1 is a fresh one
	Why   string          // of the last mark
}

// Part is what a peer claimed that its part of a session would take.
type Part struct {
	Peer    peer.ID
	Decode  time.Duration // of each token
	Prefill time.Duration // of the prompt
}

// Run is a session that ended well.
type Run struct {
	Parts  []Part // of peers other than this node
	Tokens int    // of prompt and answer

	// Decode is what a token took at these peers together, and Prefill the
	// prompt, without the ways between them. 0: too little was seen.
	Decode, Prefill time.Duration
}

// Book is the record of all peers. Its zero value is not ready; see Open. It is
// safe for concurrent use.
type Book struct {
	path string
	log  *slog.Logger

	writing sync.Mutex // of the file; taken before mu

	mu      sync.Mutex
	peers   map[peer.ID]*entry
	answers map[answerKey]answer
	since   int // sessions since the last that went over a newcomer
	changed bool
	saved   time.Time
}

// entry is a peer as the file has it.
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

// mark is a sum of marks of one kind, as it was at a time.
type mark struct {
	Weight float64   `json:"weight,omitempty"`
	At     time.Time `json:"at,omitzero"`
}

// left is what is left of it.
func (m mark) left(f Fault, now time.Time) float64 {
	return m.Weight * math.Exp2(-float64(max(0, now.Sub(m.At)))/float64(halfLife[f]))
}

type answerKey struct {
	peer peer.ID
	what string
}

// answer is a time in which a span answered again and again.
type answer struct{ first, last time.Time }

// Meet takes note that a peer is there.
func (b *Book) Meet(p peer.ID) {
	b.mu.Lock()
	b.of(p)
	b.mu.Unlock()
	_ = b.save(saveEvery) // has told the log
}

// of gives a peer's entry. Called with mu held.
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

// Mark takes note of a fault; why is for people.
func (b *Book) Mark(p peer.ID, f Fault, why string) {
	b.mu.Lock()
	e := b.of(p)
	now := time.Now()
	e.Marks[f] = mark{min(mostMarks, e.Marks[f].left(f, now)+1), now.UTC()}
	e.Failed = min(e.Failed+1, most)
	e.Why = clip(why)
	b.changed = true
	b.mu.Unlock()
	if f == Lied { // the next start must know
		_ = b.save(0) // has told the log
	}
}

// Ran takes note of a session that ended well.
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
	_ = b.save(saveEvery) // has told the log
}

// learn has the peers' ratios follow what was seen of them together. Called with
// mu held.
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

// Answered takes note that a span of a peer's gave a token. What names the model
// and the span.
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

// Answers tells since when a span of a peer's answers, and when it last did;
// zero times if it never did.
func (b *Book) Answers(p peer.ID, what string) (first, last time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a := b.answers[answerKey{p, what}]
	return a.first, a.last
}

// trimAnswers makes room: what is no longer fresh goes, and if all is, any.
// Called with mu held.
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

// Of tells what is known of a peer now.
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

// Since tells when a peer was first met; the zero time if never.
func (b *Book) Since(p peer.ID) time.Time { return b.Of(p).Since }

// Due says that the next session may go over a newcomer.
func (b *Book) Due() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.since >= turns-1
}

// Count takes note of a session that goes over no newcomer.
func (b *Book) Count() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.since, b.changed = min(turns, b.since+1), true
}

// Explore takes the newcomers' turn; false if another session has taken it.
func (b *Book) Explore() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.since < turns-1 {
		return false
	}
	b.since, b.changed = 0, true
	return true
}
