package exchange

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// webServer serves a file over HTTP and keeps a log of which bytes were asked for.
type webServer struct {
	*httptest.Server
	path string

	mu   sync.Mutex
	log  [][2]int64 // [from, to)
	each func(w http.ResponseWriter, r *http.Request, n int) bool
	n    int
}

// serve serves a model's file. each sees every request with its number, from 1,
// and reports whether it has answered it; it may be nil.
func serve(t testing.TB, path string, each func(w http.ResponseWriter, r *http.Request, n int) bool) *webServer {
	s := &webServer{path: path, each: each}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.n++
		n := s.n
		var from, to int64
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err == nil {
			s.log = append(s.log, [2]int64{from, to + 1})
		}
		s.mu.Unlock()
		if s.each == nil || !s.each(w, r, n) {
			http.ServeFile(w, r, path)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// asked counts the bytes asked for, and the requests.
func (s *webServer) asked() (bytes int64, requests int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.log {
		bytes += r[1] - r[0]
	}
	return bytes, len(s.log)
}

func (s *webServer) origin(t testing.TB) Origin {
	t.Helper()
	st, err := os.Stat(s.path)
	if err != nil {
		t.Fatal(err)
	}
	return Origin{Where: s.URL + "/model.gguf", Size: st.Size()}
}

// pull has n nodes, which know of the seed alone or of each other, fetch a model
// at once. It returns how long the last took.
func pull(t testing.TB, n int, path string, seed *node, meet bool, origins ...Origin) time.Duration {
	t.Helper()
	r := &roster{}
	if seed != nil {
		r.add(seed.h)
	}
	made := seed
	if made == nil {
		made = newHolder(t, newHost(t, overTCP), path, nil)
	}
	var all []*node
	for range n {
		b := newNode(t, newHost(t, overTCP), t.TempDir(), r)
		raw, id, err := made.m.Manifest().Encode()
		if err != nil {
			t.Fatal(err)
		}
		if b.m, err = b.s.AddManifest(raw, id, ""); err != nil {
			t.Fatal(err)
		}
		if meet {
			r.add(b.h)
		}
		if seed == nil { // no peer can tell of the leaves
			lists(t, made, b)
		}
		all = append(all, b)
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for _, b := range all {
		wg.Go(func() {
			if err := b.x.Fetch(t.Context(), b.m.ID(), every(t, b.m), nil, origins...); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	for _, b := range all {
		b.wantsEqual(t, path)
		b.x.Close()
	}
	return took
}

// lists copies what lists a model's leaves.
func lists(t testing.TB, from, to *node) {
	t.Helper()
	for {
		nodes, err := to.m.NeedNodes(every(t, to.m).list)
		if err != nil {
			t.Fatal(err)
		}
		if len(nodes) == 0 {
			return
		}
		for _, c := range nodes {
			raw, err := from.s.Get(t.Context(), c)
			if err == nil {
				err = to.m.Put(c, raw)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// Nothing is asked of an origin that a fast peer gives.
func TestOriginSpared(t *testing.T) {
	path := writeModel(t, 4, 6<<20)
	a := newHolder(t, newHost(t, overTCP), path, nil)
	o := serve(t, path, nil)
	pull(t, 1, path, a, false, o.origin(t))
	if n, _ := o.asked(); n > 0 {
		t.Errorf("it was asked for %d bytes", n)
	}
}

// A span comes from an origin alone, its bytes and no others; then another
// span, and only what differs.
func TestSpanFromOrigin(t *testing.T) {
	path := writeModel(t, 6, 5_500_000)
	made := newHolder(t, newHost(t, overTCP), path, nil)
	for _, kind := range []string{"http", "file"} {
		b := newNode(t, newHost(t, overTCP), t.TempDir(), &roster{})
		raw, id, _ := made.m.Manifest().Encode()
		var err error
		if b.m, err = b.s.AddManifest(raw, id, ""); err != nil {
			t.Fatal(err)
		}
		lists(t, made, b)
		o := serve(t, path, nil)
		at := o.origin(t)
		if kind == "file" {
			at.Where = path
		}
		var before int64
		var sent int
		for _, list := range [][]int{{2, 3}, {3, 4}} {
			var need int64
			leaves, err := b.m.Missing(list)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range leaves {
				need += int64(l.Size)
			}
			if err := b.x.Fetch(t.Context(), id, shards{t, b.m, list}, nil, at); err != nil {
				t.Fatal(err)
			}
			asked, requests := o.asked()
			if kind == "http" && asked-before != need {
				t.Errorf("asked for %d bytes where %d were lacking", asked-before, need)
			}
			if kind == "http" && requests-sent > (3*len(leaves)+3)/4 {
				t.Errorf("%d requests for %d leaves", requests-sent, len(leaves))
			}
			before, sent = asked, requests
			if left, _ := b.m.Missing(list); len(left) > 0 {
				t.Errorf("%d leaves are lacking", len(left))
			}
		}
		var all int64
		for _, i := range []int{2, 3, 4} {
			all += b.m.Manifest().Shards[i].Size
		}
		if got := b.x.Stats(); got.Origins != uint64(all) || got.Taken != 0 {
			t.Errorf("counted %+v of %d bytes from an origin", got, all)
		}
		b.x.Close()
	}
}

// Origins that fail are borne with, or given up with a reason, and never keep
// the model from being right.
func TestBadOrigins(t *testing.T) {
	if testing.Short() {
		t.Skip("takes over a second")
	}
	path := writeModel(t, 3, 5_500_000)
	other := writeModel(t, 3, 5_500_001+255) // of another size
	changed := writeModel(t, 3, 5_500_000)
	flip(t, changed, mustSize(t, changed), mustSize(t, changed)/2)
	made := newHolder(t, newHost(t, overTCP), path, nil)
	cut := func(w http.ResponseWriter, r *http.Request) { // the middle of the answer is its end
		rec := httptest.NewRecorder()
		http.ServeFile(rec, r, path)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	for _, c := range []struct {
		name    string
		each    func(w http.ResponseWriter, r *http.Request, n int) bool
		trouble string // that is told; "": it serves in the end
	}{
		{"404", func(w http.ResponseWriter, r *http.Request, n int) bool { http.NotFound(w, r); return true }, "404"},
		{"another size", func(w http.ResponseWriter, r *http.Request, n int) bool { http.ServeFile(w, r, other); return true }, "bytes now"},
		{"changed", func(w http.ResponseWriter, r *http.Request, n int) bool { http.ServeFile(w, r, changed); return true }, errBad.Error()},
		{"no ranges", func(w http.ResponseWriter, r *http.Request, n int) bool {
			r.Header.Del("Range")
			http.ServeFile(w, r, path)
			return true
		}, ""},
		{"another range", func(w http.ResponseWriter, r *http.Request, n int) bool {
			r.Header.Set("Range", "bytes=0-99")
			http.ServeFile(w, r, path)
			return true
		}, "another range"},
		{"parts without the size", func(w http.ResponseWriter, r *http.Request, n int) bool {
			sendPart(t, w, r, path, 1<<30, false)
			return true
		}, ""},
		{"less than asked for", func(w http.ResponseWriter, r *http.Request, n int) bool {
			sendPart(t, w, r, path, 300_000, true)
			return true
		}, ""},
		{"a little at a time, without the size", func(w http.ResponseWriter, r *http.Request, n int) bool {
			sendPart(t, w, r, path, 70_001, false)
			return true
		}, ""},
		{"no part told", func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.WriteHeader(http.StatusPartialContent)
			return true
		}, "which part"},
		{"a page", func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = w.Write([]byte("<!doctype html><title>Log in</title>"))
			return true
		}, "HTML page"},
		{"compressed", func(w http.ResponseWriter, r *http.Request, n int) bool {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write([]byte{0x1f, 0x8b})
			return true
		}, "compressed"},
		{"too many requests", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n > originAtOnce {
				return false
			}
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusTooManyRequests)
			return true
		}, ""},
		{"breaks off", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n%2 == 0 {
				return false
			}
			cut(w, r)
			return true
		}, ""},
		{"fails", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n%3 == 0 {
				return false
			}
			w.WriteHeader(http.StatusBadGateway)
			return true
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := &roster{}
			b := newNode(t, newHost(t, overTCP), t.TempDir(), r)
			raw, id, _ := made.m.Manifest().Encode()
			var err error
			if b.m, err = b.s.AddManifest(raw, id, ""); err != nil {
				t.Fatal(err)
			}
			lists(t, made, b)
			o := serve(t, path, c.each)
			if c.trouble != "" { // a peer comes to help
				time.AfterFunc(500*time.Millisecond, func() { r.add(made.h) })
			}
			var trouble []string
			begin := time.Now()
			if err := b.x.Fetch(t.Context(), id, every(t, b.m), func(p Progress) { trouble = p.Trouble }, o.origin(t)); err != nil {
				t.Fatal(err)
			}
			b.wantsEqual(t, path)
			if took := time.Since(begin); c.name == "too many requests" && took < time.Second {
				t.Errorf("it was to wait for a second, and took %s", took)
			}
			told := strings.Join(trouble, "\n")
			if c.trouble == "" && told != "" || !strings.Contains(told, c.trouble) || c.trouble != "" && !strings.Contains(told, o.URL) {
				t.Errorf("what is told: %q", told)
			}
		})
	}
}

// sendPart answers a request for a range as RFC 9110 allows: with most bytes of it,
// and not always with the size of the whole.
func sendPart(t testing.TB, w http.ResponseWriter, r *http.Request, path string, most int64, tellsSize bool) {
	var from, to int64
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &from, &to); err != nil {
		t.Error(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Error(err)
	}
	to = min(to+1, from+most)
	whole := "*"
	if tellsSize {
		whole = fmt.Sprint(len(raw))
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%s", from, to-1, whole))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(raw[from:to])
}

// Where all origins are given up and nobody else is found, a fetch ends with the
// reason, long before it would for silence.
func TestForsaken(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	t.Parallel()
	path := writeModel(t, 3, 1_500_000)
	made := newHolder(t, newHost(t, overTCP), path, nil)
	b := newNode(t, newHost(t, overTCP), t.TempDir(), &roster{})
	raw, id, _ := made.m.Manifest().Encode()
	var err error
	if b.m, err = b.s.AddManifest(raw, id, ""); err != nil {
		t.Fatal(err)
	}
	lists(t, made, b)
	o := serve(t, path, func(w http.ResponseWriter, r *http.Request, n int) bool { http.NotFound(w, r); return true })
	begin := time.Now()
	err = b.x.Fetch(t.Context(), id, every(t, b.m), nil, o.origin(t))
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "404") || !strings.Contains(err.Error(), o.URL) {
		t.Errorf("it ended with %v", err)
	}
	if took := time.Since(begin); took > giveUp/2 {
		t.Errorf("after %s", took)
	}
}

func mustSize(t testing.TB, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}
