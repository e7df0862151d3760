package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/contrib/tinymodel"
	"github.com/shoalnet/shoal/node/api"
)

// try runs a command, and gives its exit code and what it printed.
func (p *patient) try(args ...string) (code int, out, errOut string) {
	p.t.Helper()
	cmd := p.command(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

// TestTwoDaemons: the second on one home is refused and names the first; what a
// killed one leaves bars nobody.
func TestTwoDaemons(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	stop := p.node()
	first := p.pid()
	code, _, said := p.try("node", "--home", p.home)
	if want := fmt.Sprintf("process %d", first); code != 1 || !strings.Contains(said, want) || !strings.Contains(said, "--home") {
		t.Errorf("exit code %d, no %q: %s", code, want, said)
	}
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	stop()
	if raw, err := os.ReadFile(filepath.Join(p.home, "store/lock")); err != nil || strings.TrimSpace(string(raw)) != fmt.Sprint(first) {
		t.Errorf("the lock file says %q, %v", raw, err)
	}
	if err := os.Remove(filepath.Join(p.home, "api.json")); err != nil {
		t.Fatal(err)
	}
	p.node()
	if p.pid() == first {
		t.Error("it is the first")
	}
}

// TestUpkeep: the commands that look after models, beside a node that serves
// some of it.
func TestUpkeep(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	file := filepath.Join(t.TempDir(), "tales.gguf")
	p.run("model", "add", "--home", p.home, "tinytales")
	p.run("model", "export", "--home", p.home, "tinytales", file)
	p.run("model", "rm", "--home", p.home, "tinytales")
	p.run("model", "add", "--home", p.home, file)
	p.add(`model = ["tales"]`, `span = "2-4"`)
	p.node()
	eventually(t, 30e9, "it serves", func() bool {
		st, err := running(t.Context(), p.home).Status(t.Context())
		return err == nil && len(st.Serving) > 0 && st.Serving[0].Ready || err == nil && len(st.Serving) > 0 && st.Serving[0].EnginePID > 0 && st.Serving[0].State != "loading"
	})
	see := func() (m api.Model) {
		t.Helper()
		_, out, said := p.try("model", "show", "--json", "--home", p.home, "tales")
		if err := json.Unmarshal([]byte(out), &m); err != nil {
			t.Fatal(err, out, said)
		}
		return m
	}
	if code, _, said := p.try("model", "rm", "--home", p.home, "--span", "3-5", "tales"); code != 4 || !strings.Contains(said, "in use: block 3") {
		t.Errorf("a block that is served: exit code %d, %s", code, said)
	}
	p.run("model", "rm", "--home", p.home, "--span", "5-6", "tales")
	p.run("model", "pin", "--home", p.home, "--span", "6-7", "tales")
	if code, out, said := p.try("model", "gc", "--home", p.home, "--unused"); code != 0 || !strings.Contains(out, "of tales: embedding, blocks 0-2, block 4, block 7, output") {
		t.Errorf("exit code %d: %s%s", code, out, said)
	}
	if m := see(); fmt.Sprint(m.Held) != "[header 2-4 6-7]" || fmt.Sprint(m.Pins) != "[header block 6]" {
		t.Errorf("%+v", m)
	}
	// A byte flips in what is served.
	data, _ := filepath.Glob(filepath.Join(p.home, "store/models/*/data.gguf"))
	f, err := os.OpenFile(data[0], os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	held := make([]byte, len(raw)) // files begin at 1 MiB
	if _, err := f.ReadAt(held, 1<<20); err != nil {
		t.Fatal(err)
	}
	at := len(raw) - 1
	for ; held[at] == 0 || held[at] != raw[at]; at-- {
	}
	if _, err := f.WriteAt([]byte{held[at] ^ 1}, int64(at)+1<<20); err != nil {
		t.Fatal(err)
	}
	if code, out, said := p.try("model", "verify", "--home", p.home); code != 1 || !strings.Contains(out, "damaged in block 6: 1 leaf") || !strings.Contains(out, "--repair tales") {
		t.Errorf("exit code %d: %s%s", code, out, said)
	}
	if m := see(); len(m.Damaged) != 1 || m.Damaged[0].Shard != "block 6" {
		t.Errorf("%+v", m)
	}
	if code, out, said := p.try("model", "verify", "--home", p.home, "--repair", "tales"); code != 0 || !strings.Contains(out, "all of it was fetched again") {
		t.Errorf("exit code %d: %s%s", code, out, said)
	}
	out := filepath.Join(t.TempDir(), "out.gguf")
	if code, _, said := p.try("model", "export", "--home", p.home, "tales", out); code != 5 || !strings.Contains(said, "of embedding, blocks 0-2, blocks 4-6, block 7, output; they may be fetched first; `shoal model export --fetch` does so") {
		t.Errorf("exit code %d: %s", code, said)
	}
	p.run("model", "export", "--home", p.home, "--fetch", "tales", out)
	if sum(t, out) != sum(t, file) {
		t.Error("another file came out")
	}
	if code, out, _ := p.try("status", "--home", p.home); code != 0 || !strings.Contains(out, "not pinned") {
		t.Errorf("exit code %d: %s", code, out)
	}
}

// TestSpanChange: a node that is to serve another span fetches the difference
// from the origin, not a byte more, and what it serves no more goes when it is
// told so.
func TestSpanChange(t *testing.T) {
	t.Parallel()
	raw := tinymodel.GGUF()
	var asked atomic.Int64
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeContent(w, r, "tales.gguf", time.Unix(1, 0), counting{bytes.NewReader(raw), &asked})
	}))
	defer origin.Close()
	p := newPatient(t)
	p.run("model", "add", "--home", p.home, "--span", "2-4", origin.URL+"/tales.gguf")
	serve := func(span string) (stop func()) {
		t.Helper()
		stop = p.node("--model", "tales", "--span", span)
		eventually(t, 30e9, "it serves", func() bool {
			st, err := running(t.Context(), p.home).Status(t.Context())
			return err == nil && len(st.Serving) > 0 && st.Serving[0].EnginePID > 0
		})
		return stop
	}
	asked.Store(0)
	stop := serve("2-4")
	if n := asked.Load(); n != 0 {
		t.Errorf("%d bytes were fetched of what was there", n)
	}
	stop()
	stop = serve("3-6")
	cl := running(t.Context(), p.home)
	m, err := cl.Show(t.Context(), "tales")
	if err != nil || fmt.Sprint(m.Held) != "[header 2-6]" {
		t.Fatalf("%+v, %v", m, err)
	}
	f, err := cl.GC(t.Context(), api.GCRequest{Unused: true})
	if err != nil || len(f.Dropped) != 1 || fmt.Sprint(f.Dropped[0].Shards) != "[block 2]" {
		t.Fatalf("%+v, %v", f, err)
	}
	if n := asked.Load(); n != 2*f.Dropped[0].Bytes { // blocks are of one size
		t.Errorf("two blocks of %d bytes took %d from the origin", f.Dropped[0].Bytes, n)
	}
	stop()
}

// counting counts the bytes that are read.
type counting struct {
	*bytes.Reader
	n *atomic.Int64
}

func (c counting) Read(b []byte) (int, error) {
	n, err := c.Reader.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// WriteTo hides the reader's own, which would go past the count.
func (c counting) WriteTo(w io.Writer) (int64, error) {
	return io.Copy(w, struct{ io.Reader }{c})
}
