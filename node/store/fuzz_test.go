package store

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"testing"
	"testing/synctest"

	"github.com/shoalnet/shoal/node/backoff"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// script is a server's behaviour: bytes that make its choices.
type script []byte

func (s *script) next() int {
	if len(*s) == 0 {
		return 0
	}
	b := (*s)[0]
	*s = (*s)[1:]
	return int(b)
}

// pick chooses an element of a list.
func pick[T any](s *script, list ...T) T { return list[s.next()%len(list)] }

// shifty is a server that has two versions of a file, identifies them
// correctly, and otherwise answers arbitrarily.
type shifty struct {
	*script
	versions [2][]byte
	tagged   bool // else versions have dates alone
	wild     bool // it has sent what is no part of the file where it says so
	asked    int
}

func (s *shifty) RoundTrip(req *http.Request) (*http.Response, error) {
	if s.asked++; s.asked > 50 {
		return nil, errors.New("that is enough")
	}
	resp := &http.Response{Header: http.Header{}, Request: req, ProtoMajor: 1, ProtoMinor: 1}
	v := s.next() % 2
	file := s.versions[v]
	if s.tagged {
		resp.Header.Set("ETag", pick(s.script, `"`, `W/"`)+strconv.Itoa(v)+`"`)
	} else {
		resp.Header.Set("Last-Modified", fmt.Sprintf("Mon, 30 Nov 2026 00:00:0%d GMT", v))
	}
	from := 0
	_, _ = fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &from)
	answer := func(code int, body []byte) (*http.Response, error) {
		resp.StatusCode, resp.Status, resp.ContentLength = code, http.StatusText(code), int64(len(body))
		body = body[:min(len(body), pick(s.script, len(body), len(body), s.next()))] // it may break off
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	}
	switch s.next() % 8 {
	case 0, 1: // the whole
		return answer(http.StatusOK, file)
	case 2, 3: // what was asked for, of whichever version
		from = min(from, len(file))
		resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(file)-1, len(file)))
		return answer(http.StatusPartialContent, file[from:])
	case 4:
		return answer(pick(s.script, 429, 500, 503), file)
	case 5: // Hugging Face's words, and on to somewhere
		resp.Header.Set("Location", pick(s.script, "/elsewhere", "http://other.example/f", "https://h.example/", "gopher://x", "::"))
		resp.Header.Set("X-Linked-Size", pick(s.script, strconv.Itoa(len(file)), "7", "-1", "x", ""))
		resp.Header.Set("X-Linked-ETag", pick(s.script, "", "ab", fmt.Sprintf("%064d", 7)))
		return answer(pick(s.script, 301, 302, 307, 308), nil)
	case 6:
		return nil, errors.New("the line is dead")
	}
	s.wild = true
	resp.Header.Set("Content-Range", pick(s.script, "", "bytes 0-1/2", "bytes 5-2/9", "bytes -1--1/-1", "bytes 0-9999999999999999999/1", "x"))
	resp, err := answer(pick(s.script, 200, 206, 206, 204, 301, 404, 401, 999), file[min(from, len(file)):])
	resp.ContentLength = pick(s.script, -1, 0, 1<<62, int64(s.next()))
	return resp, err
}

// FuzzHTTP: however a server answers, the result is one complete version of the
// file or an error, and requests end.
func FuzzHTTP(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	f.Add([]byte{40, 60, 1, 0, 0, 0, 2, 20, 0, 0, 2, 0})
	f.Add([]byte{40, 40, 1, 0, 0, 0, 2, 20, 1, 0, 2, 0, 0, 0, 0, 0})
	f.Add([]byte{40, 40, 0, 0, 0, 2, 20, 1, 2, 0})
	f.Add([]byte{40, 40, 1, 0, 0, 5, 0, 0, 2, 0, 0, 0, 0, 0})
	f.Add([]byte{9, 9, 1, 0, 0, 7, 1, 1, 1, 3, 200, 0, 0, 7, 2, 2, 2})
	f.Fuzz(func(t *testing.T, raw []byte) {
		synctest.Test(t, func(t *testing.T) {
			s := script(raw)
			srv := &shifty{script: &s}
			for v := range srv.versions {
				srv.versions[v] = bytes.Repeat([]byte{byte('a' + v)}, s.next())
			}
			srv.tagged = s.next()%2 == 1
			h := &httpReader{ctx: t.Context(), url: "http://origin.example/f", size: -1, retry: backoff.Backoff{First: retryPause, Most: retryMost}}
			h.client = &http.Client{CheckRedirect: h.redirect, Transport: srv}
			err := h.connect()
			for err != nil && h.again(err) == nil {
				err = h.connect()
			}
			if err != nil {
				return
			}
			defer h.Close()
			got, err := io.ReadAll(h)
			if int64(len(got)) > h.Size() || err == nil && int64(len(got)) != h.Size() {
				t.Errorf("%d bytes of %d (%v)", len(got), h.Size(), err)
			}
			if err != nil && !errors.Is(err, ErrSource) {
				t.Errorf("%v", err)
			}
			if err == nil && !srv.wild && !bytes.Equal(got, srv.versions[0]) && !bytes.Equal(got, srv.versions[1]) {
				t.Errorf("neither version: %q", got)
			}
		})
	})
}

// FuzzLayout: whatever header a manifest is made from, it describes the whole
// file, each byte has one place on disk, and other nodes accept it.
func FuzzLayout(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	raw := synth(rand.New(rand.NewPCG(1, 2)), 2, 1)
	h, err := gguf.Read(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw[:h.DataOffset], int64(len(raw)))
	f.Add(raw[:h.DataOffset], int64(len(raw))+100)
	f.Add(raw[:100], int64(100))
	f.Fuzz(func(t *testing.T, raw []byte, size int64) {
		h, err := gguf.Read(bytes.NewReader(raw), size)
		if err != nil || h.Check(size) != nil || h.Blocks() < 1 || h.Blocks() > 1<<16 || h.Width() < 1 {
			return
		}
		l := newLayout(int64(h.Blocks()))
		if err := l.file(size, h); err != nil {
			return
		}
		m, err := l.manifest(h)
		if err != nil {
			return
		}
		if m.Size() != size {
			t.Fatalf("%d bytes of %d", m.Size(), size)
		}
		base, shards := layShards(m)
		var laid int64
		for _, s := range shards {
			for _, r := range s.runs {
				if laid += r.length; r.at < base[0] || r.at+r.length > base[0]+size {
					t.Fatalf("%+v lies outside of the file, which is at %d and of %d bytes", r, base[0], size)
				}
			}
		}
		if laid != size {
			t.Fatalf("%d bytes of %d have a place on disk", laid, size)
		}
		raw, id, err := m.Encode()
		if err != nil {
			return // longer than a manifest may be
		}
		again, err := protocol.DecodeManifest(raw)
		if err != nil {
			t.Fatalf("made and not taken: %v", err)
		}
		if _, other, err := again.Encode(); err != nil || other != id {
			t.Fatalf("%s is %s when it is read again (%v)", id, other, err)
		}
	})
}
