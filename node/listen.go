package node

import (
	"context"
	"net"
	"net/http"
	"net/netip"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/door"
	"github.com/shoalnet/shoal/node/home"
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

// mayListen returns an error if an address is not one.
func (c *Config) mayListen() error {
	for setting, address := range map[string]string{"api": c.API, "metrics": c.Metrics} {
		if address == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(address); err != nil {
			return badSetting(setting, "%q: write it like 127.0.0.1:11500", address)
		}
	}
	return nil
}

// Exposed reports whether other machines can reach the API's address.
func (c *Config) Exposed() bool {
	host, _, err := net.SplitHostPort(c.API)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host != "localhost" && (err != nil || !ip.Unmap().IsLoopback())
}

// scraped is what the metrics' own address serves.
func (n *Node) scraped() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", n.metrics.Handler())
	mux.Handle("/", api.Probes(n.unready))
	return mux
}

// listen opens the API's listeners. Later errors of a listener go to fail.
func (n *Node) listen(fail context.CancelCauseFunc) (stop func(), err error) {
	word, stop, err := door.Open(door.Config{
		Home: n.cfg.home(), Address: n.cfg.API, Handler: n.handler, Log: n.cfg.Log,
		TLS:     door.TLS{On: n.cfg.TLS, Cert: n.cfg.TLSCert, Key: n.cfg.TLSKey, Names: n.cfg.APIHosts},
		Metrics: n.cfg.Metrics, MetricsHandler: n.scraped(),
	}, fail)
	n.mu.Lock()
	n.word = word
	n.mu.Unlock()
	return stop, err
}
