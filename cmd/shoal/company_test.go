package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/testnet"
)

// TestSameInCompany: sixteen greedy answers at once are those asked one by one, also
// where a node is killed in the middle of them.
func TestSameInCompany(t *testing.T) {
	t.Parallel()
	net := processes(t, testnet.Config{Nodes: 6, Replicas: 2, Args: []string{"--exact"}})
	door := net.Nodes()[0]
	cl := &api.Client{Base: "http://" + door.API, Token: token(door.Dir)}
	var answered atomic.Int64
	ask := func(i int) []int32 {
		zero := 0.0
		req := &api.GenerateRequest{Raw: true, Prompt: fmt.Sprintf("Once upon a time there were %d foxes", i+2), MaxTokens: 48, Exact: true}
		req.Sampling.Temperature = &zero
		var ids []int32
		err := cl.Generate(t.Context(), req, func(e api.Event) error {
			if e.Token != nil {
				ids = append(ids, e.Token.ID)
				answered.Add(1)
			}
			return nil
		})
		if err != nil {
			t.Errorf("answer %d: %v", i, err)
		}
		return ids
	}
	const n = 16
	var alone [n][]int32
	for i := range n {
		alone[i] = ask(i)
	}
	for _, c := range []struct {
		name string
		at   int
		kill string
	}{{"eight at once", 8, ""}, {"sixteen at once", n, ""}, {"a node killed", n, net.Nodes()[4].Name}} {
		before := answered.Load()
		var got [n][]int32
		var all sync.WaitGroup
		for i := range c.at {
			all.Go(func() { got[i] = ask(i) })
		}
		if c.kill != "" {
			killAfter(t, net, c.kill, func() bool { return answered.Load() > before+n })
		}
		all.Wait()
		for i := range c.at {
			if !slices.Equal(got[i], alone[i]) {
				t.Errorf("%s: answer %d is %v, alone %v", c.name, i, got[i], alone[i])
			}
		}
	}
}

// killAfter kills a node as soon as due returns true.
func killAfter(t *testing.T, net *testnet.Testnet, name string, due func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !due() && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	if err := net.Kill(name); err != nil {
		t.Error(err)
	}
}
