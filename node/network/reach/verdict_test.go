package reach

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestVerdict plays sequences of events. Each is "after what where".
func TestVerdict(t *testing.T) {
	type step struct {
		after time.Duration
		what  string // in, aside (whence, and who was sent to), sent, seen, claim, unclaim, refute, moved, wait
		where string
	}
	two := []step{{0, "in", "1.1.0.1"}, {time.Minute, "in", "2.2.0.1"}}
	with := func(more ...step) []step { return append(append([]step{}, two...), more...) }
	for _, c := range []struct {
		name  string
		steps []step
		want  Verdict
	}{
		{"nothing has happened", nil, Unknown},
		{"AutoNAT says so", []step{{0, "claim", "autonat"}}, Claimed},
		{"it no longer does", []step{{0, "claim", "autonat"}, {0, "unclaim", "autonat"}}, Unknown},
		{"a port is mapped", []step{{0, "claim", "mapping"}}, Claimed},
		{"one stranger", []step{{0, "in", "1.1.0.1"}}, Unknown},
		{"two strangers", two, Proven},
		{"two of one /16", []step{{0, "in", "1.1.0.1"}, {0, "in", "1.1.9.9"}}, Unknown},
		{"the same twice", []step{{0, "in", "1.1.0.1"}, {0, "in", "1.1.0.1"}}, Unknown},
		{"too far apart", []step{{0, "in", "1.1.0.1"}, {11 * time.Minute, "in", "2.2.0.1"}}, Unknown},
		{"one that was sent to", []step{{0, "sent", "2.2.0.1"}, {0, "in", "1.1.0.1"}, {0, "in", "2.2.0.1"}}, Unknown},
		{"one that was sent to long ago", []step{{0, "sent", "2.2.0.1"}, {25 * time.Hour, "in", "1.1.0.1"}, {0, "in", "2.2.0.1"}}, Proven},
		{"from private networks", []step{{0, "in", "192.168.1.2"}, {0, "in", "10.0.0.2"}, {0, "in", "100.64.0.1"}, {0, "in", "127.0.0.1"}}, Unknown},
		{"one of each IP version", []step{{0, "in", "1.1.0.1"}, {0, "in", "2001:db9::1"}}, Unknown},
		{"IPv6 alone", []step{{0, "in", "2001:db9::1"}, {0, "in", "2a00:1::1"}}, Proven},
		{"IPv6 of one /32", []step{{0, "in", "2001:db9:1::1"}, {0, "in", "2001:db9:2::1"}}, Unknown},
		{"IPv6, and IPv4 behind a NAT", []step{{0, "seen", "6.0.0.1"}, {0, "in", "2001:db9::1"}, {0, "in", "2a00:1::1"}}, Unknown},
		{"a neighbour in IPv6 was sent to", []step{{0, "sent", "2001:db9:0:1::1"}, {0, "in", "2001:db9:0:2::1"}, {0, "in", "2a00:1::1"}}, Unknown},
		{"mapped IPv4 addresses are IPv4", []step{{0, "sent", "::ffff:1.1.0.1"}, {0, "in", "1.1.0.1"}, {0, "in", "2.2.0.1"}}, Unknown},
		{"the address changes", with(step{0, "moved", ""}), Unknown},
		{"the address changes under a mapping", with(step{0, "claim", "mapping"}, step{0, "moved", ""}), Claimed},
		{"those from before the move", with(step{0, "moved", ""}, step{0, "in", "1.1.0.1"}, step{0, "in", "2.2.0.1"}), Unknown},
		{"others after the move", with(step{0, "moved", ""}, step{0, "in", "3.3.0.1"}, step{0, "in", "4.4.0.1"}), Proven},
		{"AutoNAT finds it unreachable", with(step{0, "refute", ""}), Unknown},
		{"and a mapping says otherwise", with(step{0, "claim", "mapping"}, step{0, "refute", ""}), Unknown},
		{"a day later", with(step{23 * time.Hour, "wait", ""}), Proven},
		{"two at other ports, though they were sent to from the node's own", []step{{0, "sent", "1.1.0.1"}, {0, "sent", "2.2.0.1"}, {0, "aside", "1.1.0.1 2.2.0.1"}, {0, "aside", "2.2.0.1 1.1.0.1"}}, Proven},
		{"the same twice at other ports", []step{{0, "aside", "1.1.0.1 2.2.0.1"}, {0, "aside", "1.1.0.1 3.3.0.1"}}, Unknown},
		{"at another port, one that was sent to from there", []step{{0, "in", "1.1.0.1"}, {0, "aside", "2.2.0.1 2.2.0.1"}}, Unknown},
		{"at another port, a neighbour of one that was sent to from there", []step{{0, "in", "1.1.0.1"}, {0, "aside", "2.2.9.9 2.2.0.1"}}, Unknown},
		{"at another port, from a private network", []step{{0, "in", "1.1.0.1"}, {0, "aside", "192.168.1.2 2.2.0.1"}}, Unknown},
		{"another port's stranger comes to the node's own", []step{{0, "in", "1.1.0.1"}, {0, "wait", ""}, {11 * time.Minute, "aside", "2.2.0.1 3.3.0.1"}, {11 * time.Minute, "in", "2.2.0.1"}, {0, "in", "4.4.0.1"}}, Unknown},
		{"other ports do not contradict AutoNAT", []step{{0, "refute", ""}, {0, "aside", "1.1.0.1 3.3.0.1"}, {0, "aside", "2.2.0.1 3.3.0.1"}}, Unknown},
		{"another port keeps the proof", with(step{23 * time.Hour, "aside", "1.1.0.1 3.3.0.1"}, step{23 * time.Hour, "wait", ""}), Proven},
		{"two days later", with(step{25 * time.Hour, "wait", ""}), Unknown},
		{"another stranger keeps the proof", with(step{23 * time.Hour, "in", "3.3.0.1"}, step{23 * time.Hour, "wait", ""}), Proven},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, now := New(false), begin
			for _, s := range c.steps {
				now = now.Add(s.after)
				switch s.what {
				case "in":
					m.CameIn(netip.MustParseAddr(s.where), now)
				case "aside":
					from, sent, _ := strings.Cut(s.where, " ")
					m.CameAside(netip.MustParseAddr(from), netip.MustParseAddr(sent), now)
				case "sent":
					m.Sent(netip.MustParseAddr(s.where), now)
				case "seen":
					m.SeenAt(netip.MustParseAddr(s.where))
				case "claim", "unclaim":
					m.Set(Claim(s.where), s.what == "claim")
				case "refute":
					m.Refute()
				case "moved":
					m.Moved()
				}
			}
			if got := m.State(now); got.Verdict != c.want || (got.Verdict == Proven) == got.Until.IsZero() {
				t.Errorf("%+v; want %s", got, c.want)
			}
		})
	}
}

func TestVouched(t *testing.T) {
	m := New(true)
	m.Refute()
	m.Moved()
	if s := m.State(begin); s.Verdict != Proven || len(s.Claims) != 1 || s.Claims[0] != ByUser {
		t.Errorf("%+v", s)
	}
}

// Whoever fills the memory does not turn an old acquaintance into a stranger.
func TestCrowded(t *testing.T) {
	m := New(false)
	friends := []netip.Addr{netip.MustParseAddr("1.1.0.1"), netip.MustParseAddr("2.2.0.1")}
	for _, f := range friends {
		m.Sent(f, begin)
	}
	for i := range maxKnown + 10 {
		m.Sent(netip.AddrFrom4([4]byte{9, byte(i >> 16), byte(i >> 8), byte(i)}), begin)
	}
	if len(m.known) > maxKnown {
		t.Errorf("%d addresses are remembered", len(m.known))
	}
	for _, f := range friends {
		m.CameIn(f, begin.Add(time.Minute))
	}
	if s := m.State(begin.Add(time.Minute)); s.Verdict == Proven {
		t.Errorf("%+v", s)
	}
	m.CameIn(netip.MustParseAddr("2001:db9::1"), begin)
	m.CameIn(netip.MustParseAddr("2a00:1::1"), begin)
	if s := m.State(begin); !s.IPv6 {
		t.Errorf("IPv4 addresses kept IPv6 from being proven: %+v", s)
	}
}

func TestObservers(t *testing.T) {
	type sight struct{ by, outside string }
	for _, c := range []struct {
		name   string
		sights []sight
		want   Mapping
		moved  int // of the sights
	}{
		{"nobody", nil, MappingUnknown, 0},
		{"one", []sight{{"1.1.0.1", "6.0.0.1:4001"}}, MappingUnknown, 0},
		{"two of one network", []sight{{"1.1.0.1", "6.0.0.1:4001"}, {"1.1.0.2", "6.0.0.1:4002"}}, MappingUnknown, 0},
		{"two that agree", []sight{{"1.1.0.1", "6.0.0.1:4001"}, {"2.2.0.1", "6.0.0.1:4001"}}, MappingSame, 0},
		{"two that do not", []sight{{"1.1.0.1", "6.0.0.1:4001"}, {"2.2.0.1", "6.0.0.1:4002"}}, MappingPerPeer, 0},
		{"no NAT", []sight{{"1.1.0.1", "7.7.7.7:4001"}}, MappingNone, 0},
		{"private observers", []sight{{"10.0.0.1", "6.0.0.1:4001"}, {"192.168.0.1", "6.0.0.1:4002"}}, MappingUnknown, 0},
		{"private addresses", []sight{{"1.1.0.1", "10.0.0.1:4001"}, {"2.2.0.1", "10.0.0.1:4001"}}, MappingUnknown, 0},
		{"the only one sees a move", []sight{{"1.1.0.1", "6.0.0.1:4001"}, {"1.1.0.1", "6.9.0.1:4001"}}, MappingUnknown, 1},
		{"one of two sees a move", []sight{{"1.1.0.1", "6.0.0.1:4001"}, {"2.2.0.1", "6.0.0.1:4001"}, {"1.1.0.1", "6.9.0.1:4001"}}, MappingPerPeer, 0},
		{"two of two do", []sight{{"1.1.0.1", "6.0.0.1:4001"}, {"2.2.0.1", "6.0.0.1:4001"}, {"1.1.0.1", "6.9.0.1:4001"}, {"2.2.0.1", "6.9.0.1:4001"}}, MappingUnknown, 1},
	} {
		var o Observers
		moved := 0
		for _, s := range c.sights {
			if o.Note(netip.MustParseAddr(s.by), netip.MustParseAddrPort(s.outside), true, begin) {
				moved++
			}
		}
		got := o.Of(UDP4, func(ip netip.Addr) bool { return ip == netip.MustParseAddr("7.7.7.7") }, begin)
		if got.Mapping != c.want || moved != c.moved {
			t.Errorf("%s: %+v, %d moves; want %s and %d", c.name, got, moved, c.want, c.moved)
		}
	}
	var o Observers
	for i := range 3 * maxSights {
		o.Note(netip.MustParseAddr(fmt.Sprintf("%d.1.0.1", i+20)), netip.MustParseAddrPort("6.0.0.1:4001"), true, begin.Add(time.Duration(i)))
	}
	if got := o.Of(UDP4, func(netip.Addr) bool { return false }, begin); got.Observers != maxSights {
		t.Errorf("%d observers", got.Observers)
	}
	if got := o.Of(UDP4, func(netip.Addr) bool { return false }, begin.Add(2*sightLife)); got.Observers != 0 {
		t.Errorf("%d observers of long ago", got.Observers)
	}
}

func TestRetries(t *testing.T) {
	var r Retries
	at := func(d time.Duration) time.Time { return begin.Add(d) }
	for _, c := range []struct {
		name string
		got  bool
		want bool
	}{
		{"first use", r.Use("a", at(0)), true},
		{"at once again", r.Use("a", at(time.Second)), false},
		{"after the first wait", r.Use("a", at(firstWait)), true},
		{"the wait has grown", r.Use("a", at(2*firstWait)), false},
		{"another peer", r.Use("b", at(time.Second)), true},
		{"a tick too early", r.Tick("a", at(firstWait+RetryEvery-1)), false},
		{"a tick", r.Tick("a", at(firstWait+RetryEvery)), true},
	} {
		if c.got != c.want {
			t.Errorf("%s: %v", c.name, c.got)
		}
	}
	r.Moved()
	if !r.Use("a", at(firstWait+RetryEvery)) {
		t.Error("a move has not ended the wait")
	}
	for range 20 { // both sides have just met
		r.Tried("c", at(0))
	}
	if r.Use("c", at(firstWait-1)) || !r.Use("c", at(firstWait)) {
		t.Error("after tries that began by themselves, the first wait is another")
	}
	now := time.Duration(0)
	r.Tried("d", at(now))
	for i := range 2 * idleDoubles { // an idle peer
		wait := RetryEvery << min(i, idleDoubles)
		if r.Tick("d", at(now+wait-1)) || !r.Tick("d", at(now+wait)) {
			t.Errorf("try %d of an idle peer does not come after %v", i, wait)
		}
		now += wait
	}
	if !r.Use("d", at(now+RetryEvery)) || !r.Tick("d", at(now+2*RetryEvery)) {
		t.Error("a peer in use waits as an idle one")
	}
	last := 2 * RetryEvery
	for range 20 {
		last += RetryEvery
		if !r.Use("a", at(last)) {
			t.Error("waits grow beyond RetryEvery")
		}
	}
}
