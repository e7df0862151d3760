package node_test

import (
	"bufio"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node"
)

// TestLoad: 200 streaming clients at once on one node see answers, or 503 with
// Retry-After, and nothing else; and when they are gone so is what they took.
func TestLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("some hundred answers")
	}
	const clients, rounds = 200, 4
	n, _ := start(t, node.Config{API: "127.0.0.1:0", Serve: []node.ServeSpec{{Model: "tinytales", Span: "all"}}}, true)
	st, err := n.Client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + st.API + "/v1/chat/completions"
	transport := &http.Transport{MaxConnsPerHost: clients, MaxIdleConnsPerHost: clients}
	hc := &http.Client{Transport: transport}
	var answered, refused, tokens atomic.Int64
	one := func(i int) error {
		body := fmt.Sprintf(`{"model":"tinytales","stream":true,"max_tokens":24,"messages":[{"role":"user","content":"Tell me story %d."}]}`, i)
		resp, err := hc.Post(url, "application/json", strings.NewReader(body))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if s := resp.StatusCode; s == http.StatusServiceUnavailable || s == http.StatusTooManyRequests {
			refused.Add(1)
			if resp.Header.Get("Retry-After") == "" {
				return fmt.Errorf("%s without Retry-After", resp.Status)
			}
			return nil
		}
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("%s", resp.Status)
		}
		done := false
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			switch line := lines.Text(); {
			case line == "data: [DONE]":
				done = true
			case strings.Contains(line, `"error"`):
				return fmt.Errorf("in the stream: %s", line)
			case strings.HasPrefix(line, "data: "):
				tokens.Add(1)
			}
		}
		if !done {
			return fmt.Errorf("a stream broke off")
		}
		answered.Add(1)
		return nil
	}
	// measure waits for what still ends, and gives heap and goroutines.
	measure := func() (heap uint64, routines int) {
		transport.CloseIdleConnections()
		until(t, "no session is left", func() bool {
			st, err := n.Client().Status(t.Context())
			return err == nil && len(st.Serving) > 0 && st.Serving[0].Sessions == 0
		})
		heap = 1 << 60
		for range 20 { // the least of some: others of this process come and go
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if m.HeapAlloc < heap {
				heap = m.HeapAlloc
			}
			if r := runtime.NumGoroutine(); routines == 0 || r < routines {
				routines = r
			}
			time.Sleep(20 * time.Millisecond)
		}
		return heap, routines
	}
	var heap0 uint64
	var routines0 int
	for round := range rounds {
		begin := time.Now()
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				if err := one(round*clients + i); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		took := time.Since(begin)
		heap, routines := measure()
		t.Logf("round %d: %d answered and %d refused by now, %.1f s, heap %.1f MB, %d goroutines", round, answered.Load(), refused.Load(), took.Seconds(), float64(heap)/1e6, routines)
		if round == 0 { // what is made once and kept
			heap0, routines0 = heap, routines
			continue
		}
		if heap > heap0+heap0/4+4e6 || routines > routines0+30 {
			t.Errorf("after round %d the heap is %d bytes and %d goroutines run; it was %d and %d", round, heap, routines, heap0, routines0)
		}
	}
	if answered.Load() == 0 || tokens.Load() < answered.Load()*2 {
		t.Errorf("%d were answered, in %d pieces", answered.Load(), tokens.Load())
	}
}
