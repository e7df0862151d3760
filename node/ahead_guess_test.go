package node_test

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/shoalnet/shoal/node/ahead"
	"github.com/shoalnet/shoal/node/stage"
)

// drafters are ways to guess. The first three are node/ahead's; it is not told how long
// rows and trips take, and so guesses on a busy machine, too. The others know the answer,
// and are right always, mostly, never, or by chance.
var drafters = []string{"table", "expected text", "hints", "always right", "mostly right", "always wrong", "random"}

// scriptBook has the answers to prompts, and how they are to be guessed. It is safe for
// concurrent use.
type scriptBook struct {
	mu sync.Mutex
	by map[string]script // by the prompt's tokens
}

type script struct {
	answer  []int32
	drafter string
}

func tokensKey(ids []int32) string {
	var b []byte
	for _, id := range ids {
		b = binary.LittleEndian.AppendUint32(b, uint32(id))
	}
	return string(b)
}

func (l *scriptBook) put(prompt []int32, s script) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.by == nil {
		l.by = map[string]script{}
	}
	l.by[tokensKey(prompt)] = s
}

func (l *scriptBook) get(prompt []int32) script {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.by[tokensKey(prompt)]
}

// guess makes the guesser of a session, which finds out by the prompt what it is to do.
func (l *scriptBook) guess(most int) stage.Guesser { return &drafter{from: l, most: most} }

// drafter guesses one answer by its script.
type drafter struct {
	from   *scriptBook
	most   int
	prompt []int32

	script
	known  int           // tokens of the answer
	runner *ahead.Runner // of node/ahead's drafters; nil: another one, or it has not begun
	line   []int32       // guesses on their way
	rng    *rand.Rand
}

func (d *drafter) Prompt(tokens []int32) { d.prompt = append(d.prompt, tokens...) }
func (d *drafter) Expect([]int32)        {}

// begin is called with the first token of the answer.
func (d *drafter) begin() {
	d.script = d.from.get(d.prompt)
	d.rng = rand.New(rand.NewPCG(uint64(len(d.prompt)), 3))
	switch d.drafter {
	case "table", "expected text", "hints":
		d.runner = ahead.New(ahead.Config{MaxInFlight: d.most})
		d.runner.Prompt(d.prompt)
		if len(d.answer) > 0 && d.drafter == "expected text" {
			text := slices.Clone(d.answer)
			text[len(text)/2] = d.other(text[len(text)/2])
			d.runner.Expect(text)
		}
	}
}

func (d *drafter) Token(id int32, at time.Time, _ stage.Measures) {
	if d.known++; d.rng == nil {
		d.begin()
	}
	if d.runner != nil {
		d.runner.Token(id, at, ahead.Measures{})
		d.hint()
		return
	}
	if len(d.line) > 0 && d.line[0] == id {
		d.line = d.line[1:]
	} else {
		d.line = nil
	}
}

// hint gives the runner what a small model would: the next tokens, of which some are wrong.
func (d *drafter) hint() {
	if d.drafter != "hints" || d.known >= len(d.answer) {
		return
	}
	next := slices.Clone(d.answer[d.known:min(d.known+6, len(d.answer))])
	if d.rng.IntN(3) == 0 {
		i := d.rng.IntN(len(next))
		next[i] = d.other(next[i])
	}
	d.runner.Hint(d.known, next)
}

// other is another token.
func (d *drafter) other(id int32) int32 { return (id + 1 + d.rng.Int32N(100)) % 200 }

func (d *drafter) Next(at time.Time, full bool) (int32, bool) {
	if d.runner != nil {
		return d.runner.Next(at, full)
	}
	i := d.known + len(d.line)
	if full || len(d.line) >= d.most || i >= len(d.answer) {
		return 0, false
	}
	id := d.answer[i]
	switch d.drafter {
	case "always wrong":
		id = d.other(id)
	case "mostly right":
		if d.rng.IntN(4) == 0 {
			id = d.other(id)
		}
	case "random":
		id = d.rng.Int32N(200)
	}
	d.line = append(d.line, id)
	return id, true
}
