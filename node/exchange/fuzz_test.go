package exchange

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"testing"
	"time"
)

// answers is a server of one file that answers by what bytes choose.
type answers struct {
	script []byte
	file   []byte
	wild   bool // it has sent what is no part of the file where it says so
}

func (a *answers) next() int {
	if len(a.script) == 0 {
		return 0
	}
	b := a.script[0]
	a.script = a.script[1:]
	return int(b)
}

func (a *answers) RoundTrip(req *http.Request) (*http.Response, error) {
	resp := &http.Response{Header: http.Header{}, Request: req, ProtoMajor: 1, ProtoMinor: 1}
	answer := func(code int, body []byte) (*http.Response, error) {
		resp.StatusCode, resp.Status, resp.ContentLength = code, http.StatusText(code), int64(len(body))
		if n := a.next(); n%4 == 3 { // it breaks off
			body = body[:min(len(body), n)]
		}
		resp.Body = io.NopCloser(bytes.NewReader(body))
		return resp, nil
	}
	var from, to int
	_, _ = fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-%d", &from, &to)
	to = min(to+1, len(a.file))
	from = min(from, to)
	size := strconv.Itoa(len(a.file))
	switch a.next() % 8 {
	case 0, 1, 2:
		resp.Header.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%s", from, to-1, size))
		return answer(http.StatusPartialContent, a.file[from:to])
	case 3:
		return answer(http.StatusOK, a.file)
	case 4:
		resp.Header.Set("Retry-After", []string{"", "1", "-1", "99999999999999999999", "1073741824", "Mon, 01 Jan 1990 00:00:00 GMT", "x"}[a.next()%7])
		return answer([]int{429, 408, 500, 503, 599}[a.next()%5], nil)
	case 5:
		resp.Header.Set("Location", []string{"/elsewhere", "http://other.example/", "gopher://x", "::", ""}[a.next()%5])
		return answer([]int{301, 302, 303, 307, 308}[a.next()%5], nil)
	case 6:
		return nil, errors.New("the line is dead")
	}
	a.wild = true
	resp.Header.Set("Content-Range", []string{"", fmt.Sprintf("bytes %d-%d/%s", from, to-1, size), "bytes 0-1/2", "bytes -1--1/-1", "bytes 0-9999999999999999999/1", "x"}[a.next()%6])
	resp, err := answer([]int{200, 206, 206, 204, 404, 401, 416, 999}[a.next()%8], a.file[to-from:])
	resp.ContentLength = []int64{-1, 0, int64(len(a.file)), 1 << 62}[a.next()%4]
	return resp, err
}

// FuzzOrigin: however a server answers, leaves come in their order, each of its
// size, and of the file's bytes where the server told the truth.
func FuzzOrigin(f *testing.F) {
	_ = flag.Set("test.fuzzminimizetime", "1000x") // else a minute for each new input
	f.Add([]byte{200, 10, 3, 2, 0, 0})
	f.Add([]byte{200, 0, 3, 2, 3, 0, 3, 0})
	f.Add([]byte{200, 10, 3, 2, 5, 0, 0, 0, 0, 0, 3, 7})
	f.Add([]byte{90, 3, 3, 2, 7, 1, 1, 0, 0, 4, 2, 2, 4, 5, 1})
	f.Fuzz(func(t *testing.T, raw []byte) {
		a := &answers{script: raw}
		a.file = make([]byte, a.next())
		for i := range a.file {
			a.file[i] = byte(i)
		}
		fe := &fetch{x: &Exchange{down: newRateLimiter(0, func() bool { return false })}, buffers: make(chan []byte, 1)}
		fe.buffers <- make([]byte, 256)
		o := newOrigin(fe, Origin{Where: "http://origin.example/f", Size: int64(len(a.file))})
		o.cl.Transport = a
		var ask []Need
		for at := a.next(); len(ask) < 4; {
			n := Need{Offset: int64(at), Size: 1 + a.next()%50}
			if at += n.Size + a.next()%2*7; at > len(a.file) {
				break
			}
			ask = append(ask, n)
		}
		if len(ask) == 0 {
			return
		}
		for range 4 {
			came := 0
			err := o.get(t.Context(), ask, func(i int, data []byte) error {
				n := ask[i]
				if i != came || len(data) != n.Size {
					t.Fatalf("leaf %d of %d bytes, where %d of %d was due", i, len(data), came, n.Size)
				}
				if !a.wild && !bytes.Equal(data, a.file[n.Offset:][:n.Size]) {
					t.Fatalf("leaf %d is not the file's: %v", i, data)
				}
				came++
				return nil
			})
			if err == nil && came != len(ask) {
				t.Fatalf("%d leaves of %d, and no word why", came, len(ask))
			}
			if len(fe.buffers) != 1 {
				t.Fatal("a buffer is gone")
			}
			var wait later
			if errors.As(err, &wait) && (wait.after < 0 || wait.after > 1<<20*time.Second) {
				t.Fatalf("to wait for %s", wait.after)
			}
			var never permanent
			if errors.As(err, &never) || errors.Is(err, context.Canceled) {
				return
			}
		}
	})
}
