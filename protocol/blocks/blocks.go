package blocks

import (
	"errors"
	"fmt"
	"strings"

	"github.com/shoalnet/shoal/protocol"
)

// Metadata is the metadata of a GGUF file.
type Metadata interface {
	Value(key string) any // nil: no such key
}

// ErrHeader is wrapped when metadata does not say how many blocks a model has.
var ErrHeader = errors.New("no usable model header")

// Limits of what a model is read for. llama.cpp has room for 512 blocks.
const (
	maxBlocks = 4096
	maxNumber = 1 << 24 // heads, sizes of a head or a state
)

// Block is one block of a model.
type Block struct {
	Attends   bool  // it caches keys and values of its own
	Window    bool  // it attends to the last positions only
	Recurrent bool  // it carries a state from position to position
	Keys      int64 // numbers that it caches per token
	Values    int64 // likewise; 0 where the values are part of the keys
	State     int64 // numbers per sequence
}

// Model is what a header says of a model's blocks.
type Model struct {
	Arch   string
	Blocks []Block
	Window int64 // positions that blocks with a window attend to; 0: there are none
	Ahead  int   // how many of the last blocks only predict further tokens, and are not run
	Shared int   // how many of the last blocks that are run use the caches of earlier ones

	kind
	why     string // why the model is never cut; "": it is
	phase   int    // spans begin at a multiple of this
	not     []int  // lengths that no span may have
	reuse   []bool // blocks that use what the indexer of an earlier one chose
	numbers        // of the header
}

// Of reads a model's header. Errors wrap ErrHeader.
func Of(md Metadata) (*Model, error) {
	arch, _ := md.Value("general.architecture").(string)
	n := numbers{md, arch}
	count := n.one("block_count", 0)
	if arch == "" || count < 1 || count > maxBlocks {
		return nil, fmt.Errorf("%w: it names %d blocks of architecture %.60q", ErrHeader, count, arch)
	}
	m := &Model{Arch: arch, Blocks: make([]Block, count), kind: kinds[arch], numbers: n}
	m.Ahead = int(min(n.one("nextn_predict_layers", 0), count-1))
	m.setKinds()
	m.setCaches()
	m.setRules()
	return m, nil
}

// run is how many blocks are run for each token.
func (m *Model) run() int { return len(m.Blocks) - m.Ahead }

// setKinds sets which blocks attend to what.
func (m *Model) setKinds() {
	blocks := int64(len(m.Blocks))
	kv := m.list("attention.head_count_kv", m.one("attention.head_count", 0))
	ff := m.list("feed_forward_length", 0)
	windows := m.windows()
	recurrent := m.list("attention.recurrent_layers", -1)
	interval := max(1, m.one("full_attention_interval", int64(m.interval)))
	m.Shared = int(max(0, min(m.one("attention.shared_kv_layers", 0), int64(m.run())-2)))
	if m.Arch == "gemma3n" {
		m.Shared = max(0, m.run()-20)
	}
	for i := range m.Blocks[:m.run()] {
		b := &m.Blocks[i]
		switch {
		case m.interval > 0 && recurrent[i] >= 0:
			b.Recurrent = recurrent[i] != 0
		case m.interval > 0:
			b.Recurrent = (int64(i)+1)%interval != 0 && int64(i) < blocks
		case m.heads && strings.HasPrefix(m.Arch, "nemotron_h"): // others are plain feed-forward networks
			b.Recurrent = kv[i] == 0 && ff[i] == 0
		case m.heads:
			b.Recurrent = kv[i] == 0
		default:
			b.Recurrent = m.recurrent || m.both
		}
		b.Attends = (m.both || !b.Recurrent) && kv[i] > 0 && i < m.run()-m.Shared
		b.Window = !b.Recurrent && windows[i]
	}
}

// windows returns which blocks attend to a window, as the library has it.
func (m *Model) windows() []bool {
	out := make([]bool, len(m.Blocks))
	m.Window = m.one("attention.sliding_window", 0)
	switch m.Arch {
	case "llama4":
		if named := m.md.Value(m.arch+".attention.sliding_window") != nil; named && m.Window == 0 {
			return out
		}
		m.Window = 8192
	case "exaone4":
		if len(m.Blocks) == 64 {
			m.period, m.Window = 4, max(m.Window, 4096)
		}
	}
	if m.period == 0 || m.Window == 0 && !m.always {
		m.Window = 0
		return out
	}
	flags, ok := m.array("attention.sliding_window_pattern")
	period := int64(m.period)
	if !ok {
		period = m.one("attention.sliding_window_pattern", period)
	}
	for i := range out[:m.run()] {
		switch at := int64(i); {
		case ok:
			out[i] = i < len(flags) && flags[i] != 0
		case period < 1:
			out[i] = true
		case m.first:
			out[i] = at%period != 0
		default:
			out[i] = at%period < period-1
		}
	}
	return out
}

// setCaches sets what blocks keep.
func (m *Model) setCaches() {
	heads := m.list("attention.head_count", 0)
	kv := m.list("attention.head_count_kv", -1)
	width := m.one("embedding_length", 0)
	size := int64(0)
	for _, h := range heads {
		if h > 0 {
			size = width / h
			break
		}
	}
	key, value := m.one("attention.key_length", size), m.one("attention.value_length", size)
	wKey, wValue := m.one("attention.key_length_swa", key), m.one("attention.value_length_swa", value)
	latent := m.one("attention.key_length_mla", 0) > 0 && m.one("attention.value_length_mla", 0) > 0
	for i := range m.Blocks {
		b := &m.Blocks[i]
		n := kv[i]
		if n < 0 {
			n = heads[i]
		}
		if b.Attends {
			b.Keys, b.Values = product(n, key), product(n, value)
			if b.Window {
				b.Keys, b.Values = product(n, wKey), product(n, wValue)
			}
			if latent { // the values are a part of the keys
				b.Values = 0
			}
		}
		if b.Recurrent {
			b.State = min(m.state(width, heads), mostCached)
		}
	}
}

// state returns how many numbers a recurrent block carries per sequence.
func (m *Model) state(width int64, heads []int64) int64 {
	most := int64(0)
	for _, h := range heads {
		most = max(most, h)
	}
	conv := max(0, m.one("ssm.conv_kernel", 0)-1)
	if size := m.one("wkv.head_size", 0); size > 0 {
		return product(m.one("token_shift_count", 2), width) + product(width, size)
	}
	if n := m.one("shortconv.l_cache", 0); n > 0 {
		return product(width, n-1)
	}
	if size := m.one("kda.head_dim", 0); size > 0 {
		if conv == 0 {
			conv = 3
		}
		return product(3*conv, most, size) + product(most, size, size)
	}
	if m.Arch == "minimax-01" {
		size := m.one("attention.key_length", 0)
		return product(most, size, size)
	}
	inner, state := m.one("ssm.inner_size", 0), m.one("ssm.state_size", 0)
	return product(conv, inner+2*product(m.one("ssm.group_count", 0), state)) + product(state, inner)
}

// mostCached is as much as a block is taken to cache, whatever its header says.
const mostCached = 1 << 40

// product multiplies numbers that are not negative, up to mostCached.
func product(factors ...int64) int64 {
	out := int64(1)
	for _, f := range factors {
		if f > 0 && out > mostCached/f {
			return mostCached
		}
		out *= f
	}
	return out
}

// Cache is what a span keeps in memory for sequences, in bytes.
type Cache struct {
	Token    int64 // per token, in blocks that attend to all tokens
	Windowed int64 // per token, in blocks that attend to the last Window tokens
	Window   int64 // tokens
	Sequence int64 // per sequence, whatever its length: recurrent states
}

// Cache returns what a span keeps in the library, with keys and values of a type:
// "f32", "q8_0", or else two bytes per number. Recurrent states are of four bytes.
func (m *Model) Cache(s protocol.Span, kvType string) Cache {
	c := Cache{Window: m.Window}
	for _, b := range m.Blocks[max(0, s.From):max(0, s.From, min(s.To, len(m.Blocks)))] {
		n := typed(b.Keys, kvType) + typed(b.Values, kvType)
		if b.Window {
			c.Windowed += n
		} else {
			c.Token += n
		}
		c.Sequence += 4 * b.State
	}
	return c
}

// typed is how many bytes numbers of a type take.
func typed(n int64, kvType string) int64 {
	switch kvType {
	case "f32":
		return 4 * n
	case "q8_0": // blocks of 32 and a scale
		return (n + 31) / 32 * 34
	}
	return 2 * n
}

// CacheCost returns what a span keeps in memory per token and per sequence, in bytes,
// as if blocks with a window kept all tokens. Of a header that cannot be read it
// returns zeros.
func CacheCost(md Metadata, s protocol.Span, kvType string) (perToken, perSession int64) {
	m, err := Of(md)
	if err != nil {
		return 0, 0
	}
	c := m.Cache(s, kvType)
	return c.Token + c.Windowed, c.Sequence
}
