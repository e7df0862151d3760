package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/testnet"
	strangers "github.com/shoalnet/shoal/testnet/hostile"
)

// siegeMemory is what a node under siege and its engine may take together.
const siegeMemory = 500 << 20

// TestSiege: a node that may take 500 MiB lives while strangers hold, send and
// claim what they can, and answers all the while. SHOAL_SIEGE=10m has it last that
// long; else it is a few rounds. Needs to make a memory cgroup, so root.
func TestSiege(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("some rounds of everything")
	}
	group := memoryGroup(t, siegeMemory)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	inside := filepath.Join(t.TempDir(), "shoal")
	script := fmt.Sprintf("#!/bin/sh\necho $$ > %s/cgroup.procs && exec %s \"$@\"\n", group, exe)
	if err := os.WriteFile(inside, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	net := processes(t, testnet.Config{Binary: inside, Nodes: 1, Args: []string{"--kv-tokens", "4096"}})
	node := net.Nodes()[0]
	id, err := cid.Decode(net.Model().ID)
	if err != nil {
		t.Fatal(err)
	}
	m := strangers.Model{ID: id, Name: net.Model().Name, Blocks: net.Model().Blocks, Width: 128}
	c := newClient(t, net)
	want := c.prompt(greedy...)
	var last time.Duration
	if s := os.Getenv("SHOAL_SIEGE"); s != "" {
		if last, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	before, most := groupMemory(t, group), int64(0)
	begin, rounds := time.Now(), 0
	for ; rounds < 2 || time.Since(begin) < last; rounds++ {
		round := siege(t, node.Addrs[0], m)
		got := c.prompt(greedy...)
		if fmt.Sprint(got.Tokens) != fmt.Sprint(want.Tokens) {
			t.Errorf("round %d: %v, want %v", rounds, got.Tokens, want.Tokens)
		}
		most = max(most, groupMemory(t, group))
		for _, p := range round {
			p.Close()
		}
		if net.Nodes()[0].PID != node.PID || statusOf(t, node).Peer != node.Peer {
			t.Fatalf("the node died in round %d", rounds)
		}
	}
	var after int64
	eventually(t, time.Minute, "the memory is given back", func() bool {
		after = groupMemory(t, group)
		return after < before+before/2+64<<20
	})
	t.Logf("%d rounds in %s: %d MiB before, %d MiB at most seen, %d MiB after", rounds, time.Since(begin).Round(time.Second), before>>20, most>>20, after>>20)
}

// siege has strangers do all they can, and gives those who still hold something.
func siege(t *testing.T, addr string, m strangers.Model) (all []*strangers.Peer) {
	t.Helper()
	connect := func() *strangers.Peer {
		p, err := strangers.Connect(t.Context(), addr)
		if err != nil {
			return nil // no room for it, which is fine
		}
		t.Cleanup(func() { p.Close() })
		all = append(all, p)
		return p
	}
	for range 3 {
		if p := connect(); p != nil {
			p.HalfFrames(100)
		}
	}
	for range 4 {
		if p := connect(); p != nil {
			p.Hold(12, m, 512)
		}
	}
	if p := connect(); p != nil {
		_, _ = p.Flood(50_000, m, 2*time.Second)
	}
	if p := connect(); p != nil {
		_ = p.Names(10)
	}
	if p := connect(); p != nil {
		_ = p.Reflect(50, m, multiaddr.StringCast("/ip4/127.0.0.1/tcp/9"))
	}
	if p := connect(); p != nil {
		p.Lie()
		_ = p.Claim(m)
	}
	return all
}

// memoryGroup makes a memory cgroup for the length of the test, of either version.
func memoryGroup(t *testing.T, limit int64) string {
	t.Helper()
	for _, v := range []struct{ root, file string }{{"/sys/fs/cgroup/memory", "memory.limit_in_bytes"}, {"/sys/fs/cgroup", "memory.max"}} {
		dir := filepath.Join(v.root, fmt.Sprintf("shoal-test-%d", os.Getpid()))
		if os.Mkdir(dir, 0o755) != nil {
			continue
		}
		t.Cleanup(func() { _ = os.Remove(dir) })
		if os.WriteFile(filepath.Join(dir, v.file), []byte(strconv.FormatInt(limit, 10)), 0o600) == nil {
			return dir
		}
	}
	t.Skip("no memory cgroup can be made here")
	return ""
}

// groupMemory is what the group's processes have that is not cache, in bytes.
func groupMemory(t *testing.T, dir string) int64 {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "memory.stat"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if len(f) == 2 && (f[0] == "rss" || f[0] == "anon") {
			n, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Fatalf("no memory in %s", raw)
	return 0
}
