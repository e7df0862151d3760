package main

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/network"
)

// stops ends the person's node, and forgets what it has said.
func (p *person) stops() {
	p.t.Helper()
	if err := p.daemon.Process.Signal(os.Interrupt); err != nil {
		p.t.Fatal(err)
	}
	_ = p.daemon.Wait()
	p.said.mu.Lock()
	defer p.said.mu.Unlock()
	p.said.buf.Reset()
}

// says waits until the person's node has said words, wherever its lines are broken, and
// checks that it has not said others.
func (p *person) says(never string, words ...string) {
	p.t.Helper()
	for _, w := range words {
		eventually(p.t, time.Minute, "the node says "+w, func() bool {
			return strings.Contains(strings.Join(strings.Fields(p.said.String()), " "), w)
		})
	}
	if never != "" && strings.Contains(p.said.String(), never) {
		p.t.Errorf("the node says %q:\n%s", never, p.said)
	}
}

// TestFirstStart: a new home gets its owner's own swarm, once; commands that need no
// network leave it new; and who is in the open network is told so.
func TestFirstStart(t *testing.T) {
	t.Parallel()
	anna := newPerson(t, "anna")
	anna.does(nil, "model", "add", "tinytales")
	if _, err := os.Stat(home.Home(anna.home).Key()); err == nil {
		t.Error("a command that needs no network has made a key for the open one")
	}
	if out := anna.does(nil, "status"); !strings.Contains(out, "it founds a swarm") {
		t.Errorf("before the first start, the status is\n%s", out)
	}
	anna.fails(3, "this home is in no swarm", "prompt", "--model", "another", "hello")
	anna.starts()
	anna.says("open: strangers", "only your own machines and those you let in (swarm anna, 1 member)", "This first start has founded swarm anna", "`shoal backup FILE` saves it", "shoal invite")
	var st api.Status
	anna.does(&st, "status")
	if st.Open || len(st.Networks) != 1 || st.Networks[0].Name != "anna" || st.Networks[0].Members != 1 || !st.Networks[0].Founder {
		t.Errorf("open %t, in %+v", st.Open, st.Networks)
	}
	anna.stops()
	anna.fails(3, "no other machine of swarm anna answers", "prompt", "--model", "another", "hello")
	anna.starts("--open")
	anna.says("This first start has founded", "open: strangers may use this machine, and it uses theirs; beside them your own machines and those you let in (swarm anna, 1 member)")
	if anna.does(&st, "status"); !st.Open || len(st.Networks) != 2 {
		t.Errorf("with --open: open %t, in %+v", st.Open, st.Networks)
	}
	anna.stops()
	anna.starts()
	anna.says("open: strangers", "only your own machines")

	// What a script leaves empty is taken for nothing else.
	for flag, args := range map[string][]string{
		"--root": {"swarm", "new", "--root", ""}, "--name": {"swarm", "new", "--name", ""}, "--roles": {"invite", "--roles", ""}, "--swarm": {"swarm", "leave", "--swarm", ""},
	} {
		anna.fails(2, flag+" needs a value", args...)
	}

	// Who has only ever been open is not so any more without saying it.
	ben := newPerson(t, "ben")
	ben.starts("--open")
	ben.says("founded", "open: strangers may use this machine")
	ben.fails(1, "`shoal swarm new` founds one", "invite")
	ben.stops()
	ben.starts()
	ben.says("open: strangers", "only your own machines", "This first start has founded swarm ben")
}

// TestUpgradedHome: a home that was in the open network before homes had swarms goes on
// there, and says at each start and to whoever asks how to keep that and how to end it.
func TestUpgradedHome(t *testing.T) {
	t.Parallel()
	old := newPerson(t, "old")
	if err := os.MkdirAll(old.home, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := network.LoadKey(home.Home(old.home).Key()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		old.starts()
		old.says("founded", "open: strangers may use this machine", "`shoal config set open true` keeps it so", "`shoal config set open false` gives it a swarm of its own")
		if out, _, _ := old.run("doctor"); !strings.Contains(out, "warn  access") || !strings.Contains(out, "config set open true") {
			t.Errorf("the doctor says\n%s", out)
		}
		if out := old.does(nil, "status"); !strings.Contains(strings.Join(strings.Fields(out), " "), "`shoal config set open false` gives it a swarm") {
			t.Errorf("the status is\n%s", out)
		}
		old.stops()
	}
	if out := old.does(nil, "swarm", "new", "--name", "lab"); !strings.Contains(strings.Join(strings.Fields(out), " "), "From its next start on it is not, unless `shoal config set open true` says so") {
		t.Errorf("founding a swarm ends that without a word:\n%s", out)
	}
	old.does(nil, "swarm", "leave", "--force")
	if err := os.Remove(home.Home(old.home).Swarms()); err != nil { // as it was before
		t.Fatal(err)
	}
	old.does(nil, "config", "set", "open", "false")
	old.starts()
	old.says("open: strangers", "only your own machines", "This first start has founded swarm old")
	old.does(nil, "config", "set", "open", "true")
	old.stops()
	old.starts()
	old.says("It is open because", "open: strangers may use this machine", "(swarm old, 1 member)")
}
