package stage

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"

	"github.com/shoalnet/shoal/protocol"
)

// budget is the memory that all replay buffers of a stage may take together;
// what exceeds it goes to disk.
type budget struct {
	left atomic.Int64
	dir  string
}

func (b *budget) take(n int) bool {
	if b.left.Add(-int64(n)) >= 0 {
		return true
	}
	b.left.Add(int64(n))
	return false
}

// replay keeps the rows that a stage has sent on for one session, encoded as on the
// wire, from position 0 on. A replacement of the successor is brought up to date from
// it. It is safe for concurrent use.
type replay struct {
	budget *budget
	row    int // bytes

	mu     sync.Mutex
	len    int      // rows, without those in unsure
	unsure [][]byte // rows of guesses that follow: few, soon known to be right or dropped
	chunks [][]byte // rows in memory, replayChunk in each but the last
	inMem  int      // rows in memory; those behind are in file
	file   *os.File // nil until needed
	lost   bool     // rows are missing: nothing can be replayed
}

// replayChunk is the number of rows per chunk in memory and per replayed step.
const replayChunk = 64

var errNoReplay = errors.New("stage: what was sent is not kept any more")

func newReplay(b *budget, row int) *replay { return &replay{budget: b, row: row} }

// put keeps rows from a position on and drops those that were there or later. The row of a
// guess stays in memory until it is settled. If the disk is full, only the ability to
// replay is lost.
func (r *replay) put(at int, rows []byte, guess bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if at != r.whole() {
		r.cut(at)
	}
	if r.lost || at != r.whole() {
		r.lost = true
		return
	}
	if guess && len(r.unsure) < protocol.MaxInFlight {
		r.unsure = append(r.unsure, rows)
		return
	}
	r.flush(at)
	r.keepAll(rows)
}

// settle records that the rows before a position are of tokens that are known.
func (r *replay) settle(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush(n)
}

// whole returns how many rows there are. Called with mu held.
func (r *replay) whole() int { return r.len + len(r.unsure) }

// flush keeps the rows before a position as sure ones. Called with mu held.
func (r *replay) flush(n int) {
	for len(r.unsure) > 0 && r.len < n && !r.lost {
		r.keepAll(r.unsure[0])
		r.unsure = r.unsure[1:]
	}
}

// keepAll appends rows. Called with mu held.
func (r *replay) keepAll(rows []byte) {
	for len(rows) > 0 {
		n := min(len(rows)/r.row, replayChunk-r.len%replayChunk)
		if n == 0 || !r.keep(rows[:n*r.row], n) {
			r.lost = true
			return
		}
		r.len += n
		rows = rows[n*r.row:]
	}
}

func (r *replay) keep(rows []byte, n int) bool {
	if r.inMem == r.len && r.budget.take(len(rows)) {
		if r.len%replayChunk == 0 {
			r.chunks = append(r.chunks, nil)
		}
		last := len(r.chunks) - 1
		r.chunks[last] = append(r.chunks[last], rows...)
		r.inMem += n
		return true
	}
	if r.file == nil {
		f, err := os.CreateTemp(r.budget.dir, ".replay-*")
		if err != nil {
			return false
		}
		_ = os.Remove(f.Name()) // unlinked at once, so it is gone even if the process is killed
		r.file = f
	}
	_, err := r.file.WriteAt(rows, int64(r.len)*int64(r.row))
	return err == nil
}

// truncate drops positions from n on.
func (r *replay) truncate(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut(n)
}

func (r *replay) cut(n int) {
	if n >= r.len {
		r.unsure = r.unsure[:min(len(r.unsure), n-r.len)]
		return
	}
	r.len, r.unsure = n, nil
	if n >= r.inMem {
		return
	}
	r.budget.left.Add(int64((r.inMem - n) * r.row))
	r.inMem = n
	full := n / replayChunk
	if part := n % replayChunk; part > 0 {
		r.chunks[full] = r.chunks[full][:part*r.row]
		full++
	}
	r.chunks = r.chunks[:full]
}

// read returns n rows from a position on; n is at most replayChunk. It returns
// errNoReplay if they are not kept.
func (r *replay) read(at, n int) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush(at + n) // what is to be replayed is known
	if r.lost || at < 0 || at+n > r.len {
		return nil, errNoReplay
	}
	out := make([]byte, 0, n*r.row)
	for n > 0 {
		k := min(n, replayChunk-at%replayChunk)
		if at < r.inMem {
			k = min(k, r.inMem-at)
			out = append(out, r.chunks[at/replayChunk][at%replayChunk*r.row:][:k*r.row]...)
		} else {
			b := out[len(out):][:k*r.row]
			if _, err := r.file.ReadAt(b, int64(at)*int64(r.row)); err != nil {
				return nil, err
			}
			out = out[:len(out)+k*r.row]
		}
		at, n = at+k, n-k
	}
	return out, nil
}

// has reports whether the rows before a position can be replayed.
func (r *replay) has(n int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.lost && r.whole() >= n
}

// kept returns how many positions can be replayed; ok is false if some are missing.
func (r *replay) kept() (n int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.whole(), !r.lost
}

// clone returns a separate buffer with the first n rows.
func (r *replay) clone(n int) *replay {
	c := newReplay(r.budget, r.row)
	for at := 0; at < n; at += replayChunk {
		rows, err := r.read(at, min(replayChunk, n-at))
		if err != nil {
			c.lost = true
			return c
		}
		c.put(at, rows, false)
	}
	return c
}

func (r *replay) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut(0)
	r.lost = true
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}
