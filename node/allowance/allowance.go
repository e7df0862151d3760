package allowance

import (
	"encoding/json"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Token is one token, in the units in which amounts are counted.
const Token = 1_000_000

const (
	day      = 24 * time.Hour
	maxNodes = 1024 // whose sums are kept
)

// Day returns the number of a day, which begins at 00:00 UTC.
func Day(at time.Time) uint32 { return uint32(max(0, at.Unix()) / int64(day/time.Second)) }

// Until returns when a day ends.
func Until(n uint32) time.Time { return time.Unix((int64(n)+1)*int64(day/time.Second), 0).UTC() }

// Of returns the amount of rows through some of a model's blocks.
func Of(rows, blocks, of int) uint64 {
	if rows <= 0 || blocks <= 0 || of <= 0 {
		return 0
	}
	return uint64(rows) * Token * uint64(min(blocks, of)) / uint64(of)
}

// Sum is what one node has counted in a day.
type Sum struct {
	Day  uint32 `json:"day"`             // see Day
	Used uint64 `json:"used_millionths"` // in units of 1/Token
}

// Book is what a node knows of one bridge's day. It is safe for concurrent use.
type Book struct {
	mu     sync.Mutex
	limit  uint64 // in units; 0: none
	own    Sum
	told   uint64             // of own.Used, when it was last told
	others map[peer.ID]uint64 // of own.Day
}

// New returns a book with a limit of tokens per day, 0: none, and what this node has
// counted before.
func New(tokensPerDay uint64, before Sum) *Book {
	b := &Book{own: before, others: map[peer.ID]uint64{}}
	b.SetLimit(tokensPerDay)
	return b
}

// SetLimit changes the tokens per day; 0: no limit.
func (b *Book) SetLimit(tokensPerDay uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.limit = min(tokensPerDay, math.MaxUint64/Token) * Token
}

// turn begins a new day if it is time. A clock that is set back begins none. Called with
// mu held.
func (b *Book) turn(now time.Time) {
	if d := Day(now); d > b.own.Day {
		b.own, b.told = Sum{Day: d}, 0
		clear(b.others)
	}
}

// Spend counts work that was done, and reports whether there is something left.
func (b *Book) Spend(units uint64, now time.Time) (left bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	b.own.Used = add(b.own.Used, units)
	return b.left() > 0
}

// Left reports whether there is something left of today.
func (b *Book) Left(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	return b.left() > 0
}

// left is what is left of the limit. Called with mu held.
func (b *Book) left() uint64 {
	if b.limit == 0 {
		return math.MaxUint64
	}
	return b.limit - min(b.limit, b.total())
}

func (b *Book) total() uint64 {
	sum := b.own.Used
	for _, used := range b.others {
		sum = add(sum, used)
	}
	return sum
}

func add(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

// Used returns the tokens of today that are known, of all nodes.
func (b *Book) Used(now time.Time) float64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	return float64(b.total()) / Token
}

// Due reports whether all other nodes must be told this node's sum now, and takes it that
// they are. nodes is how many there are, this one included.
func (b *Book) Due(nodes int, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	if b.limit == 0 || b.own.Used == b.told {
		return false
	}
	share := b.left() / uint64(4*max(nodes, len(b.others)+1))
	due := b.own.Used-b.told >= max(Token, share) || b.left() == 0
	if due {
		b.told = b.own.Used
	}
	return due
}

// Mine returns this node's sum, for the others.
func (b *Book) Mine(now time.Time) Sum {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	return b.own
}

// Heard takes another node's sum by its own word. One of another day is ignored; what it
// has told before is never taken back. left reports whether there is something left.
func (b *Book) Heard(from peer.ID, s Sum, now time.Time) (left bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	old, known := b.others[from]
	if s.Day == b.own.Day && s.Used >= old && (known || len(b.others) < maxNodes) {
		b.others[from] = s.Used
	}
	return b.left() > 0
}

// Marshal returns this node's sum for a file, so that a restart forgets nothing.
func (b *Book) Marshal() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	raw, _ := json.Marshal(b.own) // numbers can be written
	return append(raw, '\n')
}

// ParseSum reads what Marshal has returned. A day that has not come by now is an error.
func ParseSum(raw []byte, now time.Time) (s Sum, err error) {
	if err := json.Unmarshal(raw, &s); err != nil {
		return Sum{}, err
	}
	if s.Day > Day(now)+1 {
		return Sum{}, errors.New("it is of a day to come")
	}
	return s, nil
}
