package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	API    string `json:"api,omitempty"`    // host:port that can be dialled; "": none
	Socket string `json:"socket,omitempty"` // path of a unix socket, for the operator only; "": none
	PID    int    `json:"pid"`
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

// DefaultSocket returns the path of a home's socket, which is used unless it is too
// long.
func DefaultSocket(dir string) string { return home.Home(dir).Socket() }

// mayListen returns an error if other machines can reach the API's address and
// neither a key nor the operator's consent (Config.APIOpen) is set.
func (c *Config) mayListen() error {
	if c.API == "" || c.APIKey != "" || c.APIOpen {
		return nil
	}
	host, _, err := net.SplitHostPort(c.API)
	if err != nil {
		return badSetting("api", "%q: write it like 127.0.0.1:11500", c.API)
	}
	if ip, err := netip.ParseAddr(host); host == "localhost" || err == nil && ip.Unmap().IsLoopback() {
		return nil
	}
	err = badSetting("api", "%s: everybody who reaches that address could use this node; ask them for a key, or allow it in so many words", c.API)
	return remedy.For(err, remedy.APIKey)
}

// listen opens the API's listeners (the socket in the home, and the address if one is
// configured) and writes the Word. Later errors of a listener go to fail.
func (n *Node) listen(fail context.CancelCauseFunc) (stop func(), err error) {
	var doors []net.Listener
	word := Word{PID: os.Getpid()}
	if n.cfg.API != "" {
		l, err := net.Listen("tcp", n.cfg.API)
		if err != nil {
			if errors.Is(err, syscall.EADDRINUSE) {
				err = fmt.Errorf("the API's address %s is in use: choose another, or stop the program that has it", n.cfg.API)
				return nil, remedy.For(err, remedy.APIAddress)
			}
			return nil, fmt.Errorf("the API's address %s: %w", n.cfg.API, err)
		}
		doors = append(doors, l)
		word.API = dialable(l.Addr())
	}
	socket, gone, err := n.openSocket()
	if err != nil {
		gone = func() {}
		n.cfg.Log.Warn("there is no socket for this home's own commands", "error", err)
	} else {
		doors = append(doors, socket)
		word.Socket = socket.Addr().String()
	}
	n.mu.Lock()
	n.word = word
	n.mu.Unlock()
	raw, err := json.Marshal(word)
	if err == nil {
		err = files.Replace(n.cfg.home().API(), raw, 0o600)
	}
	if err != nil {
		_ = os.Remove(n.cfg.home().API()) // a Word there would be an earlier node's
		n.cfg.Log.Warn("the API's address cannot be left in the home", "error", err)
	}
	srv := &http.Server{Handler: n.handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	for _, l := range doors {
		go func() {
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				fail(err)
			}
		}()
	}
	return func() {
		_ = os.Remove(n.cfg.home().API())
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if srv.Shutdown(ctx) != nil { // end the answers still running
			_ = srv.Close()
		}
		gone()
	}, nil
}

// longestSocket is the longest path of a unix socket, in bytes, that every system
// allows; macOS has the lowest limit.
const longestSocket = 103

// openSocket listens on a socket in the home or, if that path is too long, in a new
// directory under XDG_RUNTIME_DIR or the temporary directory. gone removes it.
func (n *Node) openSocket() (l net.Listener, gone func(), err error) {
	path, err := filepath.Abs(DefaultSocket(n.cfg.Home))
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
