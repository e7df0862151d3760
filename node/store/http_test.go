package store

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node/backoff"
)

func readURL(t testing.TB, where string) ([]byte, error) {
	r, err := openHTTP(t.Context(), where, newWay(true))
	if err != nil {
		return nil, err
	}
	r.(*httpReader).retry = backoff.Backoff{First: time.Millisecond, Most: time.Millisecond}
	defer r.Close()
	return io.ReadAll(r)
}

// origin is a server with configurable misbehaviour.
type origin struct {
	body      []byte
	chunk     int // break every answer off after so many bytes
	noRange   bool
	noTag     bool
	weak      bool
	change    int // after so many requests the file is another
	requests  int
	busyUntil int                             // 503 to so many first requests
	short     int                             // send no more of a range than so many bytes
	part      func(from, to, size int) string // Content-Range, if it is another
	head      map[string]string
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.requests++
	if o.requests <= o.busyUntil {
		http.Error(w, "busy", http.StatusServiceUnavailable)
		return
	}
	tag := `"one"`
	if o.weak {
		tag = `W/"one"`
	}
	body := o.body
	if o.change > 0 && o.requests > o.change {
		tag, body = `"two"`, slices.Repeat([]byte{7}, len(body))
	}
	if !o.noTag {
		w.Header().Set("ETag", tag)
	}
	from := 0
	if rng := r.Header.Get("Range"); rng != "" && !o.noRange && (r.Header.Get("If-Range") == "" || r.Header.Get("If-Range") == tag) {
		if _, err := fmt.Sscanf(rng, "bytes=%d-", &from); err != nil {
			http.Error(w, "range", http.StatusRequestedRangeNotSatisfiable)
			return
		}
	}
	if o.short > 0 && from > 0 {
		body = body[:min(len(body), from+o.short)]
	}
	for k, v := range o.head {
		w.Header().Set(k, v)
	}
	if o.head == nil {
		w.Header().Set("Content-Length", fmt.Sprint(len(body)-from))
	}
	if from > 0 {
		told := fmt.Sprintf("bytes %d-%d/%d", from, len(body)-1, len(o.body))
		if o.part != nil {
			told = o.part(from, len(body), len(o.body))
		}
		w.Header().Set("Content-Range", told)
		w.WriteHeader(http.StatusPartialContent)
	}
	end := len(body)
	if o.chunk > 0 {
		end = min(end, from+o.chunk)
		if o.noRange {
			end = min(len(body), o.chunk*o.requests)
		}
	}
	_, _ = w.Write(body[from:end])
	if end < len(body) {
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestHTTP(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	body := make([]byte, 300_000)
	for i := range body {
		body[i] = byte(i * 7 >> 3)
	}
	for name, c := range map[string]struct {
		origin
		fails string // in the error; "": all comes over
	}{
		"plain":                      {origin: origin{}},
		"breaks off":                 {origin: origin{chunk: 50_000}},
		"breaks off, no ranges":      {origin: origin{chunk: 100_000, noRange: true}},
		"breaks off, no tag":         {origin: origin{chunk: 100_000, noTag: true}},
		"no tag and no ranges":       {origin: origin{chunk: 100_000, noTag: true, noRange: true}, fails: "cannot resume"},
		"weak tag":                   {origin: origin{chunk: 100_000, weak: true}},
		"busy at first":              {origin: origin{busyUntil: 1}},
		"changes":                    {origin: origin{chunk: 100_000, change: 1}, fails: "changed during the transfer"},
		"changes, without ranges":    {origin: origin{chunk: 100_000, change: 1, noRange: true}, fails: "changed during the transfer"},
		"changes behind a weak tag":  {origin: origin{chunk: 100_000, change: 1, weak: true}, fails: "changed during the transfer"},
		"parts without the size":     {origin: origin{chunk: 100_000, part: func(from, to, _ int) string { return fmt.Sprintf("bytes %d-%d/*", from, to-1) }}},
		"less than asked for":        {origin: origin{chunk: 100_000, short: 7_001}},
		"less, without the size":     {origin: origin{chunk: 100_000, short: 33_333, part: func(from, to, _ int) string { return fmt.Sprintf("Bytes %d-%d/*", from, to-1) }}},
		"another range":              {origin: origin{chunk: 100_000, part: func(from, to, n int) string { return fmt.Sprintf("bytes %d-%d/%d", from+1, to-1, n) }}, fails: "another range"},
		"an earlier range":           {origin: origin{chunk: 100_000, part: func(from, to, n int) string { return fmt.Sprintf("bytes %d-%d/%d", 0, to-1, n) }}, fails: "another range"},
		"a range of another":         {origin: origin{chunk: 100_000, part: func(from, to, n int) string { return fmt.Sprintf("bytes %d-%d/%d", from, to-1, n+1) }}, fails: "bytes now"},
		"a range that is none":       {origin: origin{chunk: 100_000, part: func(_, _, _ int) string { return "items 1-2/3" }}, fails: "which part"},
		"a page":                     {origin: origin{head: map[string]string{"Content-Type": "text/html; charset=utf-8"}}, fails: "HTML page"},
		"no size":                    {origin: origin{head: map[string]string{"Content-Type": "application/octet-stream"}}, fails: "size"},
		"compressed":                 {origin: origin{head: map[string]string{"Content-Encoding": "gzip"}}, fails: "compressed"},
		"never sends anything after": {origin: origin{chunk: -1, noRange: true}, fails: "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			o := c.origin
			o.body = body
			if o.chunk < 0 { // one piece, then nothing
				o.body = body
				srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", fmt.Sprint(len(body)))
					w.Header().Set("ETag", `"x"`)
					_, _ = w.Write(body[:1000])
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				}))
				defer srv.Close()
				if _, err := readURL(t, srv.URL); err == nil || !errors.Is(err, ErrSource) {
					t.Errorf("got %v", err)
				}
				return
			}
			srv := httptest.NewServer(&o)
			defer srv.Close()
			got, err := readURL(t, srv.URL+"/x.gguf")
			if c.fails == "" && (err != nil || sha256.Sum256(got) != sha256.Sum256(body)) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			if c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails) || !errors.Is(err, ErrSource)) {
				t.Errorf("got %v, want %q", err, c.fails)
			}
		})
	}
}

// An import over HTTP resumes a broken transfer, and checks the hash that the
// origin sends when it redirects to its storage.
func TestAddHTTP(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	raw, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	storage := httptest.NewServer(&origin{body: raw, chunk: 1_500_000})
	defer storage.Close()
	sum := sha256.Sum256(raw)
	told := fmt.Sprintf(`"%x"`, sum)
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/owner/repo/resolve/main/dir/tiny.gguf" {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("X-Linked-ETag", told)
		http.Redirect(w, r, storage.URL+"/signed?key=secret", http.StatusFound)
	}))
	defer front.Close()
	t.Setenv("HF_ENDPOINT", front.URL+"/")
	dir := t.TempDir()
	s := open(t, dir)
	m := add(t, s, "hf:owner/repo/dir/tiny.gguf", nil)
	if sumOf(t, export(t, m)) != sum || m.Name() != "tiny" {
		t.Errorf("another file came over as %q", m.Name())
	}
	if err := s.Remove(m.id); err != nil {
		t.Fatal(err)
	}
	told = `"` + strings.Repeat("0", 64) + `"`
	for _, from := range []string{"hf:owner/repo/dir/tiny.gguf", "hf:owner/repo/other.gguf", "hf:owner/repo", "hf:", "http://", front.URL + "/nothing.gguf"} {
		if _, err := s.Add(t.Context(), from, AddOptions{}); !errors.Is(err, ErrSource) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", from, err)
		}
		if left, _ := os.ReadDir(s.modelsDir()); len(left) > 0 {
			t.Errorf("%s: left %v behind", from, left)
		}
	}
}

// The user's token is sent only to the host it is for.
func TestToken(t *testing.T) {
	t.Setenv("HF_TOKEN", "hf_topsecret")
	t.Setenv("HF_ENDPOINT", "http://hub.example:8080")
	for where, want := range map[string]bool{
		"https://huggingface.co/a":     true,
		"https://cdn.huggingface.co/a": true,
		"http://huggingface.co/a":      false,
		"https://evilhuggingface.co/a": false,
		"https://huggingface.co.x/a":   false,
		"http://hub.example:8080/a":    true,
		"http://hub.example/a":         false,
		"https://hub.example:8080/a":   false,
	} {
		u, err := url.Parse(where)
		if err != nil {
			t.Fatal(err)
		}
		if trusted(u) != want {
			t.Errorf("%s: %v", where, !want)
		}
	}
	var there, elsewhere string
	other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { elsewhere = r.Header.Get("Authorization") }))
	defer other.Close()
	hub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		there = r.Header.Get("Authorization")
		http.Redirect(w, r, strings.Replace(other.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	}))
	defer hub.Close()
	t.Setenv("HF_ENDPOINT", hub.URL)
	_, err := readURL(t, hub.URL+"/x")
	if there != "Bearer hf_topsecret" || elsewhere != "" {
		t.Errorf("the hub saw %q, another host %q", there, elsewhere)
	}
	if err != nil && strings.Contains(err.Error(), "topsecret") {
		t.Error(err)
	}
	denied := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }))
	defer denied.Close()
	if _, err := readURL(t, denied.URL); err == nil || !strings.Contains(err.Error(), "HF_TOKEN") || strings.Contains(err.Error(), "topsecret") {
		t.Errorf("denied: %v", err)
	}
}
