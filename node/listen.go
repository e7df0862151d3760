package node

import (
	"context"
	"net"
	"net/netip"

	"github.com/shoalnet/shoal/node/door"
	"github.com/shoalnet/shoal/node/home"
	"github.com/shoalnet/shoal/node/remedy"
)

// Word is the file that a running node writes into its home, so that commands find
// its API.
type Word = door.Word

// ReadWord reads the Word of the node of a home. It returns an fs.ErrNotExist if there
// is none; the socket may exist all the same.
func ReadWord(dir string) (Word, error) { return door.ReadWord(dir) }

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

// listen opens the API's listeners. Later errors of a listener go to fail.
func (n *Node) listen(fail context.CancelCauseFunc) (stop func(), err error) {
	word, stop, err := door.Open(door.Config{
		Home: n.cfg.home(), Address: n.cfg.API, Handler: n.handler, Log: n.cfg.Log,
		TLS: door.TLS{On: n.cfg.TLS, Cert: n.cfg.TLSCert, Key: n.cfg.TLSKey, Names: n.cfg.APIHosts},
	}, fail)
	n.mu.Lock()
	n.word = word
	n.mu.Unlock()
	return stop, err
}
