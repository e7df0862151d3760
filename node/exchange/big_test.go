package exchange

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/store"
)

// The test of a big model runs the giving and the fetching side in processes
// of their own, which are this test binary again: memory is a process's.
const (
	bigVar  = "SHOAL_BIG" // set to run it; it takes a minute and 3 GiB of disk
	roleVar = "SHOAL_EXCHANGE_ROLE"
)

// figures are what a side tells when it is done.
type figures struct {
	Addr    string  `json:"addr,omitempty"`
	Idle    int64   `json:"idle"` // resident bytes before the fetch
	Peak    int64   `json:"peak"` // most resident bytes since
	Seconds float64 `json:"seconds,omitempty"`
	Bytes   int64   `json:"bytes,omitempty"`
}

// TestSide is a side of TestBig, in a process of its own.
func TestSide(t *testing.T) {
	switch os.Getenv(roleVar) {
	case "give":
		giveBig(t)
	case "fetch":
		fetchBig(t)
	default:
		t.Skip("it is a part of TestBig")
	}
}

// giveBig gives what its store has until its input ends.
func giveBig(t testing.TB) {
	n := newNode(t, newHost(t, os.Getenv("SHOAL_LISTEN")), os.Getenv("SHOAL_DIR"), &roster{})
	f := figures{Addr: fmt.Sprintf("%s/p2p/%s", n.h.Addrs()[0], n.h.ID()), Idle: settle(t)}
	tell(t, f)
	_, _ = io.Copy(io.Discard, os.Stdin)
	f.Peak = status(t, "VmHWM")
	tell(t, f)
}

func fetchBig(t testing.TB) {
	from, err := peer.AddrInfoFromString(os.Getenv("SHOAL_FROM"))
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, newHost(t, os.Getenv("SHOAL_LISTEN")), os.Getenv("SHOAL_DIR"), &roster{list: []peer.AddrInfo{*from}})
	n.learn(t, cid.MustParse(os.Getenv("SHOAL_MODEL")))
	f := figures{Idle: settle(t)}
	start := time.Now()
	n.fetch(t, func(p Progress) { f.Bytes = p.Bytes })
	f.Seconds = time.Since(start).Seconds()
	f.Peak = status(t, "VmHWM")
	tell(t, f)
}

func tell(t testing.TB, f figures) {
	raw, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("FIGURES %s\n", raw)
}

// settle waits until the start's garbage is gone, and forgets the peak.
func settle(t testing.TB) int64 {
	time.Sleep(2 * time.Second)
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		t.Fatal(err)
	}
	return status(t, "VmRSS")
}

func status(t testing.TB, field string) int64 {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), field+":")
	n, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n << 10
}

type side struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startSide(t *testing.T, role string, env ...string) *side {
	t.Helper()
	s := &side{cmd: exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestSide$")}
	s.cmd.Env = append(append(os.Environ(), roleVar+"="+role), env...)
	s.cmd.Stderr = os.Stderr
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.out = bufio.NewScanner(out)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.in.Close(); _ = s.cmd.Wait() })
	return s
}

func (s *side) figures(t *testing.T) (f figures) {
	t.Helper()
	for s.out.Scan() {
		if raw, ok := strings.CutPrefix(s.out.Text(), "FIGURES "); ok {
			if err := json.Unmarshal([]byte(raw), &f); err != nil {
				t.Fatal(err)
			}
			return f
		}
		t.Log(s.out.Text())
	}
	t.Fatal("a side ended without figures")
	return f
}

// A big model passes without filling the memory of either side.
func TestBig(t *testing.T) {
	if os.Getenv(bigVar) == "" {
		t.Skip("set " + bigVar + "=1 to fetch 1 GiB between two processes")
	}
	dir := t.TempDir()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := s.Add(t.Context(), writeModel(t, 16, 64<<20), store.AddOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	for _, listen := range []string{overTCP, overQUIC} {
		t.Run(strings.Split(listen, "/")[3], func(t *testing.T) {
			give := startSide(t, "give", "SHOAL_DIR="+dir, "SHOAL_LISTEN="+listen)
			g := give.figures(t)
			fetch := startSide(t, "fetch", "SHOAL_DIR="+t.TempDir(), "SHOAL_LISTEN="+listen, "SHOAL_FROM="+g.Addr, "SHOAL_MODEL="+m.ID().String())
			f := fetch.figures(t)
			give.in.Close()
			g = give.figures(t)
			t.Logf("%d MiB in %.1f s: %.0f MiB/s", f.Bytes>>20, f.Seconds, float64(f.Bytes)/f.Seconds/(1<<20))
			for _, s := range []struct {
				name string
				figures
			}{{"giving", g}, {"fetching", f}} {
				t.Logf("%s: idle %d MiB, peak %d MiB", s.name, s.Idle>>20, s.Peak>>20)
				if over := s.Peak - s.Idle; over > 200<<20 {
					t.Errorf("%s takes %d MiB more than when idle", s.name, over>>20)
				}
			}
		})
	}
}
