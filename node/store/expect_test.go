package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
)

// What the origin reports about a file, and what is known from elsewhere, is
// compared with the bytes received; what can be refused beforehand costs no
// transfer.
func TestExpect(t *testing.T) {
	raw, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	wrong := make([]byte, 32)
	damaged := append([]byte{}, raw...)
	damaged[len(damaged)-1] ^= 1
	for name, c := range map[string]struct {
		size  string // as the origin reports it
		told  []byte // hash as the origin reports it; nil: none
		body  []byte
		want  Expect
		fails string
		early bool // before the weights are read
	}{
		"all agree":                {fmt.Sprint(len(raw)), sum[:], raw, Expect{Size: int64(len(raw)), Sha256: [][]byte{sum[:]}}, "", false},
		"the origin tells nothing": {"", nil, raw, Expect{Sha256: [][]byte{sum[:]}}, "", false},
		"damaged on the way":       {fmt.Sprint(len(raw)), sum[:], damaged, Expect{}, "damaged on the way", false},
		"another length":           {"1000", nil, raw, Expect{}, "has 1000 bytes but its storage sends", true},
		"another hash is told":     {"", sum[:], raw, Expect{Sha256: [][]byte{wrong}}, "it is another file", true},
		"another hash comes":       {"", nil, raw, Expect{Sha256: [][]byte{wrong}}, "it is another file", false},
		"another size":             {"", nil, raw, Expect{Size: 5}, "5 were expected", true},
		"more parts":               {"", nil, raw, Expect{Sha256: [][]byte{sum[:], sum[:]}}, "2 were expected", true},
	} {
		read := false
		storage := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(len(c.body)))
			_, _ = w.Write(c.body)
		}))
		hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c.size != "" {
				w.Header().Set("X-Linked-Size", c.size)
			}
			if c.told != nil {
				w.Header().Set("X-Linked-ETag", fmt.Sprintf("\"%x\"", c.told))
			}
			http.Redirect(w, r, storage.URL, http.StatusFound)
		}))
		s := open(t, t.TempDir())
		_, err := s.Add(t.Context(), hub.URL+"/x.gguf", AddOptions{Expect: c.want, Progress: func(int64, int64) { read = true }})
		hub.Close()
		storage.Close() // waits for its handlers
		if c.fails == "" && err != nil || c.fails != "" && (!errors.Is(err, ErrSource) || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s: %v, want %q", name, err, c.fails)
		}
		if c.early == read {
			t.Errorf("%s: read before it was refused: %v", name, read)
		}
		if left := s.Models(); (len(left) > 0) != (c.fails == "") {
			t.Errorf("%s: %d models", name, len(left))
		}
		if left, _ := os.ReadDir(s.modelsDir()); len(left) != len(s.Models()) {
			t.Errorf("%s: left %v behind", name, left)
		}
	}
}
