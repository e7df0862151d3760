package joint

import "github.com/shoalnet/shoal/node/network"

// Sizes are of all networks together.
type Sizes struct {
	Peers  int // connected
	DHT    int // peers in routing tables
	Offers int // known, of others
}

// Sizes returns how much there is in all networks together.
func (j *Networks) Sizes() (s Sizes) {
	for _, n := range j.All() {
		s.Peers += len(n.Host().Network().Peers())
		s.DHT += n.DHTPeers()
		s.Offers += n.KnownOffers()
	}
	return s
}

// Traffic returns the bytes of each of shoal's protocols in all networks, those that
// were left included, as network.Traffic does.
func (j *Networks) Traffic() map[string]network.Traffic {
	sum := map[string]network.Traffic{}
	if past := j.past.Load(); past != nil {
		addTraffic(sum, *past)
	}
	for _, n := range j.All() {
		addTraffic(sum, n.Traffic())
	}
	return sum
}

// outlive keeps the traffic of a network that is left: counters do not go back. Called
// with changing held.
func (j *Networks) outlive(n *network.Network) {
	sum := n.Traffic()
	if past := j.past.Load(); past != nil {
		addTraffic(sum, *past)
	}
	j.past.Store(&sum)
}

func addTraffic(sum, more map[string]network.Traffic) {
	for proto, t := range more {
		s := sum[proto]
		sum[proto] = network.Traffic{Sent: s.Sent + t.Sent, Received: s.Received + t.Received}
	}
}

// Links returns the QUIC connections of all networks.
func (j *Networks) Links() (all []network.Link) {
	for _, n := range j.All() {
		all = append(all, n.Links()...)
	}
	return all
}
