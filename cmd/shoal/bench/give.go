package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/cmd/shoal/bench/plain"
	"github.com/shoalnet/shoal/cmd/shoal/term"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/protocol"
)

// The sources of bench fetch: separate processes, one of which may send corrupt data.

// Source describes what a source of Fetch serves from its own process: one of Store,
// Flatfs and File.
type Source struct {
	Store   string  // directory of a store
	Flatfs  string  // directory to make a flatfs of Model in
	Model   string  // file whose blocks Flatfs has
	File    string  // file to serve by HTTP
	Up      float64 // bytes per second of a store; 0: no limit
	Corrupt int     // one leaf of so many of a store is false; 0: none
}

// giver is a source's process.
type giver struct {
	cmd  *exec.Cmd
	in   io.Closer
	word giverWord
}

// giverWord is the line that a source prints when it is ready.
type giverWord struct {
	Addr   string   `json:"addr,omitempty"` // with the peer ID
	URL    string   `json:"url,omitempty"`
	Blocks []string `json:"blocks,omitempty"`
}

func (g *giver) peer() (peer.AddrInfo, error) {
	p, err := peer.AddrInfoFromString(g.word.Addr)
	if err != nil {
		return peer.AddrInfo{}, err
	}
	return *p, nil
}

func (b *fetchBench) start(args ...string) (*giver, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	g := &giver{cmd: exec.CommandContext(b.ctx, exe, append([]string{"bench", "give"}, args...)...)}
	g.cmd.Stderr = os.Stderr
	g.cmd.Env = append(os.Environ(), "SHOAL_QUIET_BUILD=1")
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReaderSize(out, 4<<20).ReadSlice('\n')
	if err == nil {
		err = json.Unmarshal(line, &g.word)
	}
	if err != nil {
		g.stop()
		return nil, fmt.Errorf("a source did not start: %w", err)
	}
	return g, nil
}

func (g *giver) stop() {
	g.in.Close()
	_ = g.cmd.Wait()
}

// Give runs a source until standard input ends. It prints its address to out, as JSON.
func Give(ctx context.Context, out io.Writer, from Source) error {
	var word giverWord
	switch {
	case from.File != "":
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		file := from.File
		srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) })}
		go func() { _ = srv.Serve(l) }()
		defer srv.Close()
		word.URL = "http://" + l.Addr().String() + "/" + filepath.Base(file)
	default:
		h, err := benchHost()
		if err != nil {
			return err
		}
		defer h.Close()
		word.Addr = fmt.Sprintf("%s/p2p/%s", h.Addrs()[0], h.ID())
		if dir := from.Flatfs; dir != "" {
			n, err := plain.New(h, dir)
			if err != nil {
				return err
			}
			defer n.Close()
			f, err := os.Open(from.Model)
			if err != nil {
				return err
			}
			defer f.Close()
			list, err := n.Add(ctx, f, protocol.LeafSize)
			if err != nil {
				return err
			}
			for _, id := range list {
				word.Blocks = append(word.Blocks, id.String())
			}
			break
		}
		s, err := store.Open(from.Store, store.Options{})
		if err != nil {
			return err
		}
		defer s.Close()
		x := exchange.New(s, exchange.Options{Leaves: storeLeaves(s, from.Corrupt), Up: from.Up}, exchange.Net{Host: h, Find: fixed(nil)})
		defer x.Close()
	}
	if err := term.PrintJSON(out, word); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// benchHost returns a host that listens on loopback, with TCP first.
func benchHost() (host.Host, error) {
	return libp2p.New(libp2p.ListenAddrStrings("/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"), libp2p.DisableMetrics(), libp2p.DisableRelay())
}

// fixed is a Finder that returns a fixed list of peers.
type fixed []peer.AddrInfo

func (f fixed) Holders(context.Context, cid.Cid) ([]peer.AddrInfo, error) { return f, nil }

// storeLeaves serves a store's models, intact or with one leaf out of corrupt corrupted.
func storeLeaves(s *store.Store, corrupt int) func(cid.Cid) exchange.Leaves {
	var given atomic.Int64
	return func(id cid.Cid) exchange.Leaves {
		m, err := s.Model(id)
		if err != nil {
			return nil
		}
		if corrupt > 0 {
			return liar{m, corrupt, &given}
		}
		return m
	}
}

// liar corrupts one leaf out of every n that it sends, the middle one.
type liar struct {
	exchange.Leaves
	every int
	given *atomic.Int64 // leaves, to all
}

func (l liar) ReadLeaf(n int, buf []byte) ([]byte, error) {
	raw, err := l.Leaves.ReadLeaf(n, buf)
	if err == nil && int(l.given.Add(1))%l.every == l.every/2 {
		raw[len(raw)/2] ^= 1
	}
	return raw, err
}
