package main

import (
	"bytes"
	"context"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/shoalnet/shoal/node"
	"github.com/shoalnet/shoal/node/api"
)

// TestServiceManager: a daemon tells systemd when it answers, that it lives, what
// it serves, and that it leaves.
func TestServiceManager(t *testing.T) {
	l := notifySocket(t)
	dir := t.TempDir()
	for _, apiAddr := range []string{"127.0.0.1:0", "off"} {
		exe, _ := os.Executable()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, exe, "node", "--home", filepath.Join(dir, apiAddr), "--model", "tinytales", "--span", "all", "--api", apiAddr,
			"--no-mdns", "--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--drain-time", "7s", "--pause-load", "0", "--lend-on-battery")
		cmd.Env = append(os.Environ(), "SHOAL_QUIET_BUILD=1", "WATCHDOG_USEC=900000")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var heard []string
		until := func(what string) {
			t.Helper()
			_ = l.SetReadDeadline(time.Now().Add(time.Minute))
			for buf := make([]byte, 4096); ; {
				n, err := l.Read(buf)
				if err != nil {
					_ = cmd.Process.Kill()
					t.Fatalf("it has not said %s but %q\n%s", what, heard, out.String())
				}
				heard = append(heard, string(buf[:n]))
				if strings.Contains(string(buf[:n]), what) {
					return
				}
			}
		}
		until("READY=1")
		until("STATUS=tinytales 0-8: ready, 0 sessions; 0 peers")
		for range 3 {
			until("WATCHDOG=1")
		}
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		until("STOPPING=1\nEXTEND_TIMEOUT_USEC=27000000")
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, out.String())
		}
		if !strings.HasPrefix(heard[0], "STATUS=starting") || strings.Count(strings.Join(heard, "\n"), "READY=1") != 1 {
			t.Errorf("it said %q", heard)
		}
	}
}

// notifySocket is one that NOTIFY_SOCKET names.
func notifySocket(t *testing.T) *net.UnixConn {
	dir, err := os.MkdirTemp("", "shoal") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return l
}

// TestNoSignOfLife: a node that does not answer gives none, and is not ready.
func TestNoSignOfLife(t *testing.T) {
	l := notifySocket(t)
	var asked atomic.Int32
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) <= 3 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		_, _ = w.Write([]byte("{}"))
	}))
	socket := filepath.Join(filepath.Dir(os.Getenv("NOTIFY_SOCKET")), "api.sock")
	door, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	_ = srv.Listener.Close()
	srv.Listener = door
	srv.Start()
	defer srv.Close()
	m := newManager(node.Config{Log: slog.New(slog.DiscardHandler)})
	m.every = 50 * time.Millisecond
	m.watch(func(node.Event) {})(node.Event{Event: "listening", Socket: socket})
	stop := m.tell(&api.Client{})
	defer stop()
	for _, want := range []string{"STATUS=starting", "READY=1\nWATCHDOG=1\n"} {
		buf := make([]byte, 4096)
		n, err := l.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:n]), want) {
			t.Fatalf("%v: %q, want %q", err, buf[:n], want)
		}
	}
	if n := asked.Load(); n < 4 {
		t.Errorf("it was ready after %d questions", n)
	}
}

func TestStatusLine(t *testing.T) {
	for want, s := range map[string]*api.Status{
		"serving nothing; 2 peers": {Peers: 2},
		"a 0-4: ready, 3 sessions; b: looking for the model; 0 peers": {
			Serving: []api.Serving{{Name: "a", To: 4, Ready: true, Sessions: 3}, {Name: "b", State: "looking for the model"}},
		},
		"x WATCHDOG=1 0-1: loading; 0 peers": {Serving: []api.Serving{{Name: "x\nWATCHDOG=1", To: 1, State: "loading"}}},
	} {
		if got := statusLine(s); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
