package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/remedy"
	"github.com/shoalnet/shoal/protocol"
)

func init() { children["full"] = childFull }

// A really full disk: a process in a namespace of its own mounts a small file
// system. Every write of every operation hits the end of the disk once: the
// operation starts with 0, 1, 2 ... pages left. It reports that the disk is
// full, nothing stored is lost, operations that need no space work, and with
// space the operation completes.
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	disk := t.TempDir()
	file := writeFile(t, "full.gguf", synth(rand.New(rand.NewPCG(21, 4)), 3, 0.01))
	cmd := exec.Command(os.Args[0], disk, file)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	probe := exec.Command("/bin/true")
	probe.SysProcAttr = cmd.SysProcAttr
	if err := probe.Run(); err != nil {
		t.Skip("this system gives no namespace in which a disk could be mounted: ", err)
	}
	out := launch(t, cmd, "full")
	for out.Scan() {
		switch what, text, _ := strings.Cut(out.Text(), " "); what {
		case "skip":
			t.Skip(text)
		case "error":
			t.Error(text)
		default:
			t.Log(out.Text())
		}
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// small is a file system that can be filled.
type small struct{ dir string }

// leave fills the disk except for a number of pages.
func (d small) leave(pages int) error {
	d.empty()
	var st unix.Statfs_t
	if err := unix.Statfs(d.dir, &st); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(d.dir, "filler"), make([]byte, (int64(st.Bavail)-int64(pages))*st.Bsize), 0o600)
}

func (d small) empty() { _ = os.Remove(filepath.Join(d.dir, "filler")) }

// A case of a full disk: prepare runs with space, then the operation runs out
// of it. The operation calls late when it has checked the free space.
type fullCase struct {
	name    string
	prepare func(s *Store) error
	do      func(s *Store, late func()) error
}

// lateContext calls late whenever somebody checks whether it has ended, as long
// work does before each step.
type lateContext struct {
	context.Context
	late func()
}

func (c lateContext) Err() error {
	c.late()
	return nil
}

func childFull(args []string) error {
	disk := small{args[0]}
	if err := unix.Mount("tmpfs", disk.dir, "tmpfs", 0, "size=4m"); err != nil {
		fmt.Println("skip no disk can be mounted here:", err)
		return nil
	}
	ctx := context.Background()
	home, err := os.MkdirTemp(filepath.Dir(disk.dir), "source-")
	if err != nil {
		return err
	}
	full, err := Open(home, Options{})
	if err != nil {
		return err
	}
	src, err := full.Add(ctx, args[1], AddOptions{})
	if err != nil {
		return err
	}
	pull := func(s *Store) error {
		m, err := s.AddManifest(src.raw, src.id, "pulled")
		for err == nil {
			var nodes []cid.Cid
			if nodes, err = m.NeedNodes(m.Shards()); err != nil || len(nodes) == 0 {
				break
			}
			for _, c := range nodes {
				raw, e := full.Get(ctx, c)
				err = errors.Join(err, e, m.Put(c, raw))
			}
		}
		if err != nil {
			return err
		}
		missing, err := m.Missing(m.Shards())
		for _, l := range missing {
			raw, e := full.Get(ctx, l.CID)
			if err = errors.Join(err, e, m.Put(l.CID, raw)); err != nil {
				return err
			}
		}
		return errors.Join(err, m.Sync())
	}
	model := func(s *Store) *Model {
		m, err := s.Model(src.id)
		if err != nil {
			panic(err)
		}
		return m
	}
	none := func(*Store) error { return nil }
	out := filepath.Join(disk.dir, "out.gguf")
	for _, c := range []fullCase{
		{"add", none, func(s *Store, late func()) error {
			_, err := s.Add(lateContext{ctx, late}, args[1], AddOptions{})
			return err
		}},
		{"manifest", none, func(s *Store, _ func()) error { _, err := s.AddManifest(src.raw, src.id, ""); return err }},
		{"pull", none, func(s *Store, _ func()) error { return pull(s) }},
		{"pin", pull, func(s *Store, _ func()) error {
			var names []string
			for i := range 300 { // more than a page of them
				names = append(names, fmt.Sprintf("http://origin.example/%d", i))
			}
			return errors.Join(model(s).Note("other", false, names...), model(s).Pin(true))
		}},
		{"stage", pull, func(s *Store, _ func()) error {
			return model(s).StageFile(ctx, protocol.Span{From: 0, To: 2}, nil, func(string) error { return nil })
		}},
		{"lay", pull, func(s *Store, late func()) error {
			return model(s).LaidFile(lateContext{ctx, late}, protocol.Span{From: 0, To: 2}, layBlocks, func(string) error { return nil })
		}},
		{"export", pull, func(s *Store, late func()) error {
			defer os.Remove(out)
			return model(s).Export(lateContext{ctx, late}, out, nil)
		}},
	} {
		tried := 0
		for pages := 0; ; pages++ {
			done, err := meetsEnd(disk, c, pages)
			if err != nil {
				fmt.Printf("error %s with %d pages left: %s\n", c.name, pages, strings.ReplaceAll(err.Error(), "\n", "; "))
				break
			}
			if tried++; done {
				break
			}
		}
		fmt.Printf("%s: needs %d pages\n", c.name, tried-1)
	}
	return errors.Join(fullAgain(disk, pull, model), fullDrop(disk, pull, model), tooLittle(disk, args[1], src.man))
}

// meetsEnd runs an operation with a number of pages left, and reports whether
// they sufficed.
func meetsEnd(disk small, c fullCase, pages int) (enough bool, err error) {
	dir := filepath.Join(disk.dir, "store")
	defer os.RemoveAll(dir)
	defer disk.empty()
	s, err := Open(dir, Options{})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := c.prepare(s); err != nil {
		return false, err
	}
	held := map[string]int64{}
	for _, m := range s.Models() {
		held[m.id.String()] = m.Held()
	}
	filled := false
	late := func() {
		if !filled {
			filled = true
			err = errors.Join(err, disk.leave(pages))
		}
	}
	if c.name != "add" && c.name != "export" {
		late()
	}
	first := c.do(s, late)
	if first != nil && !errors.Is(first, ErrFull) {
		return false, fmt.Errorf("it says %w", first)
	}
	look := func(when string) error {
		for _, m := range s.Models() {
			if n, err := m.Verify(context.Background(), nil, false); n > 0 || err != nil {
				return fmt.Errorf("%s: %d leaves are damaged: %w", when, n, err)
			}
			if n := m.Held(); n < held[m.id.String()] {
				return fmt.Errorf("%s: %d bytes are held, and %d were", when, n, held[m.id.String()])
			}
			held[m.id.String()] = m.Held()
		}
		for id := range held {
			if _, err := s.Find(id); err != nil {
				return fmt.Errorf("%s: %w", when, err)
			}
		}
		return nil
	}
	if err := look("on the full disk"); err != nil {
		return false, err
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "models", "*", "*"+files.Mark+"*")); len(left) > 0 {
		return false, fmt.Errorf("it left %v", left)
	}
	if err := s.Close(); err != nil {
		return false, fmt.Errorf("closing: %w", err)
	}
	if s, err = Open(dir, Options{}); err != nil {
		return false, fmt.Errorf("opening again: %w", err)
	}
	if err := look("opened again"); err != nil {
		return false, err
	}
	if _, err := s.GC(GCOptions{}); err != nil {
		return false, fmt.Errorf("gc: %w", err)
	}
	disk.empty()
	if err := c.do(s, func() {}); err != nil {
		return false, fmt.Errorf("with room again: %w", err)
	}
	return first == nil, look("with room again")
}

// fullAgain loads what was loaded before, on a disk without free space, also
// after a restart and after GC.
func fullAgain(disk small, pull func(*Store) error, model func(*Store) *Model) error {
	dir := filepath.Join(disk.dir, "store")
	defer os.RemoveAll(dir)
	defer disk.empty()
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	load := func() error {
		return model(s).StageFile(context.Background(), protocol.Span{From: 0, To: 2}, nil, func(string) error { return nil })
	}
	if err := errors.Join(pull(s), load(), disk.leave(0)); err != nil {
		return err
	}
	if err := load(); err != nil {
		return fmt.Errorf("loading again on a full disk: %w", err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	if s, err = Open(dir, Options{}); err != nil {
		return fmt.Errorf("opening a store on a full disk: %w", err)
	}
	defer s.Close()
	if _, err := s.GC(GCOptions{}); err != nil {
		return err
	}
	disk.empty()
	if err := disk.leave(0); err != nil {
		return err
	}
	if err := load(); err != nil {
		return fmt.Errorf("loading after a new start on a full disk: %w", err)
	}
	return nil
}

// fullDrop drops shards on a disk that has no space to record it.
func fullDrop(disk small, pull func(*Store) error, model func(*Store) *Model) error {
	dir := filepath.Join(disk.dir, "store")
	defer os.RemoveAll(dir)
	defer disk.empty()
	s, err := Open(dir, Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := pull(s); err != nil {
		return err
	}
	m := model(s)
	cycle := []uint32{opDamaged, opDropped, opHeld}
	if (4096-m.journalSize%4096)/recordSize%2 == 0 {
		cycle = cycle[1:]
	}
	for m.journalSize%4096 != 0 { // until the next record needs another page
		for _, op := range cycle {
			m.mu.Lock()
			err := m.note(op, place{1, 0})
			m.mu.Unlock()
			if err != nil {
				return err
			}
		}
		cycle = []uint32{opDropped, opHeld}
	}
	if err := disk.leave(0); err != nil {
		return err
	}
	if err := m.DropShards([]int{1}); err != nil {
		return fmt.Errorf("dropping a shard on a full disk: %w", err)
	}
	if m.HeldOf([]int{1}) != 0 {
		return errors.New("a shard that was dropped is held")
	}
	if free := files.FreeSpace(disk.dir); free < m.man.Shards[1].Size/2 {
		return fmt.Errorf("dropping %d bytes left %d free", m.man.Shards[1].Size, free)
	}
	if err := disk.leave(0); err != nil {
		return err
	}
	if err := s.Remove(m.id); err != nil {
		return fmt.Errorf("removing a model on a full disk: %w", err)
	}
	return nil
}

// tooLittle requests more than fits: it is refused before any transfer, with
// the number of bytes needed.
func tooLittle(disk small, file string, man *protocol.Manifest) error {
	defer disk.empty()
	s, err := Open(filepath.Join(disk.dir, "store"), Options{})
	if err != nil {
		return err
	}
	defer s.Close()
	if err := disk.leave(5); err != nil {
		return err
	}
	_, err = s.Add(context.Background(), file, AddOptions{Progress: func(int64, int64) { err = errors.New("it began") }})
	want := fmt.Sprintf("%s are to come and 20 KiB are free", SizeText(man.Size()))
	if !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), want) || remedy.Of(err) == nil {
		return fmt.Errorf("a file that does not fit: %w", err)
	}
	raw, id, err := man.Encode()
	if err != nil {
		return err
	}
	m, err := s.AddManifest(raw, id, "")
	if err != nil {
		return err
	}
	if _, err := s.Claim(m, m.Shards()); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "more are needed") {
		return fmt.Errorf("a fetch that does not fit: %w", err)
	}
	if m.shards[0].users != 0 || m.shards[0].claims != 0 {
		return errors.New("a claim that was refused stays")
	}
	return nil
}
