package metrics

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// State is a node's state at the time of a scrape.
type State struct {
	Lending    bool
	Spans      []Span
	Peers      int // connected
	DHTPeers   int // in the routing table
	Offers     int // known offers of other nodes
	StoreBytes int64
	QuotaBytes int64 // 0: no limit
	FreeBytes  int64 // of the store's disk; negative: unknown
	Links      []Link
	Paths      map[string]int     // connected peers by kind: direct and relayed
	Punches    map[string]uint64  // attempts at a direct path, by outcome; a fixed set
	CircuitMin uint64             // bytes left of the relayed connection that has least
	Traffic    map[string]Traffic // by protocol; a fixed set
	Fetched    map[string]uint64  // bytes by kind of source; a fixed set
	Given      uint64             // bytes sent to peers
	Lookups    Lookups
}

// Lookups are the lookups in the DHT so far.
type Lookups struct {
	Hops, First       Histogram // answers that led to each other; seconds until the first provider
	Vain, Dials, Dead uint64    // searches that found nobody; dials, and those in vain
}

// Histogram is one that was counted elsewhere.
type Histogram struct {
	Count   uint64
	Sum     float64
	Buckets map[float64]uint64 // values up to each bound
}

// Span is a span that the node serves, or is about to.
type Span struct {
	Model, Blocks string // name, and FROM-TO
	Ready         bool
	Sessions      int
	QueuedRows    int
	KVTokens      int    // KV cells
	KVFree        int    // KV cells
	EngineBytes   uint64 // weights, KV and graph
}

// Link is a QUIC connection.
type Link struct {
	Conn       string // unique name of the connection
	Peer       string // peer ID
	RTT        time.Duration
	Sent, Lost uint64 // packets since the connection was opened
}

// Traffic is the traffic of a protocol, in bytes.
type Traffic struct{ Sent, Received uint64 }

// gauges reads State at each scrape.
type gauges struct {
	state  func() State
	models *names
	links  *links
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	lending    = desc("shoal_lending", "1 while the machine is lent, 0 while the operator's rules pause it.")
	spanReady  = desc("shoal_span_ready", "1 if a token has gone through a whole chain that the span is part of, 0 until then.", "model", "blocks")
	sessions   = desc("shoal_stage_sessions", "Sessions open at a span.", "model", "blocks")
	queuedRows = desc("shoal_stage_queued_rows", "Rows queued for a pass through a span.", "model", "blocks")
	kvTokens   = desc("shoal_stage_kv_tokens", "KV capacity of a span, in tokens.", "model", "blocks")
	kvReserved = desc("shoal_stage_kv_reserved_tokens", "KV tokens that open sessions have reserved.", "model", "blocks")
	engineMem  = desc("shoal_engine_memory_bytes", "Memory of an engine: weights, KV and graph.", "model", "blocks")
	peers      = desc("shoal_peers", "Peers connected.")
	dhtPeers   = desc("shoal_dht_peers", "Peers in the DHT's routing table.")
	offers     = desc("shoal_offers", "Known offers of other nodes.")
	storeBytes = desc("shoal_store_bytes", "Bytes of models on disk.")
	storeQuota = desc("shoal_store_quota_bytes", "Bytes that unpinned shards may take; 0 if there is no limit.")
	storeFree  = desc("shoal_store_free_bytes", "Bytes free on the store's disk.")
	peerRTT    = desc("shoal_peer_rtt_seconds", "Smoothed QUIC round trip to a peer; peer=other is the mean of all peers without their own label.", "peer")
	peerSent   = desc("shoal_peer_packets_sent_total", "QUIC packets sent to a peer.", "peer")
	peerLost   = desc("shoal_peer_packets_lost_total", "QUIC packets lost on the way to a peer.", "peer")
	bytesBy    = desc("shoal_protocol_bytes_total", "Bytes sent and received on streams, by protocol and direction.", "protocol", "direction")
	fetched    = desc("shoal_fetched_bytes_total", "Bytes of models fetched, by kind of source, including duplicates.", "source")
	paths      = desc("shoal_path", "Connected peers by the kind of path to them: direct or relayed.", "kind")
	punches    = desc("shoal_punches_total", "Attempts at a direct path to a relayed peer, by outcome.", "outcome")
	circuit    = desc("shoal_circuit_bytes_left", "Bytes left of the relayed connection that has least; absent if there is none.")
	hops       = desc("shoal_lookup_hops", "Answers that led to each other in a lookup in the DHT, at most.")
	first      = desc("shoal_lookup_first_provider_seconds", "Time until the first provider, of searches in the DHT for the peers of a model that found one.")
	vain       = desc("shoal_lookups_failed_total", "Searches in the DHT for the peers of a model that found none.")
	dials      = desc("shoal_lookup_dials_total", "Peers that lookups in the DHT dialled, by outcome: answered, or dead (it could not be reached).", "outcome")
	given      = desc("shoal_given_bytes_total", "Bytes of models sent to peers.")
)

// Describe implements prometheus.Collector.
func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		lending, spanReady, sessions, queuedRows, kvTokens, kvReserved, engineMem, peers, dhtPeers, offers, storeBytes, storeQuota, storeFree,
		peerRTT, peerSent, peerLost, bytesBy, fetched, given, paths, punches, circuit, hops, first, vain, dials,
	} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (g *gauges) Collect(out chan<- prometheus.Metric) {
	st := g.state()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(lending, yes(st.Lending))
	for _, s := range g.merge(st.Spans) {
		l := []string{s.Model, s.Blocks}
		gauge(spanReady, yes(s.Ready), l...)
		gauge(sessions, float64(s.Sessions), l...)
		gauge(queuedRows, float64(s.QueuedRows), l...)
		gauge(kvTokens, float64(s.KVTokens), l...)
		gauge(kvReserved, float64(s.KVTokens-s.KVFree), l...)
		gauge(engineMem, float64(s.EngineBytes), l...)
	}
	gauge(peers, float64(st.Peers))
	gauge(dhtPeers, float64(st.DHTPeers))
	gauge(offers, float64(st.Offers))
	gauge(storeBytes, float64(st.StoreBytes))
	gauge(storeQuota, float64(st.QuotaBytes))
	if st.FreeBytes >= 0 {
		gauge(storeFree, float64(st.FreeBytes))
	}
	for label, p := range g.links.update(st.Links) {
		if p.now > 0 {
			gauge(peerRTT, (p.rtt / time.Duration(p.now)).Seconds(), label)
		}
		count(peerSent, p.sent, label)
		count(peerLost, p.lost, label)
	}
	for protocol, t := range st.Traffic {
		count(bytesBy, t.Sent, protocol, "sent")
		count(bytesBy, t.Received, protocol, "received")
	}
	for source, n := range st.Fetched {
		count(fetched, n, source)
	}
	count(given, st.Given)
	g.lookups(out, &st.Lookups)
	for kind, n := range st.Paths {
		gauge(paths, float64(n), kind)
	}
	for outcome, n := range st.Punches {
		count(punches, n, outcome)
	}
	if st.Paths["relayed"] > 0 {
		gauge(circuit, float64(st.CircuitMin))
	}
}

func (g *gauges) lookups(out chan<- prometheus.Metric, l *Lookups) {
	for d, h := range map[*prometheus.Desc]Histogram{hops: l.Hops, first: l.First} {
		out <- prometheus.MustNewConstHistogram(d, h.Count, h.Sum, h.Buckets)
	}
	for outcome, n := range map[string]uint64{"answered": l.Dials - min(l.Dials, l.Dead), "dead": l.Dead} {
		out <- prometheus.MustNewConstMetric(dials, prometheus.CounterValue, float64(n), outcome)
	}
	out <- prometheus.MustNewConstMetric(vain, prometheus.CounterValue, float64(l.Vain))
}

// merge adds up spans whose series would have the same labels: a model may be served
// twice, and several may be "other".
func (g *gauges) merge(spans []Span) (out []Span) {
	for _, s := range spans {
		s.Model = g.models.bound(s.Model)
		i := slices.IndexFunc(out, func(o Span) bool { return o.Model == s.Model && o.Blocks == s.Blocks })
		if i < 0 {
			out = append(out, s)
			continue
		}
		o := &out[i]
		o.Ready = o.Ready && s.Ready
		o.Sessions += s.Sessions
		o.QueuedRows += s.QueuedRows
		o.KVTokens += s.KVTokens
		o.KVFree += s.KVFree
		o.EngineBytes += s.EngineBytes
	}
	return out
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

// maxPeers is how many peers have a label of their own.
const maxPeers = 32

// links adds up QUIC's counters per connection into counters per peer. A peer keeps
// its label while it is connected; peers beyond maxPeers share the label "other".
// What a connection counts after the last scrape that saw it is lost. It is safe for
// concurrent use.
type links struct {
	mu    sync.Mutex
	conns map[string]Link        // as the last scrape saw them, Lost at its highest
	peers map[string]*linkTotals // by label
}

type linkTotals struct {
	sent, lost uint64
	rtt        time.Duration // sum over the connections of now
	now        int           // connections
}

func newLinks() *links { return &links{peers: map[string]*linkTotals{other: {}}} }

// update adds QUIC's current counters, and returns the totals by label.
func (l *links) update(list []Link) map[string]linkTotals {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.peers {
		p.rtt, p.now = 0, 0
	}
	present := map[string]bool{other: true}
	for _, c := range list {
		present[short(c.Peer)] = true
	}
	for label := range l.peers {
		if !present[label] {
			delete(l.peers, label)
		}
	}
	was := l.conns
	l.conns = map[string]Link{}
	for _, c := range list {
		p := l.peers[short(c.Peer)]
		switch {
		case p != nil:
		case len(l.peers) <= maxPeers: // other is one of them
			p = &linkTotals{}
			l.peers[short(c.Peer)] = p
		default:
			p = l.peers[other]
		}
		old := was[c.Conn]
		c.Lost = max(c.Lost, old.Lost) // QUIC takes losses back, a counter cannot
		p.sent += c.Sent - min(c.Sent, old.Sent)
		p.lost += c.Lost - old.Lost
		p.rtt += c.RTT
		p.now++
		l.conns[c.Conn] = c
	}
	out := map[string]linkTotals{}
	for label, p := range l.peers {
		out[label] = *p
	}
	return out
}

// short returns the end of a peer's ID, which identifies it, as shown elsewhere.
func short(id string) string { return strings.ToValidUTF8(id[max(0, len(id)-8):], "") }
