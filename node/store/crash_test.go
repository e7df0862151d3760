//go:build unix

package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
)

// The test binary is also the process that is killed, or that runs out of
// disk: SHOAL_STORE_CHILD names what it does.
func TestMain(m *testing.M) {
	switch os.Getenv("SHOAL_STORE_CHILD") {
	case "":
		os.Exit(m.Run())
	case "add":
		child(childAdd)
	case "put":
		child(childPut)
	case "limit":
		child(childLimit)
	case "memory":
		child(childMemory)
	}
}

func child(run func(args []string) error) {
	if err := run(os.Args[1:]); err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func start(t testing.TB, what string, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "SHOAL_STORE_CHILD="+what)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// childAdd imports and removes a model until it is killed.
func childAdd(args []string) error {
	s, err := Open(args[0], Options{})
	if err != nil {
		return err
	}
	for {
		m, err := s.Add(context.Background(), args[1], AddOptions{})
		if err != nil {
			return err
		}
		fmt.Println("added")
		if err := s.Remove(m.ID()); err != nil {
			return err
		}
		fmt.Println("removed")
	}
}

// childPut fills a model from another store's until it is killed, and names
// each leaf once it was acknowledged. Now and then it drops a shard.
func childPut(args []string) error {
	to, err := Open(args[0], Options{})
	if err != nil {
		return err
	}
	from, err := Open(args[1], Options{})
	if err != nil {
		return err
	}
	id, err := cid.Decode(args[2])
	if err != nil {
		return err
	}
	raw, err := from.Get(context.Background(), id)
	if err != nil {
		return err
	}
	m, err := to.AddManifest(raw, id, "pulled")
	if err != nil {
		return err
	}
	fmt.Println("begun")
	for round := 0; ; round++ {
		for {
			nodes, err := m.NeedNodes(m.Shards())
			if err != nil {
				return err
			}
			if len(nodes) == 0 {
				break
			}
			for _, c := range nodes {
				raw, err := from.Get(context.Background(), c)
				if err != nil {
					return err
				}
				if err := m.Put(c, raw); err != nil {
					return err
				}
			}
		}
		missing, err := m.Missing(m.Shards())
		if err != nil {
			return err
		}
		for _, l := range missing {
			raw, err := from.Get(context.Background(), l.CID)
			if err != nil {
				return err
			}
			if err := m.Put(l.CID, raw); err != nil {
				return err
			}
			fmt.Println("put", l.CID)
		}
		drop := 1 + round%(len(m.shards)-1)
		fmt.Println("dropping", drop)
		if err := m.DropShards([]int{drop}); err != nil {
			return err
		}
		fmt.Println("dropped", drop)
	}
}

// killSoon ends a child at a random instant and gives all that it said.
func killSoon(cmd *exec.Cmd, out *bufio.Scanner, within time.Duration) []string {
	var said []string
	if out.Scan() { // it has opened its store and begun
		said = append(said, out.Text())
	}
	go func() {
		time.Sleep(rand.N(within))
		_ = cmd.Process.Kill()
	}()
	for out.Scan() {
		said = append(said, out.Text())
	}
	_ = cmd.Wait()
	return said
}

func TestKilledDuringAdd(t *testing.T) {
	path := writeFile(t, "synth.gguf", synth(rand.New(rand.NewPCG(5, 5)), 6, 1))
	dir := t.TempDir()
	for range 10 {
		cmd, out := start(t, "add", dir, path)
		for _, line := range killSoon(cmd, out, 100*time.Millisecond) {
			if strings.HasPrefix(line, "error") {
				t.Fatal(line)
			}
		}
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range s.Models() { // whole, or not there
			if n, err := m.Verify(t.Context(), nil, true); n != 0 || err != nil {
				t.Errorf("a killed import left %d damaged leaves: %v", n, err)
			}
		}
		left, _ := os.ReadDir(s.modelsDir())
		if len(left) != len(s.Models()) {
			t.Errorf("%d directories for %d models", len(left), len(s.Models()))
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestKilledDuringPull(t *testing.T) {
	path := writeFile(t, "synth.gguf", synth(rand.New(rand.NewPCG(6, 6)), 6, 1))
	from := t.TempDir()
	s, err := Open(from, Options{})
	if err != nil {
		t.Fatal(err)
	}
	src := add(t, s, path, nil)
	if err := s.Close(); err != nil { // the child opens it
		t.Fatal(err)
	}
	dir := t.TempDir()
	acked := map[string]bool{}
	for range 10 {
		cmd, out := start(t, "put", dir, from, src.id.String())
		loose := -1 // the shard that was being dropped
		for _, line := range killSoon(cmd, out, 120*time.Millisecond) {
			what, arg, _ := strings.Cut(line, " ")
			switch what {
			case "error":
				t.Fatal(line)
			case "put":
				acked[arg] = true
			case "dropping":
				loose, _ = strconv.Atoi(arg)
			case "dropped":
				for _, d := range src.shards[loose].leaves {
					delete(acked, d.cid().String())
				}
				loose = -1
			}
		}
		to, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		m, err := to.Find("pulled")
		if err != nil {
			t.Fatal(err)
		}
		if n, err := m.Verify(t.Context(), nil, false); n != 0 || err != nil {
			t.Errorf("%d leaves are damaged: %v", n, err)
		}
		if loose >= 0 {
			for _, d := range src.shards[loose].leaves {
				delete(acked, d.cid().String())
			}
		}
		for c := range acked {
			if _, err := to.Get(t.Context(), cid.MustParse(c)); err != nil {
				t.Errorf("an acknowledged leaf is lost: %v", err)
			}
		}
		if err := to.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(acked) == 0 {
		t.Error("no leaf was ever acknowledged: the test killed too early to show anything")
	}
	to, again := open(t, dir), open(t, from)
	m, err := to.Find("pulled")
	if err != nil {
		t.Fatal(err)
	}
	pull(t, again, m, every(m))
	if sumOf(t, export(t, m)) != sumOf(t, path) {
		t.Error("another file came out after ten kills")
	}
}

// childLimit imports under a limit on the size of files, which fails writes
// as a full disk does, in the middle of the data.
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

// A full disk, for real: add, pull and export say so, leave nothing behind,
// and what was there stays right.
func TestFullDisk(t *testing.T) {
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", disk).CombinedOutput(); err != nil {
		t.Skipf("needs the right to mount a small disk: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", disk).CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
	})
	s, err := Open(filepath.Join(disk, "store"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Add(t.Context(), tiny, AddOptions{}); !errors.Is(err, ErrFull) {
		t.Errorf("add: %v", err)
	}
	if left, _ := os.ReadDir(s.modelsDir()); len(left) > 0 {
		t.Errorf("left %v behind", left)
	}
	full := open(t, t.TempDir())
	src := add(t, full, tiny, nil)
	m, err := s.AddManifest(src.raw, src.id, "")
	if err != nil {
		t.Fatal(err)
	}
	pullNodes(t, full, m, every(m))
	leaves, err := m.Missing(every(m))
	if err != nil {
		t.Fatal(err)
	}
	put := func() (n int, err error) {
		for _, l := range leaves {
			raw, e := full.Get(t.Context(), l.CID)
			if e != nil {
				t.Fatal(e)
			}
			if e := m.Put(l.CID, raw); e != nil {
				err = e
			} else {
				n++
			}
		}
		return n, err
	}
	n, err := put()
	if !errors.Is(err, ErrFull) || n == 0 || n == len(leaves) {
		t.Errorf("put %d of %d leaves: %v", n, len(leaves), err)
	}
	if bad, err := m.Verify(t.Context(), nil, false); bad != 0 || err != nil {
		t.Errorf("%d leaves are damaged: %v", bad, err)
	}
	if got, _ := m.Missing(every(m)); len(got) != len(leaves)-n {
		t.Errorf("%d leaves missing of %d, after %d were taken", len(got), len(leaves), n)
	}
	if err := src.Export(t.Context(), filepath.Join(disk, "out.gguf"), nil); !errors.Is(err, ErrFull) {
		t.Errorf("export: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(disk, "*")); len(left) != 1 {
		t.Errorf("export left %v", left)
	}
	// With more room it goes on.
	if out, err := exec.Command("mount", "-o", "remount,size=16m", disk).CombinedOutput(); err != nil {
		t.Skipf("%v: %s", err, out)
	}
	if n, err := put(); n != len(leaves) || err != nil {
		t.Errorf("put %d of %d leaves with room: %v", n, len(leaves), err)
	}
	if err := m.Export(t.Context(), filepath.Join(disk, "out.gguf"), nil); err != nil {
		t.Error(err)
	}
}

// childMemory imports a file and checks it, and says how much memory that
// took at most, in KiB: before and after.
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

// Import and check run in the memory of a few leaves, however long the file.
func TestMemory(t *testing.T) {
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
