package scenario

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/shoalnet/shoal/testnet"
)

// Planned is one occurrence of a fault.
type Planned struct {
	Fault
	Line int           // of Scenario.Faults
	Nth  int           // occurrence of that line, from 0
	When time.Duration // since the faults' beginning
}

// Plan returns all occurrences of faults, in order of time.
func (s *Scenario) Plan() []Planned {
	var plan []Planned
	for i, f := range s.Faults {
		if f.Every == 0 {
			plan = append(plan, Planned{Fault: f, Line: i, When: f.At})
			continue
		}
		n := 0
		for at := f.From; at < min(f.To, s.Duration); at += f.Every {
			plan = append(plan, Planned{Fault: f, Line: i, Nth: n, When: at})
			n++
		}
	}
	slices.SortStableFunc(plan, func(a, b Planned) int { return cmp.Compare(a.When, b.When) })
	return plan
}

// order returns the nodes in the order in which a fault prefers them; it hits the first
// that it can. Equal seeds yield equal orders.
func (p *Planned) order(seed uint64, nodes []string) []string {
	switch p.Target {
	case Random:
		nodes = slices.Clone(nodes)
		rng := rand.New(rand.NewPCG(seed, uint64(p.Line)<<32|uint64(p.Nth)))
		rng.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
		return nodes
	case RoundRobin:
		k := p.Nth % len(nodes)
		return slices.Concat(nodes[k:], nodes[:k])
	}
	return []string{p.Target}
}

// server is a node as a route sees it.
type server struct {
	name     string
	from, to int
}

// route reports whether servers of all blocks form a ring in which neighbours can reach
// each other and the client can reach every member.
func route(servers []server, blocks int, cut func(a, b string) bool) bool {
	var reachable []server
	for _, s := range servers {
		if !cut(s.name, testnet.Client) {
			reachable = append(reachable, s)
		}
	}
	for _, first := range reachable {
		if first.from == 0 && closes(first, reachable, blocks, cut) {
			return true
		}
	}
	return false
}

// closes reports whether a ring begins and ends at a first stage.
func closes(first server, servers []server, blocks int, cut func(a, b string) bool) bool {
	seen := map[server]bool{first: true}
	for queue := []server{first}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		if at.to >= blocks && (at == first || !cut(at.name, first.name)) {
			return true
		}
		for _, next := range servers {
			if !seen[next] && next.from <= at.to && next.to > at.to && !cut(at.name, next.name) {
				seen[next] = true
				queue = append(queue, next)
			}
		}
	}
	return false
}
