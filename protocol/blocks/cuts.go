package blocks

import (
	"fmt"
	"slices"
	"strings"

	"github.com/shoalnet/shoal/protocol"
)

// Kinds of block that a span may have to have. The library lays out a cache for each
// kind that its architecture has, and fails where a span has no block of some kinds:
// it has been tried which.
const (
	attends   = "a block with attention"
	global    = "a block that attends to the whole text"
	windowed  = "a block that attends to a window"
	recurrent = "a recurrent block"
)

// libraryBlocks is how many blocks the library has room for.
const libraryBlocks = 512

// setRules computes what the table cannot say.
func (m *Model) setRules() {
	count := len(m.Blocks)
	m.why, m.phase = m.whole, max(1, m.kind.phase)
	if lengths := byCount[m.Arch]; lengths != nil && !m.sameForAll() {
		if slices.Contains(lengths, count) {
			m.why = counted
		}
		m.not = slices.DeleteFunc(slices.Clone(lengths), func(n int) bool { return n >= count })
	}
	switch m.Arch {
	case "command-r":
		if count >= 64 {
			m.why = counted
		}
	case "llama4":
		if m.Window == 0 {
			m.why = counted
		}
		m.phase = lcm(m.phase, m.one("interleave_moe_layer_step", 1))
	case "ernie4_5-moe":
		m.phase = lcm(m.phase, m.one("interleave_moe_layer_step", 1))
	case "smallthinker":
		if m.Window == 0 {
			m.phase = 1
		} else if count > 4 {
			m.not = []int{4} // which the library takes for a model without windows
		}
	case "gemma4":
		if m.one("embedding_length_per_layer_input", 0) > 0 {
			m.why = "each of its blocks reads the tokens themselves"
		}
	}
	if flags, ok := m.array("attention.indexer.types"); ok {
		m.reuse = make([]bool, count)
		for i := range m.reuse {
			m.reuse[i] = i < len(flags) && flags[i] == 0
		}
	}
	if m.one("attention.causal", 1) == 0 {
		m.why = encoder
	}
	if count > libraryBlocks {
		m.why = fmt.Sprintf("it has more than %d blocks", libraryBlocks)
	}
}

// sameForAll reports that a model of an architecture in byCount computes the same
// however many blocks it has.
func (m *Model) sameForAll() bool {
	switch m.Arch {
	case "gemma3":
		heads := m.one("attention.head_count", 0)
		return heads > 0 && m.one("embedding_length", 0)/heads == m.one("attention.key_length", 0)
	case "deepseek2":
		return m.one("attention.q_lora_rank", 0) == 0
	}
	return false
}

// lcm is the least common multiple; absurd factors count as 1.
func lcm(a int, n int64) int {
	b := int(n)
	if b < 1 || b > maxBlocks {
		return a
	}
	x, y := a, b
	for y != 0 {
		x, y = y, x%y
	}
	return a / x * b
}

// Cuts returns the spans into which the library can cut the model.
func (m *Model) Cuts() *protocol.Cuts {
	c := &protocol.Cuts{Blocks: len(m.Blocks), Edges: []int{}}
	if m.why != "" {
		c.Why = "it can only be computed whole: " + m.why
		return c
	}
	run := m.run()
	last := run // the last block that a span may begin before
	if m.Shared > 0 {
		last = m.firstShared() + 1
	}
	for at := 1; at < run && at < last; at++ {
		if at%m.phase == 0 && !(m.reuse != nil && m.reuse[at]) {
			c.Edges = append(c.Edges, at)
		}
	}
	c.Needs, c.Not = m.needs(), m.not
	c.Why = m.reason(c)
	return c
}

// firstShared is the first block whose cache later ones use.
func (m *Model) firstShared() int { return m.run() - m.Shared - 2 }

// needs lists the kinds of block of which each span has one, if there are several: with
// windows, one that has a window (of Gemma 4 one without, too); with recurrent blocks,
// one of these and one that attends.
func (m *Model) needs() (list []protocol.Need) {
	if m.both {
		return nil
	}
	of := map[string][]int{}
	for i, b := range m.Blocks[:m.run()] {
		switch {
		case b.Recurrent:
			of[recurrent] = append(of[recurrent], i)
		case !b.Attends && i < m.run()-m.Shared: // a plain feed-forward network
		case b.Window:
			of[windowed], of[attends] = append(of[windowed], i), append(of[attends], i)
		default:
			of[attends], of[global] = append(of[attends], i), append(of[global], i)
		}
	}
	if of[recurrent] == nil || of[attends] == nil {
		delete(of, recurrent)
		delete(of, attends)
	}
	if of[global] == nil {
		delete(of, windowed)
	}
	if m.Arch != "gemma4" || of[windowed] == nil { // whose frequencies (rope_freqs) only such blocks use, and the library insists on that
		delete(of, global)
	}
	for _, kind := range []string{attends, global, windowed, recurrent} {
		if of[kind] != nil {
			list = append(list, protocol.Need{Kind: kind, Blocks: of[kind]})
		}
	}
	return list
}

// reason says why the model is not cut anywhere; "": it is.
func (m *Model) reason(c *protocol.Cuts) string {
	var why []string
	if len(c.Needs) > 0 {
		kinds := make([]string, len(c.Needs))
		for i, n := range c.Needs {
			kinds[i] = n.Kind
			if len(n.Blocks) <= 8 {
				kinds[i] += " (" + listed(n.Blocks) + ")"
			}
		}
		why = append(why, "has "+strings.Join(kinds, " and "))
	}
	if m.phase > 1 {
		why = append(why, fmt.Sprintf("begins at a multiple of %d", m.phase))
	}
	if len(c.Not) > 0 {
		why = append(why, "does not have "+listed(c.Not)+" blocks")
	}
	if m.Shared > 0 {
		why = append(why, fmt.Sprintf("begins no later than at block %d, whose cache all later ones use", m.firstShared()))
	}
	if m.reuse != nil {
		why = append(why, "begins at a block with an indexer of its own")
	}
	if m.Ahead > 0 {
		why = append(why, fmt.Sprintf("begins before block %d, from which on blocks are not run", m.run()))
	}
	if len(why) == 0 {
		return ""
	}
	return "each part " + strings.Join(why, ", and ")
}

func listed(list []int) string {
	words := make([]string, len(list))
	for i, n := range list {
		words[i] = fmt.Sprint(n)
	}
	if last := len(words) - 1; last > 0 {
		return strings.Join(words[:last], ", ") + " or " + words[last]
	}
	return words[0]
}
