package lending

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/lend/policy"
	"github.com/shoalnet/shoal/node/stage"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/member"
)

const (
	lab = "00112233445566778899aabbccddeeff"

	me       = peer.ID("me")
	friend   = peer.ID("friend")
	server   = peer.ID("server")   // of the swarm
	fellow   = peer.ID("fellow")   // of the swarm, too
	guest    = peer.ID("guest")    // of another, in the swarm
	stranger = peer.ID("stranger") // and other below are of one group of addresses
	other    = peer.ID("other")
)

// around is whom this node knows.
type around struct{}

func (around) Own(p peer.ID) bool { return p == me }

func (around) Group(p peer.ID) string {
	if p == stranger || p == other {
		return "192.0.2.0/24"
	}
	return p.String()
}

func (around) Vouched(swarm string, p peer.ID) (string, member.Roles) {
	roles := map[peer.ID]member.Roles{server: member.Use | member.Serve, fellow: member.Use, guest: member.Use}
	if swarm != lab {
		return "", 0
	}
	return "lab", roles[p]
}

var big = protocol.ModelKey(cid.Undef)

// clock is the time at a desk.
type clock struct{ now time.Time }

// deskOf is a desk with these rules, at noon.
func deskOf(t testing.TB, lend ...string) (*Desk, *clock) {
	t.Helper()
	at := &clock{time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)}
	d := New(Config{
		Network: around{}, Trusted: func(p peer.ID) bool { return p == friend || p == me },
		Names: func(m cid.Cid) []string {
			if m == big {
				return []string{"big:8b"}
			}
			return nil
		},
		Guest: func(swarm string, p peer.ID) *policy.Guest {
			if p == guest {
				return &policy.Guest{Swarm: "anna", SwarmID: "ff"}
			}
			return nil
		},
		Now: func() time.Time { return at.now },
	}, Rules{})
	set(t, d, lend, nil)
	return d, at
}

func set(t testing.TB, d *Desk, lend, use []string) {
	t.Helper()
	p, err := policy.Parse(lend)
	if err != nil {
		t.Fatal(err)
	}
	u, err := policy.ParseUse(use)
	if err != nil {
		t.Fatal(err)
	}
	d.Set(Rules{p, u})
}

func in(p peer.ID) stage.Client {
	if p == server || p == fellow || p == guest {
		return stage.Client{Peer: p, Swarm: lab}
	}
	return stage.Client{Peer: p}
}

func want(tokens int) stage.Want {
	return stage.Want{Model: big, Span: protocol.Span{From: 0, To: 4}, Tokens: tokens}
}

// What each peer gets is what the rule about it says, and one that is refused is told
// what it cannot have, and when to come again, but not the rule.
func TestGrant(t *testing.T) {
	for i, c := range []struct {
		rules string // separated by |
		who   peer.ID
		class string // of the grant; "": refused
		share float64
		says  string // to who is refused
		after time.Duration
	}{
		{"anybody: nothing", me, "", 1, "", 0},
		{"anybody: nothing|swarm lab role serve: share 80%", server, "swarm lab role serve: share 80%", 0.8, "", 0},
		{"anybody: nothing|swarm lab role serve: share 80%", fellow, "", 0, "nothing", 0},
		{"anybody: nothing|swarm lab role serve: share 80%", guest, "", 0, "nothing", 0},
		{"guests of anna: share 5%", guest, "guests of anna: share 5%", 0.05, "", 0},
		{"", stranger, "strangers: share 20%", 0.2, "", 0},
		{"", friend, "trusted: share 100%", 1, "", 0},
		{"strangers: models small*", stranger, "", 0, "this model", 0},
		{"strangers: models big:*", stranger, "strangers: models big:*", 1, "", 0},
		{"strangers: hours 22:00-07:00", stranger, "", 0, "10h0m", 10 * time.Hour},
		{"strangers: context 100", stranger, "", 0, "at most 100 tokens of context", 0},
		{"strangers: context 200", stranger, "strangers: context 200", 1, "", 0},
	} {
		d, _ := deskOf(t, strings.Split(c.rules, "|")...)
		g, e := d.Grant(in(c.who), want(200))
		switch {
		case c.class == "" && c.who != me:
			if e == nil || !strings.Contains(e.Message, c.says) || e.RetryAfter != c.after || e.Code != protocol.Code_CODE_FORBIDDEN || strings.Contains(e.Message, "22:00") {
				t.Errorf("case %d: refused with %+v", i, e)
			}
		case e != nil || g.Class != c.class || g.Share != c.share || g.Own != (c.who == me):
			t.Errorf("case %d: %+v, %v", i, g, e)
		}
		if d.May(in(c.who).Swarm, c.who, big) != (e == nil || strings.Contains(e.Message, "context")) {
			t.Errorf("case %d: what the exchange may send is not what a stage may", i)
		}
	}
}

// Sessions count once for all stages of a route, one opened twice under one ID counts
// twice, and keys of one group of strangers' addresses count together.
func TestSessions(t *testing.T) {
	d, _ := deskOf(t, "strangers: sessions 2", "members: sessions 1")
	id := func(n byte) (s [16]byte) { s[0] = n; return s }
	sit := func(p peer.ID, session byte, from int) (stage.Seat, bool) {
		w := want(10)
		w.Span = protocol.Span{From: from, To: from + 1}
		s, _, e := d.Seat(in(p), w, id(session))
		if e != nil && (e.Code != protocol.Code_CODE_BUSY || e.RetryAfter == 0 || !strings.Contains(e.Message, "at once")) {
			t.Errorf("refused with %+v", e)
		}
		return s, e == nil
	}
	a0, ok := sit(stranger, 1, 0)
	a1, ok1 := sit(stranger, 1, 1)
	if !ok || !ok1 {
		t.Error("two stages of one session")
	}
	twice, ok := sit(stranger, 1, 0)
	if !ok {
		t.Error("a second session under the ID of the first")
	}
	if _, ok := sit(other, 2, 0); ok {
		t.Error("a third, by another key of the same addresses")
	}
	twice.Leave()
	twice.Leave()
	b, ok := sit(other, 2, 0)
	if !ok {
		t.Error("another after the second has ended")
	}
	for _, s := range []stage.Seat{a0, a1, b} {
		s.Leave()
	}
	if _, ok := sit(fellow, 1, 0); !ok {
		t.Error("a member's first")
	}
	if _, ok := sit(fellow, 2, 0); ok {
		t.Error("a member's second")
	}
	for n := range byte(5) {
		if _, ok := sit(me, n, 0); !ok {
			t.Error("one's own")
		}
	}
	if len(d.accounts) != 1 {
		t.Errorf("%d accounts, where one has a session", len(d.accounts))
	}
}

// Tokens are counted per period, in every period at once, so that a changed rule knows
// what was used before it. Who has used them up is told when to come again.
func TestTokens(t *testing.T) {
	d, at := deskOf(t, "strangers: tokens 100/minute")
	sit := func(n byte) (stage.Seat, *protocol.Error) {
		s, _, e := d.Seat(in(stranger), want(10), [16]byte{n})
		return s, e
	}
	first, _ := sit(1)
	second, _ := sit(1) // another stage of it
	if e := first.Spend(60); e != nil {
		t.Error(e)
	}
	if e := second.Spend(60); e != nil {
		t.Error("a session is counted twice: ", e)
	}
	at.now = at.now.Add(20 * time.Second)
	if e := first.Spend(40); e == nil || e.RetryAfter != 40*time.Second || !strings.Contains(e.Message, "100 tokens per minute; ask again in 40s") {
		t.Errorf("at the hundredth: %+v", e)
	}
	if _, e := sit(2); e == nil || e.RetryAfter != 40*time.Second {
		t.Errorf("another session: %+v", e)
	}
	at.now = at.now.Add(41 * time.Second)
	third, e := sit(3)
	if e != nil {
		t.Error("in the next minute: ", e)
	}
	set(t, d, []string{"strangers: tokens 150/hour"}, nil)
	if e := third.Spend(49); e != nil {
		t.Errorf("149 in the hour: %v", e)
	}
	if e := third.Spend(1); e == nil || e.RetryAfter < 58*time.Minute {
		t.Errorf("150 in the hour: %+v", e)
	}
	first.Leave()
	if e := second.Spend(7); e == nil || !second.(*seat).counts {
		t.Error("no stage of a session counts after the first has ended: ", e)
	}
	second.Leave()
	third.Leave()
	at.now = at.now.Add(25 * time.Hour)
	if s, e := sit(4); e != nil {
		t.Error("on the next day: ", e)
	} else if s.Leave(); len(d.accounts) != 0 {
		t.Errorf("%d accounts of which nothing is left", len(d.accounts))
	}
}

// Keys are free, and accounts are not kept without bound.
func TestAccountsBounded(t *testing.T) {
	d, at := deskOf(t, "members: tokens 100/day")
	d.most = 320
	for i := range d.most + 100 {
		at.now = at.now.Add(time.Millisecond)
		s, _, e := d.Seat(stage.Client{Peer: peer.ID(fmt.Sprint("p", i)), Swarm: lab}, want(10), [16]byte{})
		if e != nil {
			t.Fatal(e)
		}
		if e := s.Spend(1); e != nil {
			t.Fatal(e)
		}
		s.Leave()
	}
	if n := len(d.accounts); n > d.most || n < d.most/2 {
		t.Errorf("%d accounts", n)
	}
}

func TestUse(t *testing.T) {
	d, _ := deskOf(t)
	for _, c := range []struct {
		use   string
		model string
		goes  []peer.ID // besides this node; nil: to anybody
		rule  string
	}{
		{"", "big:8b", nil, ""},
		{"anybody", "big:8b", nil, "anybody"},
		{"swarm", "big:8b", []peer.ID{friend, server, fellow}, "swarm"},
		{"mine", "big:8b", []peer.ID{friend}, "mine"},
		{"big*: mine|swarm", "small", []peer.ID{friend, server, fellow}, "swarm"},
		{"big*: mine|swarm", "big:8b", []peer.ID{friend}, "big*: mine"},
	} {
		set(t, d, nil, strings.Split(c.use, "|"))
		may, whom, rule := d.Use([]string{c.model})
		if rule != c.rule || (may == nil) != (c.goes == nil) || (may == nil) != (whom == "") {
			t.Errorf("%q: %q for %q", c.use, rule, whom)
		}
		if may == nil {
			continue
		}
		allowed := map[peer.ID]bool{me: true}
		for _, p := range c.goes {
			allowed[p] = true
		}
		for _, p := range []peer.ID{me, friend, server, fellow, guest, stranger} {
			if may(in(p).Swarm, p) != allowed[p] {
				t.Errorf("%q, %s: %v", c.use, p, !allowed[p])
			}
		}
	}
}

// homes is a home in a swarm.
type homes struct{ self, ann string }

func (h homes) Swarms() []api.Swarm { return []api.Swarm{{ID: lab, Name: "Lab"}} }

func (h homes) Members(string) ([]api.Member, error) {
	return []api.Member{
		{Peer: h.self, Name: "desk", Roles: []string{"use", "serve"}, Self: true},
		{Peer: h.ann, Name: "attic", Roles: []string{"use", "serve"}},
		{Peer: "12D3KooWHLc8D9jpc9r2BzHgaDJiLPBEYaygPh5Aqj1Bppd5B4zb", Name: "gone", Roles: []string{"use"}, Revoked: true},
	}, nil
}

// Whoever an owner names is found, and the rule that decides about them.
func TestTestPolicy(t *testing.T) {
	const ann = "12D3KooWHHzSeKaY8xuZVzkLbKFfvNgPPeKhFBGrMbNzbm5akpqu"
	self := peer.ID(strings.Repeat("m", 38)).String()
	d, _ := deskOf(t, "strangers: models small*; sessions 2", "swarm lab role serve: share 50%", "swarm lab: nothing", "guests of anna: share 5%")
	set(t, d, []string{"strangers: models small*; sessions 2", "swarm lab role serve: share 50%", "swarm lab: nothing", "guests of anna: share 5%"}, []string{"swarm"})
	o := Owner{Desk: d, Known: homes{self, ann}, Find: func(string) []string { return nil }}
	for _, c := range []struct {
		as, model string
		allowed   bool
		rule      string
		use       bool
	}{
		{"strangers", "", true, "strangers", false},
		{"Strangers", "big", false, "strangers", false},
		{"strangers", "small:1b", true, "strangers", false},
		{"trusted", "", true, "trusted: share 100%", true},
		{"members", "", true, "members: share 100%", true},
		{"guests", "", true, "guests: share 20%", false},
		{"guests of anna", "", true, "guests of anna", false},
		{"lab", "", false, "swarm lab: nothing", true},
		{"LAB/serve", "", true, "swarm lab role serve", true},
		{"attic", "", true, "swarm lab role serve", true},
		{ann, "", true, "swarm lab role serve", true},
		{ann[len(ann)-8:], "", true, "swarm lab role serve", true},
		{"desk", "", true, "", true},
		{"12D3KooWKRyzVWW6ChFjQjK4miCty85Niy48tpPV95XdKu1BcvMA", "", true, "strangers", false},
	} {
		v, err := o.TestPolicy(t.Context(), api.PolicyTest{As: c.as, Model: c.model})
		if err != nil {
			t.Errorf("%q: %v", c.as, err)
			continue
		}
		rule := ""
		if v.Rule != nil {
			rule = v.Rule.Text
		}
		if v.Allowed != c.allowed || !strings.HasPrefix(rule, c.rule) || (rule == "") != (c.rule == "") || v.Use.Allowed != c.use || v.Why == "" || v.Use.Rule != "swarm" {
			t.Errorf("%q, %q: %+v by %q", c.as, c.model, v, rule)
		}
	}
	for _, as := range []string{"", "nobody", "lab/king", "gone", "12D3KooW"} {
		if _, err := o.TestPolicy(t.Context(), api.PolicyTest{As: as}); err == nil {
			t.Errorf("%q is somebody", as)
		}
	}
	night := time.Date(2026, 11, 30, 23, 0, 0, 0, time.Local)
	set(t, d, []string{"strangers: hours 22:00-07:00"}, nil)
	if v, err := o.TestPolicy(t.Context(), api.PolicyTest{As: "strangers", At: &night}); err != nil || !v.Allowed {
		t.Errorf("at night: %+v, %v", v, err)
	}
	p, err := o.Policy(t.Context())
	if err != nil || len(p.Lend) != 1+len(policy.Defaults) || p.Lend[0].Hours != "22:00-07:00" || p.Lend[0].Default || !p.Lend[1].Default {
		t.Errorf("%+v, %v", p, err)
	}
}
