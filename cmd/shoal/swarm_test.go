package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/store"
)

// person is somebody with one machine: a home, in which a daemon may run.
type person struct {
	*client
	listen []string
	daemon *exec.Cmd
	said   *words
}

// words is what a daemon has printed so far.
type words struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (w *words) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.Write(b)
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.buf.String()
}

func newPerson(t *testing.T, name string) *person {
	p := &person{client: &client{t: t, home: filepath.Join(t.TempDir(), name)}, said: &words{}}
	p.env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "SHOAL_") })
	p.env = append(p.env, beShoal+"=1", "SHOAL_HOME="+p.home, "SHOAL_NO_MDNS=true", "SHOAL_QUIET_BUILD=1", "SHOAL_NAME="+name)
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is likely to be free for UDP, too
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	p.listen = []string{fmt.Sprintf("/ip4/127.0.0.1/udp/%d/quic-v1", port), fmt.Sprintf("/ip4/127.0.0.1/tcp/%d", port)}
	return p
}

// starts runs `shoal node` in the person's home until the test ends, and waits until it
// answers.
func (p *person) starts(args ...string) {
	p.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		p.t.Fatal(err)
	}
	args = append([]string{"node", "--api", "off", "--pause-load", "0", "--listen", strings.Join(p.listen, ",")}, args...)
	p.daemon = exec.Command(exe, args...)
	p.daemon.Env, p.daemon.Stdout, p.daemon.Stderr = p.env, p.said, p.said
	if err := p.daemon.Start(); err != nil {
		p.t.Fatal(err)
	}
	daemon := p.daemon
	p.t.Cleanup(func() {
		_ = daemon.Process.Signal(os.Interrupt)
		_ = daemon.Wait()
		if p.t.Failed() {
			p.t.Logf("%s's node:\n%s", filepath.Base(p.home), p.said)
		}
	})
	eventually(p.t, time.Minute, "the node answers", func() bool { return running(p.t.Context(), p.home) != nil })
}

// does runs a command that must succeed, and decodes its JSON into v if v is not nil.
func (p *person) does(v any, args ...string) string {
	p.t.Helper()
	if v != nil {
		args = append(args, "--json")
	}
	out, errOut, code := p.run(args...)
	if code != 0 {
		p.t.Fatalf("shoal %v: exit %d\n%s%s", args, code, out, errOut)
	}
	if v != nil {
		if err := json.Unmarshal([]byte(out), v); err != nil {
			p.t.Fatalf("shoal %v: %v\n%s", args, err, out)
		}
	}
	return out
}

// fails runs a command that must fail with a code and these words.
func (p *person) fails(code int, say string, args ...string) {
	p.t.Helper()
	out, errOut, got := p.run(args...)
	if got != code || !strings.Contains(strings.Join(strings.Fields(errOut), " "), say) {
		p.t.Errorf("shoal %v: exit %d, want %d with %q\n%s%s", args[0], got, code, say, out, errOut)
	}
}

// TestSwarm is a private swarm as people use it, with real daemons: founded, joined with a
// daemon and without, a prompt answered across it, somebody removed in the middle of an
// answer, and left.
func TestSwarm(t *testing.T) {
	t.Parallel()
	anna, ben, eve := newPerson(t, "annas-desk"), newPerson(t, "bens-laptop"), newPerson(t, "eve")
	anna.fails(1, "`shoal swarm new` founds one", "invite")
	var home api.Swarm
	anna.does(&home, "swarm", "new", "--name", "lab")
	if !home.Founder || home.Running || home.Name != "lab" {
		t.Errorf("founded %+v", home)
	}
	if st, err := os.Stat(filepath.Join(anna.home, "swarms", home.ID, "root")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the root key: %v, %v", err, st)
	}
	anna.starts("--model", "tinytales")
	var code api.Invitation
	anna.does(&code, "invite")
	if code.Uses != 1 || !slices.Equal(code.Roles, []string{"use", "serve"}) || !code.Running || len(code.Code) > 300 {
		t.Errorf("invited with %+v", code)
	}
	var there api.Swarm
	ben.does(&there, "join", strings.ToLower(code.Code[:100]), code.Code[100:]) // broken by a mail program
	if there.ID != home.ID || there.Name != "lab" || there.Founder || there.Members != 2 {
		t.Errorf("joined %+v", there)
	}
	eve.fails(4, "used as often as it may be", "join", code.Code)
	eve.fails(5, "a letter of the code is wrong", "join", code.Code[:60])
	if log := anna.said.String(); strings.Contains(log, code.Code[5:]) || !strings.Contains(log, "bens-laptop has joined swarm lab") || !strings.Contains(log, "eve tried to join") {
		t.Errorf("the inviter's node says:\n%s", log)
	}

	// From a light client, and through a daemon; the inviter's machine is known by name.
	eventually(t, time.Minute, "the model is served", func() bool { return strings.Contains(anna.said.String(), "serving tinytales") })
	first := ben.prompt(greedy...)
	ben.starts()
	again := ben.prompt(greedy...)
	if first.Text == "" || first.Text != again.Text {
		t.Errorf("%q, then %q", first.Text, again.Text)
	}
	if name := again.Route[0].Name; name != "annas-desk" {
		t.Errorf("answered by %q", name)
	}
	var members []api.Member
	ben.does(&members, "swarm", "members")
	if len(members) != 2 || !members[0].Self || members[1].Name != "annas-desk" || !members[1].Connected {
		t.Errorf("Ben knows %+v", members)
	}

	// Eve is no member: she has the address of Anna's node, and nothing comes of it.
	for _, at := range anna.listen {
		eve.fails(3, "", "prompt", "--bootstrap", at+"/p2p/"+home.Peer, "hello")
	}

	format := filepath.Join(t.TempDir(), "long.json")
	if err := os.WriteFile(format, []byte(`{"type":"array","items":{"enum":["once upon a time there was a fox"]},"minItems":200}`), 0o600); err != nil {
		t.Fatal(err)
	}
	long, _, longErr := ben.command("prompt", "--raw", "--format", format, "Once upon a time")
	long.Stdout = nil
	words, err := long.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := long.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(words, make([]byte, 20)); err != nil {
		t.Fatalf("no long answer begins: %v\n%s", err, longErr)
	}
	var revoked api.Revoked
	anna.does(&revoked, "swarm", "revoke", "bens-laptop")
	if !revoked.Member.Revoked || revoked.Member.Name != "bens-laptop" {
		t.Errorf("removed %+v", revoked)
	}
	rest, _ := io.ReadAll(words)
	if err := long.Wait(); err == nil || bytes.Contains(rest, []byte("]")) {
		t.Errorf("an answer goes on for somebody who was removed: %v, %d bytes", err, len(rest))
	}
	out, errOut, exit := ben.run(append([]string{"prompt"}, greedy...)...)
	if exit == 0 {
		t.Errorf("somebody who was removed is answered: %s%s", out, errOut)
	}
	var list []api.Swarm
	anna.does(&list, "swarm", "ls")
	if len(list) != 1 || list[0].Members != 1 || list[0].Connected != 0 {
		t.Errorf("Anna's swarm is %+v", list)
	}
	ben.does(&there, "swarm", "leave")
	if ben.does(&list, "swarm", "ls"); len(list) != 0 {
		t.Errorf("Ben is still in %+v", list)
	}
	anna.fails(4, "root key", "swarm", "leave")
}

// TestSwarmsOfABusyHome: while something without a daemon, such as a chat, is at work in a
// home and has its swarms in memory, no command changes them.
func TestSwarmsOfABusyHome(t *testing.T) {
	t.Parallel()
	anna := newPerson(t, "anna")
	var lab api.Swarm
	anna.does(&lab, "swarm", "new", "--name", "lab")
	chat, err := store.Open(home.Home(anna.home).Store(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer chat.Close()
	anna.fails(1, "in use by another shoal", "invite")
	var list []api.Swarm
	if anna.does(&list, "swarm", "ls"); len(list) != 1 {
		t.Errorf("Anna is in %+v", list)
	}
}
