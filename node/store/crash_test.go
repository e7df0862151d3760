//go:build unix

package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"

	"github.com/shoalnet/shoal/protocol"
)

// The test binary is also the process that is killed or runs out of disk:
// SHOAL_STORE_CHILD names its task.
func TestMain(m *testing.M) {
	what := os.Getenv("SHOAL_STORE_CHILD")
	if what == "" {
		os.Exit(m.Run())
	}
	child(children[what])
}

var children = map[string]func(args []string) error{"work": childWork, "limit": childLimit, "memory": childMemory}

func child(do func(args []string) error) {
	if err := do(os.Args[1:]); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func start(t testing.TB, what string, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	return cmd, launch(t, cmd, what)
}

func launch(t testing.TB, cmd *exec.Cmd, what string) *bufio.Scanner {
	t.Helper()
	cmd.Env = append(os.Environ(), "SHOAL_STORE_CHILD="+what)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return bufio.NewScanner(out)
}

// work is the task to kill: one of six operations on a model, from a source
// that counts. prepare creates its initial state.
type work struct {
	dir, file, source string // the store; the model as a file, and as blocks over HTTP
	id                cid.Cid
	said              func(format string, args ...any)
	rng               *rand.Rand
}

var operations = []string{"add", "pull", "rm", "gc", "span", "lay"}

func (w *work) prepare(s *Store, op string) error {
	m, err := s.Model(w.id)
	if op == "add" {
		if err == nil {
			return s.Remove(w.id)
		}
		return nil
	}
	if err != nil && (op == "rm" || op == "gc") {
		if m, err = s.Add(context.Background(), w.file, AddOptions{}); err != nil {
			return err
		}
	} else if err != nil {
		raw, err := w.fetch(w.id)
		if err != nil {
			return err
		}
		if m, err = s.AddManifest(raw, w.id, "killed"); err != nil {
			return err
		}
	}
	switch op {
	case "pull": // from nothing, if the last came to its end
		if m.Whole(m.Shards()) {
			return w.drop(m, m.Shards())
		}
	case "lay":
		return w.pull(m, m.Shards())
	case "gc": // something to be dropped, dirt in the journal, and what an import left
		if err := m.PinShards([]int{0, 1}, true); err != nil {
			return err
		}
		if err := w.pull(m, m.Shards()); err != nil {
			return err
		}
		for range 3 {
			i := 2 + w.rng.IntN(len(m.shards)-2)
			if err := m.DropShards([]int{i}); err != nil {
				return err
			}
		}
		tmp, _, err := s.tempDir()
		if err != nil {
			return err
		}
		s.tmp = map[string]bool{}
		return os.WriteFile(filepath.Join(tmp, "data.gguf"), make([]byte, 1<<20), 0o644)
	}
	return nil
}

func (w *work) do(s *Store, op string) error {
	m, err := s.Model(w.id)
	switch {
	case op == "add":
		_, err := s.Add(context.Background(), w.file, AddOptions{})
		return err
	case err != nil:
		return err
	case op == "pull":
		return w.pull(m, m.Shards())
	case op == "rm":
		return s.Remove(w.id)
	case op == "gc":
		_, err := s.GC(GCOptions{Unused: true})
		return err
	case op == "lay": // a file for the one span, then for the other
		span := protocol.Span{From: 0, To: 4}
		if len(m.laid) > 0 && m.laid[span] > 0 {
			span = protocol.Span{From: 3, To: 6}
		}
		if err := w.pull(m, m.Shards()); err != nil {
			return err
		}
		return m.LaidFile(context.Background(), span, layBlocks, func(path string) error {
			if _, ok := sealOf(path); !ok {
				return errors.New("an incomplete file was loaded")
			}
			return nil
		})
	}
	// The served span changes: what the new one needs is fetched, what only the
	// old one needed is dropped.
	from, to := protocol.Span{From: 0, To: 4}, protocol.Span{From: 3, To: 6}
	if m.Whole(m.man.ShardsFor(to)) {
		from, to = to, from
	}
	if err := w.pull(m, m.man.ShardsFor(to)); err != nil {
		return err
	}
	need := m.man.ShardsFor(to)
	return w.drop(m, slices.DeleteFunc(m.man.ShardsFor(from), func(i int) bool { return slices.Contains(need, i) }))
}

func (w *work) drop(m *Model, shards []int) error {
	for _, i := range shards {
		w.said("dropping %d", i)
		if err := m.DropShards([]int{i}); err != nil {
			return err
		}
	}
	return nil
}

// pull fetches shards from the source, and prints each leaf once it has been
// acknowledged.
func (w *work) pull(m *Model, shards []int) error {
	for {
		nodes, err := m.NeedNodes(shards)
		if err != nil {
			return err
		}
		if len(nodes) == 0 {
			break
		}
		for _, c := range nodes {
			raw, err := w.fetch(c)
			if err == nil {
				err = m.Put(c, raw)
			}
			if err != nil {
				return err
			}
		}
	}
	missing, err := m.Missing(shards)
	if err != nil {
		return err
	}
	for _, l := range missing {
		raw, err := w.fetch(l.CID)
		if err == nil {
			err = m.Put(l.CID, raw)
		}
		if err != nil {
			return err
		}
		w.said("put %s", l.CID)
	}
	return nil
}

func (w *work) fetch(c cid.Cid) ([]byte, error) {
	resp, err := http.Get(w.source + "/" + c.String())
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// childWork repeats an operation until it is killed.
func childWork(args []string) error {
	w := &work{dir: args[1], file: args[2], source: args[3], id: cid.MustParse(args[4])}
	w.said = func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	seed, err := strconv.ParseUint(args[5], 10, 64)
	if err != nil {
		return err
	}
	w.rng = rand.New(rand.NewPCG(seed, 1))
	s, err := Open(w.dir, Options{})
	if err != nil {
		return err
	}
	for {
		if err := w.prepare(s, args[0]); err != nil {
			return err
		}
		w.said("begin")
		if err := w.do(s, args[0]); err != nil {
			return err
		}
		w.said("end")
	}
}

// A process killed at any instant leaves a store that opens, is correct, and
// continues: what was acknowledged is not fetched again. SHOAL_KILLS is the
// number of kills, SHOAL_SEED the seed of their times.
func TestKilled(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes over a second")
	}
	kills, seed := 50, rand.Uint64()
	for name, to := range map[string]func(n uint64){"SHOAL_KILLS": func(n uint64) { kills = int(n) }, "SHOAL_SEED": func(n uint64) { seed = n }} {
		if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
			to(n)
		}
	}
	t.Logf("SHOAL_SEED=%d", seed)
	rng := rand.New(rand.NewPCG(seed, 2))
	file := writeFile(t, "killed.gguf", synth(rand.New(rand.NewPCG(6, 6)), 6, 1))
	full := open(t, t.TempDir())
	src := add(t, full, file, nil)
	var mu sync.Mutex
	asked := map[string]int{} // of the source, by block
	source := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, err := full.Get(r.Context(), cid.MustParse(r.URL.Path[1:]))
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		asked[r.URL.Path[1:]]++
		mu.Unlock()
		_, _ = w.Write(raw)
	}))
	defer source.Close()
	count := func(c string) int {
		mu.Lock()
		defer mu.Unlock()
		return asked[c]
	}
	inTime := map[string]int{}
	for _, op := range operations {
		t.Run(op, func(t *testing.T) {
			w := &work{dir: t.TempDir(), file: file, source: source.URL, id: src.id, said: func(string, ...any) {}, rng: rng}
			took := 50 * time.Millisecond // that the operation takes, about
			acked := map[string]bool{}
			for k := range max(1, kills/len(operations)) {
				cmd, out := start(t, "work", op, w.dir, file, source.URL, src.id.String(), strconv.FormatUint(rng.Uint64(), 10))
				during := false
				var begun time.Time
				for out.Scan() {
					what, arg, _ := strings.Cut(out.Text(), " ")
					switch what {
					case "error":
						t.Fatalf("%s, kill %d: %s", op, k, arg)
					case "begin":
						if during = true; begun.IsZero() {
							begun = time.Now()
							time.AfterFunc(time.Duration(rng.Int64N(int64(took)*5/4)), func() { _ = cmd.Process.Kill() })
						}
					case "end":
						during = false
						took = (took + time.Since(begun)) / 2
					case "put":
						acked[arg] = true
					case "dropping":
						i, _ := strconv.Atoi(arg)
						for _, d := range src.shards[i].leaves {
							delete(acked, d.cid().String())
						}
					}
				}
				_ = cmd.Wait()
				if during {
					inTime[op]++
				}
				if op == "gc" || op == "rm" || op == "add" { // which do not say what goes
					clear(acked)
				}
				afterKill(t, w, op, acked, count)
			}
		})
	}
	t.Logf("killed in the middle: %v", inTime)
	if len(inTime) == 0 { // a short one may be missed ten times where the machine is busy
		t.Error("nothing was ever killed in its middle: the test shows nothing")
	}
}

// afterKill opens the store that a killed process left, and completes its
// operation.
func afterKill(t *testing.T, w *work, op string, acked map[string]bool, count func(string) int) {
	t.Helper()
	s, err := Open(w.dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	if left, _ := os.ReadDir(s.modelsDir()); len(left) != len(s.Models()) {
		t.Errorf("%s: %d directories for %d models", op, len(left), len(s.Models()))
	}
	for _, m := range s.Models() {
		if n, err := m.Verify(t.Context(), nil, false); n != 0 || err != nil {
			t.Errorf("%s: %d damaged leaves: %v", op, n, err)
		}
		if op == "gc" && !m.Whole([]int{0, 1}) {
			t.Error("gc dropped what is pinned")
		}
		checkAllocated(t, m)
		if left := laidFiles(t, m); len(left) != len(m.laid) {
			t.Errorf("%s: files %v beside the model, of which %d are known", op, left, len(m.laid))
		}
	}
	for c := range acked {
		if _, err := s.Get(t.Context(), cid.MustParse(c)); err != nil {
			t.Errorf("%s: an acknowledged leaf is lost: %v", op, err)
		}
	}
	before := map[string]int{}
	for c := range acked {
		before[c] = count(c)
	}
	if _, err := s.Model(w.id); err != nil && op != "add" && op != "rm" {
		if err := w.prepare(s, op); err != nil {
			t.Fatal(err)
		}
	}
	w.said = func(format string, args ...any) { // what goes may be fetched again
		if strings.HasPrefix(format, "dropping") {
			m, _ := s.Model(w.id)
			for _, d := range m.shards[args[0].(int)].leaves {
				delete(before, d.cid().String())
				delete(acked, d.cid().String())
			}
		} else {
			acked[fmt.Sprint(args[0])] = true
		}
	}
	if err := w.do(s, op); err != nil && (op != "rm" || !errors.Is(err, ErrNotFound)) { // it had come to its end
		t.Errorf("%s cannot be finished: %v", op, err)
	}
	for c, n := range before {
		if now := count(c); now != n {
			t.Errorf("%s: a leaf that was acknowledged is fetched again", op)
		}
	}
	if m, err := s.Model(w.id); err == nil {
		checkAllocated(t, m)
		if op == "add" || op == "pull" {
			if sumOf(t, export(t, m)) != sumOf(t, w.file) {
				t.Errorf("%s: another file came out", op)
			}
		}
	} else if op != "rm" {
		t.Errorf("%s: %v", op, err)
	}
}

// childLimit imports with a limit on file sizes, which makes writes fail in the
// middle of the data as a full disk does.
func childLimit(args []string) error {
	signal.Ignore(syscall.SIGXFSZ)
	limit, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	s, err := Open(args[0], Options{})
	if err != nil {
		return err
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: limit, Max: limit}); err != nil {
		return err
	}
	_, err = s.Add(context.Background(), args[1], AddOptions{})
	left, _ := os.ReadDir(s.modelsDir())
	fmt.Printf("%v|%d|%v\n", errors.Is(err, ErrFull), len(left), err)
	return s.Close()
}

func TestFileLimit(t *testing.T) {
	for _, limit := range []int{100, 5_000, 1_500_000, 3_000_000} {
		cmd, out := start(t, "limit", t.TempDir(), tiny, strconv.Itoa(limit))
		if !out.Scan() || !strings.HasPrefix(out.Text(), "true|0|") {
			t.Errorf("limit of %d bytes: %q", limit, out.Text())
		}
		_ = cmd.Wait()
	}
}

// childMemory imports and checks a file, and prints the peak memory in KiB
// before and after.
func childMemory(args []string) error {
	peak := func() (n int) {
		raw, _ := os.ReadFile("/proc/self/status")
		_, after, _ := strings.Cut(string(raw), "VmHWM:")
		_, _ = fmt.Sscanf(after, "%d", &n)
		return n
	}
	s, err := Open(args[0], Options{})
	if err != nil {
		return err
	}
	idle := peak()
	m, err := s.Add(context.Background(), args[1], AddOptions{})
	if err != nil {
		return err
	}
	if _, err := m.Verify(context.Background(), nil, true); err != nil {
		return err
	}
	fmt.Println(idle, peak())
	return s.Close()
}

// Import and check need the memory of a few leaves, however long the file.
func TestMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	if _, err := os.Stat("/proc/self/status"); err != nil {
		t.Skip("needs /proc")
	}
	size, most := int64(256<<20), 48<<10
	if n, err := strconv.Atoi(os.Getenv("SHOAL_STORE_MIB")); err == nil {
		size = int64(n) << 20
	}
	raw := synth(rand.New(rand.NewPCG(8, 8)), 4, 0.1)
	path := writeFile(t, "long.gguf", raw)
	if err := os.Truncate(path, size); err != nil { // the last tensor's padding: zeros, and a hole
		t.Fatal(err)
	}
	cmd, out := start(t, "memory", t.TempDir(), path)
	var idle, peak int
	if !out.Scan() {
		t.Fatal("the child said nothing")
	}
	if _, err := fmt.Sscan(out.Text(), &idle, &peak); err != nil {
		t.Fatalf("%s: %v", out.Text(), err)
	}
	_ = cmd.Wait()
	t.Logf("idle %d MiB, at most %d MiB more for a file of %d MiB", idle>>10, (peak-idle)>>10, size>>20)
	if peak-idle > most {
		t.Errorf("%d KiB above the idle %d", peak-idle, idle)
	}
}
