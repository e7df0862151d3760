#!/bin/sh
# go-libp2p 0.51.0 with quic-go 0.64.1: streams that the other side does not read
# stop everything else on the same QUIC connection, libp2p's own ping included;
# on a TCP connection (yamux) they do not.
#
# Seen: two hosts on loopback, a protocol whose handler accepts streams and reads
# nothing of them. Eight streams are written until none takes any more. Over QUIC
# they stall together after 768 KiB, the connection's window at first, which grows
# only as somebody reads; a ping on a ninth stream then gets no answer. Over TCP
# each stream stalls alone at its own window, 256 KiB (2 MiB in all), and pings are
# answered.
#
# Why it matters: who sends bulk beside short messages on one QUIC connection must
# not send more than the receiver takes at once, or the short ones wait, however
# small. shoal grants credit for rows on each link for this reason.
#
# Needs Go 1.26; fails if the behaviour is another.
set -eu
dir=$(mktemp -d)
trap 'chmod -R u+w "$dir"; rm -rf "$dir"' EXIT
cd "$dir"
cat > go.mod <<'MOD'
module finding

go 1.26

require (
	github.com/libp2p/go-libp2p v0.51.0
	github.com/quic-go/quic-go v0.64.1
)
MOD
cat > main.go <<'GO'
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

const unread = "/unread/1"

func newHost(listen string) host.Host {
	h, err := libp2p.New(libp2p.ListenAddrStrings(listen), libp2p.DisableMetrics(), libp2p.ResourceManager(&network.NullResourceManager{}))
	if err != nil {
		panic(err)
	}
	return h
}

// try says how many KiB eight unread streams take together, and whether a ping is answered then.
func try(listen string) (kib int64, answered bool) {
	a, b := newHost(listen), newHost(listen)
	defer a.Close()
	defer b.Close()
	b.SetStreamHandler(unread, func(s network.Stream) { // reads the protocol's name, and no more
		<-time.After(time.Minute)
		_ = s.Reset()
	})
	ctx := context.Background()
	if err := a.Connect(ctx, peer.AddrInfo{ID: b.ID(), Addrs: b.Addrs()}); err != nil {
		panic(err)
	}
	one := func() bool {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		r, ok := <-ping.Ping(ctx, a, b.ID()) // closed without a word when ctx ends
		return ok && r.Error == nil
	}
	if !one() {
		panic("no ping is answered at all")
	}
	var taken atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		s, err := a.NewStream(ctx, b.ID(), unread)
		if err != nil {
			panic(err)
		}
		wg.Add(1)
		go func() {
			defer wg.Done()
			chunk := make([]byte, 1<<10)
			for {
				_ = s.SetWriteDeadline(time.Now().Add(2 * time.Second))
				n, err := s.Write(chunk)
				taken.Add(int64(n))
				if err != nil {
					return
				}
			}
		}()
	}
	wg.Wait()
	return taken.Load() >> 10, one()
}

func main() {
	for _, listen := range []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"} {
		kib, answered := try(listen)
		fmt.Fprintln(os.Stderr, listen, kib, "KiB were taken")
		fmt.Printf("%s: more than 1 MiB is taken: %v; a ping is answered: %v\n", listen, kib > 1<<10, answered)
	}
}
GO
go mod tidy >/dev/null 2>&1
want='/ip4/127.0.0.1/udp/0/quic-v1: more than 1 MiB is taken: false; a ping is answered: false
/ip4/127.0.0.1/tcp/0: more than 1 MiB is taken: true; a ping is answered: true'
got=$(CGO_ENABLED=0 go run .)
echo "$got"
[ "$got" = "$want" ] || { echo "the behaviour has changed" >&2; exit 1; }
