package api

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatal("not so: " + what)
}

// Requests that are being answered have a budget of bytes, over which a longer one
// is told to come again; what is done gives its bytes back.
func TestBodiesBudget(t *testing.T) {
	srv := start(t, &speller{}, func(c *Config) { c.MaxBodies = 1000 })
	url := srv.URL + "/v1/chat/completions"
	until(t, "the budget is used up", func() bool { // half a request may be the one that is told to come again
		half, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer half.Close()
		fmt.Fprintf(half, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n%s", strings.Repeat(" ", 960))
		time.Sleep(20 * time.Millisecond)
		resp, _ := post(t, url, hello)
		return resp.StatusCode == http.StatusServiceUnavailable && resp.Header.Get("Retry-After") != ""
	})
	until(t, "it is given back", func() bool {
		resp, _ := post(t, url, hello)
		return resp.StatusCode == http.StatusOK
	})
	if resp, body := post(t, url, strings.Repeat(" ", 1001)); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("alone, and too long: %d %s", resp.StatusCode, body)
	}
}
