package library

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/store"
)

// What was imported once is here, whether its file or address still is or not; that it
// has changed, only an explicit import finds, and it reads nothing that has not.
func TestSources(t *testing.T) {
	v := newVariants(t, 2)
	l := libraryOf(t, v, &crowd{manifests: map[string][]byte{}})
	var gets, read atomic.Int64
	progress := func(p api.Progress) { read.Store(p.Done) }
	file := filepath.Join(t.TempDir(), "f.gguf")
	copyFile := func(from string) {
		raw, err := os.ReadFile(from)
		if err := errors.Join(err, os.WriteFile(file, raw, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	answer := http.StatusOK
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		gets.Add(1)
		if answer != http.StatusOK {
			w.Header().Set("Retry-After", "3600")
			w.WriteHeader(answer)
			return
		}
		http.ServeFile(w, r, file)
	}))
	defer srv.Close()
	copyFile(v.files[0])
	url := srv.URL + "/f.gguf"
	for _, from := range []string{url, file} {
		first, err := l.Add(t.Context(), api.AddRequest{Source: from}, progress)
		if err != nil || read.Load() == 0 {
			t.Fatalf("%v, %d bytes read", err, read.Load())
		}
		gets.Store(0)
		again := func(what string) {
			t.Helper()
			m, err := l.Find(t.Context(), from, Want{May: Import})
			if err != nil || m.ID().String() != first.ID || gets.Load() != 0 {
				t.Errorf("%s, %s: %v, %v, %d requests", from, what, m, err, gets.Load())
			}
		}
		again("as it was")
		read.Store(0)
		same, err := l.Add(t.Context(), api.AddRequest{Source: from, Name: "other"}, progress)
		if err != nil || same.ID != first.ID || read.Load() != 0 || !slices.Contains(same.Names, "other") {
			t.Errorf("%s, added again: %+v, %v, %d bytes read", from, same, err, read.Load())
		}
		gets.Store(0)
		copyFile(v.files[1])
		if err := os.Chtimes(file, time.Time{}, time.Now().Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
		again("changed")
		changed, err := l.Add(t.Context(), api.AddRequest{Source: from}, nil)
		if err != nil || changed.ID == first.ID {
			t.Errorf("%s, changed and added again: %+v, %v", from, changed, err)
		}
		first = changed
		gets.Store(0)
		os.Remove(file)
		answer = http.StatusTooManyRequests
		again("gone")
		if l2, err := openSources(l.cfg.Home); err != nil || len(l2.of) == 0 {
			t.Errorf("after a restart: %+v, %v", l2, err)
		}
		_, err = l.Add(t.Context(), api.AddRequest{Source: from}, nil)
		if !errors.Is(err, store.ErrSource) || from == url && store.Delay(err) != time.Hour {
			t.Errorf("%s, gone and added: %v", from, err)
		}
		answer = http.StatusOK
		copyFile(v.files[0])
		for _, m := range l.store.Models() {
			if err := l.Remove(t.Context(), m.ID().String()); err != nil {
				t.Fatal(err)
			}
		}
		if _, known := l.sources.get(store.Source(from)); known {
			t.Errorf("%s is remembered though its model was removed", from)
		}
	}
}

func FuzzSources(f *testing.F) {
	f.Add([]byte(`{"/a.gguf":{"model":"x","mark":"1"}}`))
	f.Add([]byte("null"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "sources.json"), raw, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openSources(dir)
		if err != nil {
			return
		}
		if err := s.set("b", sourced{Model: "c"}); err != nil {
			t.Fatal(err)
		}
		if again, err := openSources(dir); err != nil || again.of["b"].Model != "c" {
			t.Errorf("%v, %v", again, err)
		}
	})
}
