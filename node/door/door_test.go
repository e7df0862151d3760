package door

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/remedy"
)

func say(text string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) })
}

// TestOpen: the API is where the Word says, metrics are at their own address alone, and
// nothing is left after stop.
func TestOpen(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Home: home.Home(dir), Address: "127.0.0.1:0", Handler: say("api"), Metrics: "127.0.0.1:0", MetricsHandler: say("metrics"), Log: slog.New(slog.DiscardHandler)}
	word, stop, err := Open(cfg, func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	if read, err := ReadWord(dir); err != nil || !reflect.DeepEqual(read, word) || word.API == word.Metrics || word.PID != os.Getpid() {
		t.Errorf("%+v, %+v, %v", word, read, err)
	}
	unix := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", word.Socket)
	}}}
	for url, want := range map[string]string{"http://" + word.API: "api", "http://" + word.Metrics: "metrics", "http://socket": "api"} {
		cl := http.DefaultClient
		if url == "http://socket" {
			cl = unix
		}
		resp, err := cl.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		var b [16]byte
		n, _ := resp.Body.Read(b[:])
		resp.Body.Close()
		if string(b[:n]) != want {
			t.Errorf("%s says %q", url, b[:n])
		}
	}
	// A second node finds both addresses taken, and says which.
	for _, second := range []Config{{Address: word.API}, {Metrics: word.Metrics}} {
		second.Home, second.Log = home.Home(t.TempDir()), cfg.Log
		_, _, err := Open(second, func(error) {})
		r := remedy.Of(err)
		if want := map[bool]remedy.Kind{true: remedy.MetricsAddress, false: remedy.APIAddress}[second.Metrics != ""]; r == nil || r.Kind != want || !strings.Contains(err.Error(), "in use") {
			t.Errorf("%v (%+v), want %s", err, r, want)
		}
	}
	stop()
	unix.CloseIdleConnections()
	for _, addr := range []string{word.API, word.Metrics} {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			t.Errorf("%s is still open", addr)
		}
	}
	if _, err := ReadWord(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the Word is still there: %v", err)
	}
}
