package natlab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/shoalnet/shoal/testnet"
	"github.com/shoalnet/shoal/testnet/nat"
)

// Visit is what became of two homes that make a private swarm through a stranger.
type Visit struct {
	Serve  time.Duration // `shoal node --model NAME`, until it serves
	Invite time.Duration // `shoal invite`
	Join   time.Duration // `shoal join CODE`, at the other home
	Code   int           // letters
	First  Answer        // of `shoal prompt` at the other home, without a node there
	Wall   time.Duration // of that command
	Then   Answer        // the same, of a node there
	Direct time.Duration // from that node's start until its path is direct; 0: never
}

// String returns the visit as a line.
func (v Visit) String() string {
	how := func(a Answer) string {
		relayed, moved := false, ""
		for _, r := range a.Route {
			relayed = relayed || r.Relayed
		}
		for _, m := range a.Moves {
			moved = fmt.Sprintf(", direct from token %d on", m.Token)
		}
		if relayed {
			return "relayed" + moved
		}
		return "direct" + moved
	}
	direct := "never"
	if v.Direct > 0 {
		direct = fmt.Sprintf("after %.1f s", v.Direct.Seconds())
	}
	return fmt.Sprintf("serves after %.1f s, invite %.1f s (%d letters), join %.1f s, prompt %.1f s (first token %.0f ms, %s), with a node there first token %.0f ms (%s), direct %s",
		v.Serve.Seconds(), v.Invite.Seconds(), v.Code, v.Join.Seconds(), v.Wall.Seconds(), v.First.First, how(v.First), v.Then.First, how(v.Then), direct)
}

// Visit has a person with machines at two homes use three commands: a node at one home, an
// invitation, and the other home joins and asks. Neither home can be dialled, and nobody
// but the lab's public nodes relays, which are no members. The
// other home begins with nothing of the model: its header comes over a relay where no hole
// can be punched. Errors are those of the commands, and of answers that differ.
func (l *Lab) Visit(ctx context.Context, a, b nat.Kind, wait time.Duration) (v Visit, err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer l.Leave()
	stamp := strconv.FormatInt(time.Now().UnixNano(), 36) // of both homes, which are new
	host, err := l.machine(0, a)
	if err != nil {
		return v, err
	}
	began := time.Now()
	args := []string{"--model", testnet.TinyModel, "--listen-port", strconv.Itoa(port), "--api", "127.0.0.1:11500", "--name", "desk"}
	for _, r := range l.boot {
		args = append(args, "--relay", r)
	}
	desk, err := l.begin(ctx, host, "desk-"+stamp, args...)
	if err != nil {
		return v, err
	}
	if _, err := desk.Await(ctx, func(e testnet.Event) bool { return e.Event == testnet.EventServing }); err != nil {
		return v, err
	}
	v.Serve = time.Since(began)
	if err := desk.ownSwarm(ctx); err != nil {
		return v, err
	}
	code, err := timed(&v.Invite, func() ([]byte, error) { return desk.Shoal(ctx, "invite") })
	if err != nil {
		return v, err
	}
	v.Code = len(bytes.TrimSpace(code))
	guest, err := l.machine(1, b)
	if err != nil {
		return v, err
	}
	laptop := &Daemon{Home: filepath.Join(l.conf.Dir, "laptop-"+stamp), on: guest, binary: l.conf.Binary}
	if _, err := timed(&v.Join, func() ([]byte, error) { return laptop.Shoal(ctx, "join", string(bytes.TrimSpace(code))) }); err != nil {
		return v, err
	}
	if v.First, err = timed(&v.Wall, func() (Answer, error) { return laptop.Prompt(ctx, story, visitTokens) }); err != nil {
		return v, err
	}
	began = time.Now()
	there, err := l.begin(ctx, guest, filepath.Base(laptop.Home), "--listen-port", strconv.Itoa(port), "--api", "127.0.0.1:11500", "--name", "laptop")
	if err != nil {
		return v, err
	}
	for end := began.Add(20 * time.Second); v.Direct == 0 && time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if paths, err := there.Paths(ctx); err == nil && len(paths) > 0 && !paths[0].Relayed {
			v.Direct = time.Since(began)
		}
	}
	if v.Then, err = there.Prompt(ctx, story, visitTokens); err == nil && v.Then.Text != v.First.Text {
		err = fmt.Errorf("another text: %q", v.Then.Text)
	}
	return v, err
}

const visitTokens = 24

// timed returns what do does, and notes how long it took.
func timed[T any](took *time.Duration, do func() (T, error)) (T, error) {
	began := time.Now()
	v, err := do()
	*took = time.Since(began)
	return v, err
}

// machine adds the machine of home i.
func (l *Lab) machine(i int, kind nat.Kind) (*Machine, error) {
	return l.net.Add(l.conf.Delay, Line{Addr: netip.AddrFrom4([4]byte{10, byte(i + 1), 0, 2}), Kind: kind, Outside: outsideOf(i)})
}

// begin starts a daemon that Leave ends.
func (l *Lab) begin(ctx context.Context, m *Machine, home string, args ...string) (*Daemon, error) {
	d, err := m.Start(ctx, l.conf.Binary, filepath.Join(l.conf.Dir, home), append(args, l.conf.HomeArgs...)...)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.daemons = append(l.daemons, d)
	return d, nil
}

// ownSwarm founds a swarm unless the home has one from its first start.
func (d *Daemon) ownSwarm(ctx context.Context) error {
	out, err := d.Shoal(ctx, "swarm ls", "--json")
	if err != nil {
		return err
	}
	var list []struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(out)))
	}
	if len(list) > 0 {
		return nil
	}
	_, err = d.Shoal(ctx, "swarm new")
	return err
}
