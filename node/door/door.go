package door

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/shoalnet/shoal/node/files"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/remedy"
)

// Word is the file that a running node writes into its home, so that commands find
// its API.
type Word struct {
	API     string `json:"api,omitempty"`     // host:port that can be dialled; "": none
	Metrics string `json:"metrics,omitempty"` // likewise, of metrics and probes alone
	Socket  string `json:"socket,omitempty"`  // path of a unix socket, for the operator only; "": none
	PID     int    `json:"pid"`

	// URLs are the page's addresses: on this machine first, then those for others, if
	// other machines can reach it. Fingerprint is the SHA-256 of the certificate; "":
	// there is no TLS.
	URLs        []string `json:"urls,omitempty"`
	Fingerprint string   `json:"tls_fingerprint,omitempty"`
}

// ReadWord reads the Word of the node of a home. It returns an fs.ErrNotExist if there
// is none; the socket may exist all the same.
func ReadWord(dir string) (Word, error) {
	raw, err := os.ReadFile(home.Home(dir).API())
	if err != nil {
		return Word{}, err
	}
	var w Word
	return w, json.Unmarshal(raw, &w)
}

// Config is what the listeners are made of.
type Config struct {
	Home    home.Home
	Address string       // host:port of the API; "": only the socket
	Handler http.Handler // of the API
	Log     *slog.Logger
	TLS     TLS

	Metrics        string       // host:port for metrics and probes alone; "": none
	MetricsHandler http.Handler // if Metrics is set
}

// Open opens the listeners and writes the Word. Later errors of a listener go to fail.
// stop closes all, and ends answers that still run two seconds later. The error is that
// of the TCP address; a socket that cannot be opened is only logged.
func Open(cfg Config, fail func(error)) (word Word, stop func(), err error) {
	var doors []net.Listener
	defer func() {
		if err != nil {
			for _, l := range doors {
				_ = l.Close()
			}
		}
	}()
	word.PID = os.Getpid()
	if cfg.Address != "" {
		l, err := listen("API", cfg.Address, remedy.APIAddress)
		if err != nil {
			return Word{}, nil, err
		}
		word.API = dialable(l.Addr())
		word.URLs = pages(word.API, l.Addr(), cfg.TLS.On)
		if l, err = encrypt(&cfg, &word, l); err != nil {
			return Word{}, nil, err
		}
		doors = append(doors, l)
	}
	var metrics net.Listener
	if cfg.Metrics != "" {
		if metrics, err = listen("metrics", cfg.Metrics, remedy.MetricsAddress); err != nil {
			return Word{}, nil, err
		}
		word.Metrics = dialable(metrics.Addr())
	}
	socket, gone, failed := openSocket(cfg.Home)
	if failed != nil {
		gone = func() {}
		cfg.Log.Warn("there is no socket for this home's own commands", "error", failed)
	} else {
		doors = append(doors, socket)
		word.Socket = socket.Addr().String()
	}
	leaveWord(cfg, word)
	srv := &http.Server{Handler: cfg.Handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	serve := func(srv *http.Server, l net.Listener) {
		if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			fail(err)
		}
	}
	for _, l := range doors {
		go serve(srv, l)
	}
	// Whoever reaches this address is asked for nothing, so it has less time.
	scraped := &http.Server{Handler: cfg.MetricsHandler, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	if metrics != nil {
		go serve(scraped, metrics)
	}
	return word, func() {
		_ = scraped.Close()
		_ = os.Remove(cfg.Home.API())
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil { // end the answers still running
			_ = srv.Close()
		}
		gone()
	}, nil
}

// listen opens a TCP listener; what names it in errors.
func listen(what, address string, kind remedy.Kind) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		err = fmt.Errorf("the %s's address %s is in use: choose another, or stop the program that has it", what, address)
		return nil, remedy.For(err, kind)
	case err != nil:
		return nil, fmt.Errorf("the %s's address %s: %w", what, address, err)
	}
	return l, nil
}

// leaveWord writes the Word into the home.
func leaveWord(cfg Config, word Word) {
	raw, err := json.Marshal(word)
	if err == nil {
		err = files.Replace(cfg.Home.API(), raw, 0o600)
	}
	if err != nil {
		_ = os.Remove(cfg.Home.API()) // a Word there would be an earlier node's
		cfg.Log.Warn("the API's address cannot be left in the home", "error", err)
	}
}

// longestSocket is the longest path of a unix socket, in bytes, that every system
// allows; macOS has the lowest limit.
const longestSocket = 103

// openSocket listens on a socket in the home or, if that path is too long, in a new
// directory under XDG_RUNTIME_DIR or the temporary directory. gone removes it.
func openSocket(dir home.Home) (l net.Listener, gone func(), err error) {
	path, err := filepath.Abs(dir.Socket())
	if err != nil {
		return nil, nil, err
	}
	gone = func() {}
	if len(path) > longestSocket {
		base := os.Getenv("XDG_RUNTIME_DIR")
		if base == "" {
			base = os.TempDir()
		}
		dir, err := os.MkdirTemp(base, "shoal-")
		if err != nil {
			return nil, nil, err
		}
		path, gone = home.Home(dir).Socket(), func() { _ = os.RemoveAll(dir) }
	}
	_ = os.Remove(path) // left by a killed node: no other node uses this home now
	if l, err = net.Listen("unix", path); err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		gone()
		return nil, nil, err
	}
	return l, gone, nil
}

// dialable returns an address at which a listener can be dialled from this machine.
func dialable(a net.Addr) string {
	at, err := netip.ParseAddrPort(a.String())
	if err != nil || !at.Addr().IsUnspecified() {
		return a.String()
	}
	for _, ip := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		to := netip.AddrPortFrom(ip, at.Port()).String()
		if c, err := net.DialTimeout("tcp", to, time.Second); err == nil {
			_ = c.Close()
			return to
		}
	}
	return a.String()
}
