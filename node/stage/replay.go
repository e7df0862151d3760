package stage

import (
	"errors"
	"os"
	"slices"
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
	width  int // numbers per row

	mu     sync.Mutex
	codecs []protocol.TensorCodec // of the rows, without those in unsure
	unsure []rowsOut              // rows of guesses that follow: few, soon known to be right or dropped
	chunks [][]byte               // rows in memory, replayChunk in each but the last
	inMem  int                    // rows in memory; those behind are in file
	file   *os.File               // nil until needed
	lost   bool                   // rows are missing: nothing can be replayed
}

// replayChunk is the number of rows per chunk in memory and per replayed step.
const replayChunk = 64

var errNoReplay = errors.New("stage: what was sent is not kept any more")

func newReplay(b *budget, width int) *replay { return &replay{budget: b, width: width} }

// put keeps rows and drops those that were at their positions or later. The row of a
// guess stays in memory until it is settled. If the disk is full, only the ability to
// replay is lost.
func (r *replay) put(rows rowsOut, guess bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rows.base != r.whole() {
		r.cut(rows.base)
	}
	if r.lost || rows.base != r.whole() {
		r.lost = true
		return
	}
	if guess && len(r.unsure) < protocol.MaxInFlight {
		r.unsure = append(r.unsure, rows)
		return
	}
	r.flush(rows.base)
	r.keepAll(rows)
}

// settle records that the rows before a position are of tokens that are known.
func (r *replay) settle(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush(n)
}

// whole returns how many rows there are. Called with mu held.
func (r *replay) whole() int { return len(r.codecs) + len(r.unsure) }

// flush keeps the rows before a position as sure ones. Called with mu held.
func (r *replay) flush(n int) {
	for len(r.unsure) > 0 && len(r.codecs) < n && !r.lost {
		r.keepAll(r.unsure[0])
		r.unsure = r.unsure[1:]
	}
}

// keepAll appends rows. Called with mu held.
func (r *replay) keepAll(rows rowsOut) {
	for at := rows.base; at < rows.end; {
		end := min(rows.end, at-at%replayChunk+replayChunk)
		if !r.keep(rows.part(at, end), end-at) {
			r.lost = true
			return
		}
		for ; at < end; at++ {
			r.codecs = append(r.codecs, rows.codec)
		}
	}
}

// size returns how many bytes the rows of some positions take. Called with mu held.
func (r *replay) size(from, to int) (n int) {
	for _, c := range r.codecs[from:to] {
		n += protocol.TensorSize(c, r.width)
	}
	return n
}

// offset returns where in its chunk a row begins. Called with mu held.
func (r *replay) offset(at int) int { return r.size(at-at%replayChunk, at) }

// inFile returns where in the file a row begins: each chunk has room for the longest rows.
// Called with mu held.
func (r *replay) inFile(at int) int64 {
	return int64(at-at%replayChunk)*int64(4*r.width) + int64(r.offset(at))
}

func (r *replay) keep(rows []byte, n int) bool {
	at := len(r.codecs)
	if r.inMem == at && r.budget.take(len(rows)) {
		if at%replayChunk == 0 {
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
	_, err := r.file.WriteAt(rows, r.inFile(at))
	return err == nil
}

// truncate drops positions from n on.
func (r *replay) truncate(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut(n)
}

func (r *replay) cut(n int) {
	if have := len(r.codecs); n >= have {
		r.unsure = r.unsure[:min(len(r.unsure), n-have)]
		return
	}
	if n < r.inMem {
		r.budget.left.Add(int64(r.size(n, r.inMem)))
		r.inMem = n
		full := n / replayChunk
		if part := r.offset(n); part > 0 {
			r.chunks[full] = r.chunks[full][:part]
			full++
		}
		r.chunks = r.chunks[:full]
	}
	r.codecs, r.unsure = r.codecs[:n], nil
}

// read returns rows from a position on: as many of the next n as lie in one place and have
// the codec of the first, at least that one; n is at least 1. It returns errNoReplay if
// they are not kept.
func (r *replay) read(at, n int) (rows rowsOut, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.flush(at + n) // what is to be replayed is known
	if r.lost || at < 0 || at+n > len(r.codecs) {
		return rows, errNoReplay
	}
	end := min(at+n, at-at%replayChunk+replayChunk)
	if at < r.inMem {
		end = min(end, r.inMem)
	}
	c := r.codecs[at]
	if i := slices.IndexFunc(r.codecs[at:end], func(x protocol.TensorCodec) bool { return x != c }); i > 0 {
		end = at + i
	}
	rows = rowsOut{base: at, end: end, codec: c, row: protocol.TensorSize(c, r.width), bytes: make([]byte, r.size(at, end))}
	if at < r.inMem {
		copy(rows.bytes, r.chunks[at/replayChunk][r.offset(at):])
		return rows, nil
	}
	_, err = r.file.ReadAt(rows.bytes, r.inFile(at))
	return rows, err
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
	c := newReplay(r.budget, r.width)
	for at := 0; at < n; {
		rows, err := r.read(at, n-at)
		if err != nil {
			c.lost = true
			return c
		}
		c.put(rows, false)
		at = rows.end
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
