package network

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"encoding/base64"
	"errors"
	"io"
	"strings"
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/zeroconf/v2"
	"github.com/multiformats/go-multiaddr"

	"github.com/shoalnet/shoal/protocol/member"
)

const (
	mdnsDomain  = "local"
	mdnsBytes   = 600 // of peer ID and addresses in an announcement, so that it fits into a packet
	mdnsAddrs   = 64  // addresses that are read from one
	mdnsText    = 255 // bytes of one string of a TXT record
	mdnsLabel   = "shoal-mdns-1"
	mdnsPort    = 4001 // a record must have one; nobody reads it
	mdnsAddress = "127.0.0.1"
)

// mdnsName returns the name of a swarm's service on the LAN: letters that only
// members can compute.
func mdnsName(view member.View) string {
	return "_" + randomLetters(view.Derive("shoal-mdns-name-1")) + "._udp"
}

func randomLetters(random []byte) string {
	return strings.ToLower(base32.StdEncoding.EncodeToString(random)[:12])
}

// swarmMDNS finds the members of a private swarm on the LAN. It does what
// libp2p's mDNS does, but the peer ID and the addresses are sealed with the view
// key: everybody on the LAN hears them. Only the announcement itself is seen,
// and the machine that sent it.
type swarmMDNS struct {
	server *zeroconf.Server
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func (n *Network) startSwarmMDNS() (io.Closer, error) {
	view := n.cfg.Swarm.View
	text, err := n.announcement(view)
	if err != nil {
		return nil, err
	}
	name := make([]byte, 8)
	if _, err := rand.Read(name); err != nil {
		return nil, err
	}
	instance := randomLetters(name)
	s := &swarmMDNS{}
	s.server, err = zeroconf.RegisterProxy(instance, mdnsName(view), mdnsDomain, mdnsPort, instance, []string{mdnsAddress}, text, nil)
	if err != nil {
		return nil, err
	}
	var ctx context.Context
	ctx, s.cancel = context.WithCancel(n.ctx)
	entries := make(chan *zeroconf.ServiceEntry, 64)
	done := make(chan struct{})
	s.wg.Go(func() { s.listen(done, n, entries) })
	s.wg.Go(func() {
		defer close(done)
		if err := zeroconf.Browse(ctx, mdnsName(view), mdnsDomain, entries); err != nil && ctx.Err() == nil {
			n.log.Warn("no discovery on the LAN", "error", err)
		}
	})
	return s, nil
}

// listen connects to the members that announce themselves, until the search is
// done.
func (s *swarmMDNS) listen(done <-chan struct{}, n *Network, entries <-chan *zeroconf.ServiceEntry) {
	for {
		select {
		case <-done:
			return
		case e, ok := <-entries:
			if !ok {
				return
			}
			if p, err := heardOnLAN(n.cfg.Swarm.View, e.Text); err == nil && p.ID != n.host.ID() {
				s.wg.Go(func() { found{n}.HandlePeerFound(p) })
			}
		}
	}
}

// Close stops the announcements and the search. It returns nil.
func (s *swarmMDNS) Close() error {
	s.cancel()
	s.server.Shutdown()
	s.wg.Wait()
	return nil
}

// announcement returns this node's peer ID and addresses on the LAN, sealed, as
// the strings of a TXT record.
func (n *Network) announcement(view member.View) ([]string, error) {
	addrs, err := n.host.Network().InterfaceListenAddresses()
	if err != nil {
		return nil, err
	}
	plain := appendBytes(nil, []byte(n.host.ID()))
	for _, a := range addrs {
		if _, ok := spotOf(a); ok && len(a.Bytes()) < 256 && len(plain) < mdnsBytes {
			plain = appendBytes(plain, a.Bytes())
		}
	}
	sealed, err := view.Encrypt(mdnsLabel, plain)
	if err != nil {
		return nil, err
	}
	var text []string
	for s := base64.StdEncoding.EncodeToString(sealed); s != ""; {
		k := min(len(s), mdnsText)
		text, s = append(text, s[:k]), s[k:]
	}
	return text, nil
}

func appendBytes(b, field []byte) []byte { return append(append(b, byte(len(field))), field...) }

var errLAN = errors.New("no announcement of this swarm")

// heardOnLAN reads an announcement. The error means that it is not one of this
// swarm.
func heardOnLAN(view member.View, text []string) (p peer.AddrInfo, err error) {
	whole := strings.Join(text, "")
	if len(whole) > 4096 {
		return p, errLAN
	}
	sealed, err := base64.StdEncoding.DecodeString(whole)
	if err != nil {
		return p, errLAN
	}
	plain, err := view.Decrypt(mdnsLabel, sealed)
	if err != nil {
		return p, err
	}
	for i := 0; len(plain) > 0; i++ {
		k := int(plain[0])
		if len(plain) <= k || i > mdnsAddrs {
			return p, errLAN
		}
		field := plain[1 : 1+k]
		plain = plain[1+k:]
		if i == 0 {
			p.ID, err = peer.IDFromBytes(field)
		} else {
			var a multiaddr.Multiaddr
			a, err = multiaddr.NewMultiaddrBytes(field)
			p.Addrs = append(p.Addrs, a)
		}
		if err != nil {
			return peer.AddrInfo{}, errLAN
		}
	}
	if p.ID == "" {
		return p, errLAN
	}
	return p, nil
}
