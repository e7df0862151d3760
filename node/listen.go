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

// Word is what a node that runs leaves in its home, where commands look: how it
// is asked.
type Word struct {
	API    string `json:"api,omitempty"`    // host:port that can be dialled; "": none
	Socket string `json:"socket,omitempty"` // path of a unix socket, the operator's own door; "": none could be made
	PID    int    `json:"pid"`
}

// ReadWord reads what the node of a home has left. Without a word its socket
// may be there all the same.
func ReadWord(dir string) (Word, error) {
	raw, err := os.ReadFile(home.Home(dir).API())
	if err != nil {
		return Word{}, err
	}
	var w Word
	return w, json.Unmarshal(raw, &w)
}

// DefaultSocket is where the socket of a home lies if its path is not too long.
func DefaultSocket(dir string) string { return home.Home(dir).Socket() }

// mayListen says that an address of the API is open to nobody but this machine,
// or meant to be: there is a key, or the operator said so.
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

// listen opens the API's doors, the socket in the home and the address if there
// is one, and leaves word of them.
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
		_ = os.Remove(n.cfg.home().API()) // what lies there is another's word
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
		if srv.Shutdown(ctx) != nil { // answers under way are ended
			_ = srv.Close()
		}
		gone()
	}, nil
}

// longestSocket is the longest path of a unix socket, in bytes: macOS's, which is
// the shortest of all.
const longestSocket = 103

// openSocket listens in the home or, if its path is too long, in a directory of
// its own where the system keeps such things.
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
	_ = os.Remove(path) // a killed node's: the home, and so what lies there, is ours alone
	if l, err = net.Listen("unix", path); err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		gone()
		return nil, nil, err
	}
	return l, gone, nil
}

// dialable is an address as it can be dialled from this machine.
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
