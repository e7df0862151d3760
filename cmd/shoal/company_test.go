package main

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/engine"
	"github.com/shoalnet/shoal/testnet"
)

// TestSameInCompany: eight and sixteen greedy answers at once are those asked one by
// one, also where a node is killed in the middle of them. SHOAL_COMPANY names a model
// other than the one inside the program; with SHOAL_COMPANY_ENGINE=llama the nodes
// compute with llama.cpp's library, which needs --exact for that.
func TestSameInCompany(t *testing.T) {
	t.Parallel()
	var args []string
	if os.Getenv("SHOAL_COMPANY_ENGINE") == engine.Llama {
		args = withLibrary(needLibrary(t), "--exact")
	}
	net := processes(t, testnet.Config{Nodes: 6, Replicas: 2, Model: os.Getenv("SHOAL_COMPANY"), Args: args})
	cl := inquire(t, net)
	var answered, repairs atomic.Int64
	ask := func(i int) []int32 {
		a, err := cl.ask(t.Context(), question{text: fmt.Sprintf("Once upon a time there were %d foxes", i+2), tokens: 48, exact: true}, func(int) { answered.Add(1) })
		if err != nil {
			t.Errorf("answer %d: %v", i, err)
		}
		repairs.Add(int64(len(a.done.Recoveries)))
		return a.tokens
	}
	const n = 16
	var alone [n][]int32
	for i := range n {
		alone[i] = ask(i)
	}
	for _, c := range []struct {
		name string
		at   int
		kill bool
	}{{"eight at once", 8, false}, {"sixteen at once", n, false}, {"a node killed", n, true}} {
		before, same := answered.Load(), 0
		repairs.Store(0)
		var got [n][]int32
		var all sync.WaitGroup
		for i := range c.at {
			all.Go(func() { got[i] = ask(i) })
		}
		if c.kill {
			killBusiest(t, net, func() bool { return answered.Load() > before+n })
		}
		all.Wait()
		for i := range c.at {
			if slices.Equal(got[i], alone[i]) {
				same++
			} else {
				t.Errorf("%s: answer %d is %v, alone %v", c.name, i, got[i], alone[i])
			}
		}
		if t.Logf("%s: %d of %d as alone, %d repairs", c.name, same, c.at, repairs.Load()); c.kill && repairs.Load() == 0 {
			t.Error("no answer was on the node that was killed")
		}
	}
}

// killBusiest kills the node with most sessions, other than the first, as soon as due
// returns true.
func killBusiest(t *testing.T, net *testnet.Testnet, due func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !due() && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	var busiest testnet.Node
	most := -1
	for _, node := range net.Nodes()[1:] {
		if open := statusOf(t, node).Serving[0].Sessions; open > most {
			busiest, most = node, open
		}
	}
	if err := net.Kill(busiest.Name); err != nil {
		t.Error(err)
	}
}
