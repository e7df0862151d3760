package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// layBlocks lays out the blocks of a span behind a short header, in reverse.
func layBlocks(h *gguf.Header, span protocol.Span, room int64) (*gguf.Layout, error) {
	l := &gguf.Layout{Header: fmt.Appendf(nil, "%-4096s", span), Size: 4096}
	for _, t := range h.Tensors {
		if part, n := gguf.PartOf(t.Name, h.Blocks()); part == gguf.PartBlock && span.From <= n && n < span.To {
			size := int64(t.Bytes())
			l.Pieces = append(l.Pieces, gguf.Piece{From: h.DataOffset + int64(t.Offset), At: l.Size, Length: size})
			l.Size += size
		}
	}
	return l, nil
}

// checkLaid loads a span by LaidFile and compares the file with the model's.
func checkLaid(t testing.TB, m *Model, raw []byte, span protocol.Span) {
	t.Helper()
	orig, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	want, _ := layBlocks(orig, span, 0)
	loaded := false
	err = m.LaidFile(t.Context(), span, layBlocks, func(path string) error {
		loaded = true
		got, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if int64(len(got)) != want.Size+sealSize || !bytes.HasPrefix(got, want.Header) {
			return fmt.Errorf("%d bytes that begin with %.20q", len(got), got)
		}
		for _, p := range want.Pieces {
			if !bytes.Equal(got[p.At:p.At+p.Length], raw[p.From:p.From+p.Length]) {
				return fmt.Errorf("other bytes at %d", p.At)
			}
		}
		return nil
	})
	if err != nil || !loaded {
		t.Errorf("%s: %v", span, err)
	}
}

func laidFiles(t testing.TB, m *Model) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "span-") {
			names = append(names, e.Name())
		}
	}
	return names
}

func TestLaidFile(t *testing.T) {
	raw := synth(rand.New(rand.NewPCG(1, 5)), 6, 0.1)
	dir := t.TempDir()
	s := open(t, dir)
	m := add(t, s, writeFile(t, "laid.gguf", raw), nil)
	span := protocol.Span{From: 1, To: 4}
	before := m.Allocated()
	checkLaid(t, m, raw, span)
	path := filepath.Join(m.dir, laidName(span))
	first, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if m.Allocated() <= before {
		t.Error("a file that was made does not count")
	}
	same := func(what string, want bool) {
		t.Helper()
		checkLaid(t, m, raw, span)
		now, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if now.ModTime().Equal(first.ModTime()) != want {
			t.Errorf("%s: the file was made again: %v", what, want)
		}
		first = now
	}
	same("unchanged", true)
	id := m.id
	s.Close()
	s = open(t, dir)
	if m, err = s.Model(id); err != nil {
		t.Fatal(err)
	}
	if len(m.laid) != 1 || m.Allocated() <= before {
		t.Errorf("after a start: %v, %d bytes", m.laid, m.Allocated())
	}
	same("after a start", true)

	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0x55, 0xaa}, 5000); err != nil {
		t.Fatal(err)
	}
	f.Close()
	same("with a damaged byte", false)
	if err := os.Truncate(path, 5000); err != nil {
		t.Fatal(err)
	}
	same("cut short", false)

	checkLaid(t, m, raw, protocol.Span{From: 3, To: 6}) // the served span moves
	if got := laidFiles(t, m); len(got) != 1 || got[0] != "span-3-6.gguf" {
		t.Errorf("beside the model lie %v", got)
	}
	in := m.UseShards(m.man.ShardsFor(protocol.Span{From: 3, To: 6}))
	checkLaid(t, m, raw, span)
	if got := laidFiles(t, m); len(got) != 2 {
		t.Errorf("of two spans in use there are %v", got)
	}
	if _, err := s.GC(GCOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := laidFiles(t, m); len(got) != 1 || got[0] != "span-3-6.gguf" {
		t.Errorf("GC left %v", got)
	}
	in()
	if err := m.DropShards(m.man.ShardsFor(protocol.Span{From: 4, To: 5})[1:]); err != nil {
		t.Fatal(err)
	}
	if got := laidFiles(t, m); len(got) != 0 || len(m.laid) != 0 {
		t.Errorf("after its leaves were dropped: %v", got)
	}
	var missing *Missing
	err = m.LaidFile(t.Context(), protocol.Span{From: 3, To: 6}, layBlocks, func(string) error { t.Error("loaded"); return nil })
	if !errors.As(err, &missing) {
		t.Errorf("without its leaves: %v", err)
	}
	if sumOf(t, export(t, add(t, s, writeFile(t, "laid.gguf", raw), nil))) != sumOf(t, writeFile(t, "laid.gguf", raw)) {
		t.Error("the model was changed")
	}
}

// Every leaf is checked before a file is made of it.
func TestLaidOfDamaged(t *testing.T) {
	raw := synth(rand.New(rand.NewPCG(2, 5)), 4, 0.1)
	s := open(t, t.TempDir())
	m := add(t, s, writeFile(t, "laid.gguf", raw), nil)
	span := protocol.Span{From: 1, To: 3}
	at, _ := m.shards[m.man.ShardsFor(span)[1]].at(0)
	if _, err := m.data.WriteAt([]byte{1, 2, 3, 4}, at); err != nil {
		t.Fatal(err)
	}
	var missing *Missing
	err := m.LaidFile(t.Context(), span, layBlocks, func(string) error { t.Error("loaded"); return nil })
	if !errors.As(err, &missing) || missing.Leaves != 1 {
		t.Errorf("%v", err)
	}
	if got := laidFiles(t, m); len(got) != 0 {
		t.Errorf("left %v", got)
	}
}

// A header in the room before the model is all that a layout in place writes.
func TestLaidInPlace(t *testing.T) {
	raw := synth(rand.New(rand.NewPCG(3, 5)), 4, 0.1)
	s := open(t, t.TempDir())
	m := add(t, s, writeFile(t, "laid.gguf", raw), nil)
	err := m.LaidFile(t.Context(), m.man.All(), func(h *gguf.Header, _ protocol.Span, room int64) (*gguf.Layout, error) {
		if room != m.base[0] || h.DataOffset <= room {
			t.Errorf("room %d, data at %d", room, h.DataOffset)
		}
		return &gguf.Layout{Header: []byte("in place"), InPlace: true}, nil
	}, func(path string) error {
		got, err := os.ReadFile(path)
		if !bytes.HasPrefix(got, []byte("in place")) || !bytes.Equal(got[m.base[0]:], raw) {
			t.Errorf("other bytes: %v", err)
		}
		return nil
	})
	if err != nil || len(laidFiles(t, m)) != 0 {
		t.Errorf("%v, %v", err, laidFiles(t, m))
	}
	checkAllocated(t, m)
}

// A layout that would read beyond what its span holds is refused, and so is one that
// cannot be made; the tensors of a split model are found in all its parts.
func TestLaidChecked(t *testing.T) {
	raw := synth(rand.New(rand.NewPCG(4, 5)), 4, 0.1)
	s := open(t, t.TempDir())
	m := add(t, s, writeFile(t, "laid.gguf", raw), nil)
	never := func(string) error { t.Error("loaded"); return nil }
	for _, c := range []struct {
		span protocol.Span
		lay  Lay
		want error
	}{
		{protocol.Span{From: 0, To: 5}, layBlocks, ErrSpan},
		{protocol.Span{From: 0, To: 2}, func(*gguf.Header, protocol.Span, int64) (*gguf.Layout, error) { return nil, errDropped }, errDropped},
		{protocol.Span{From: 0, To: 2}, func(h *gguf.Header, _ protocol.Span, room int64) (*gguf.Layout, error) {
			return layBlocks(h, protocol.Span{From: 0, To: 4}, room)
		}, protocol.ErrManifest},
	} {
		if err := m.LaidFile(t.Context(), c.span, c.lay, never); !errors.Is(err, c.want) {
			t.Errorf("%v, want %v", err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := m.LaidFile(ctx, protocol.Span{From: 0, To: 2}, layBlocks, never); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if got := laidFiles(t, m); len(got) != 0 {
		t.Errorf("left %v", got)
	}
	in := add(t, s, filepath.Join(split(t, raw, 3, "parts"), "parts-00001-of-00003.gguf"), nil)
	err := in.LaidFile(t.Context(), protocol.Span{From: 1, To: 3}, func(h *gguf.Header, span protocol.Span, room int64) (*gguf.Layout, error) {
		if room != 0 || len(h.Tensors) == 0 {
			t.Errorf("room %d, %d tensors", room, len(h.Tensors))
		}
		return layBlocks(h, span, room)
	}, func(path string) error {
		got, err := os.ReadFile(path)
		want, _ := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
		l, _ := layBlocks(want, protocol.Span{From: 1, To: 3}, 0)
		if int64(len(got)) != l.Size+sealSize {
			t.Errorf("%d bytes, want %d: %v", len(got), l.Size+sealSize, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A file counts to the quota, and is the first to go when room is needed.
func TestLaidQuota(t *testing.T) {
	raw := synth(rand.New(rand.NewPCG(6, 5)), 4, 0.1)
	s := open(t, t.TempDir())
	m := add(t, s, writeFile(t, "laid.gguf", raw), nil)
	span := protocol.Span{From: 0, To: 3}
	alone := s.Unpinned()
	checkLaid(t, m, raw, span)
	with := s.Unpinned()
	if with <= alone {
		t.Fatalf("%d bytes count with the file and %d without", with, alone)
	}
	if err := s.SetQuota(with - 1); err != nil {
		t.Fatal(err)
	}
	if got := laidFiles(t, m); len(got) != 0 || !m.Whole(m.Shards()) {
		t.Errorf("the quota left %v, and all leaves: %v", got, m.Whole(m.Shards()))
	}
	defer m.Use()()
	err := m.LaidFile(t.Context(), span, layBlocks, func(string) error { t.Error("loaded"); return nil })
	if !errors.Is(err, ErrFull) || len(laidFiles(t, m)) != 0 {
		t.Errorf("beyond the quota: %v, %v", err, laidFiles(t, m))
	}
}

// A seal is read from files that anything may have happened to.
func FuzzSeal(f *testing.F) {
	f.Add(append(make([]byte, 100), seal{copied: 10}.bytes()...))
	f.Add([]byte("shoalsum"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		if s, ok := sealOf(path); ok && (s.copied < 0 || s.copied > int64(len(raw))) {
			t.Fatalf("%d of %d bytes are copied", s.copied, len(raw))
		}
		_, _ = isLaid(t.Context(), path, &gguf.Layout{Header: []byte("x"), Size: int64(len(raw)) - sealSize})
	})
}
