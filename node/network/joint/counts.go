package joint

import "github.com/shoalnet/shoal/node/network"

// Sizes are of all networks together.
type Sizes struct {
	Peers  int // connected
	DHT    int // peers in routing tables
	Offers int // known, of others
	// Lookups in the DHTs, those of networks that were left included.
	Lookups network.Lookups
}

// Sizes returns how much there is in all networks together.
func (j *Networks) Sizes() (s Sizes) {
	for _, n := range j.All() {
		s.Peers += len(n.Host().Network().Peers())
		s.DHT += n.DHTPeers()
		s.Offers += n.KnownOffers()
		s.Lookups = s.Lookups.Plus(n.Lookups())
	}
	if past := j.past.Load(); past != nil {
		s.Lookups = s.Lookups.Plus(past.lookups)
	}
	return s
}

// Traffic returns the bytes of each of shoal's protocols in all networks, those that
// were left included, as network.Traffic does.
func (j *Networks) Traffic() map[string]network.Traffic {
	sum := map[string]network.Traffic{}
	if past := j.past.Load(); past != nil {
		addTraffic(sum, past.traffic)
	}
	for _, n := range j.All() {
		addTraffic(sum, n.Traffic())
	}
	return sum
}

// counted is what was counted in networks that were left: counters do not go back.
type counted struct {
	traffic map[string]network.Traffic
	lookups network.Lookups
}

// outlive keeps what was counted in a network that is left. Called with changing held.
func (j *Networks) outlive(n *network.Network) {
	sum := &counted{n.Traffic(), n.Lookups()}
	if past := j.past.Load(); past != nil {
		addTraffic(sum.traffic, past.traffic)
		sum.lookups = sum.lookups.Plus(past.lookups)
	}
	j.past.Store(sum)
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
