package route

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/shoalnet/shoal/protocol"
)

func (c Candidate) worked(done int) Candidate { c.Done = done; return c }

func (c Candidate) trust(t Trust) Candidate { c.Trust = t; return c }

func (c Candidate) but(change func(*Candidate)) Candidate { change(&c); return c }

// liar claims what no machine can do.
func liar(peer string, from, to int) Candidate {
	c := cand(peer, from, to, time.Microsecond)
	c.KVFree, c.MaxContext, c.Kept = 1<<30, 1<<30, 1<<30
	return c
}

func TestChoose(t *testing.T) {
	near := distances{}
	first := func(int) int { return 0 }
	full := func(c *Candidate) { c.KVFree = 10 }
	for name, c := range map[string]struct {
		cands []Candidate
		turn  func(int) int
		wait  bool
		want  string
	}{
		"own, though slow, and no liar":          {[]Candidate{cand("own", 0, 30, 9*ms).trust(Own), liar("liar", 0, 30)}, first, true, "own:0-30"},
		"trusted, and no liar":                   {[]Candidate{cand("t", 0, 30, 9*ms).trust(Trusted), liar("liar", 0, 30)}, first, true, "t:0-30"},
		"own before trusted":                     {[]Candidate{cand("own", 0, 30, 9*ms).trust(Own), cand("t", 0, 30, ms).trust(Trusted)}, nil, true, "own:0-30"},
		"own and trusted together":               {[]Candidate{cand("own", 0, 10, 9*ms).trust(Own), cand("t", 10, 30, 9*ms).trust(Trusted), liar("liar", 0, 30)}, first, true, "own:0-10 t:10-30"},
		"own is full, trusted is not":            {[]Candidate{cand("own", 0, 30, ms).trust(Own).but(full), cand("t", 0, 30, ms).trust(Trusted), liar("liar", 0, 30)}, nil, true, "t:0-30"},
		"own is full: waits":                     {[]Candidate{cand("own", 0, 30, ms).trust(Own).but(full), cand("k", 0, 30, ms).worked(9)}, nil, true, ErrOwnFull.Error()},
		"own is full, and no more waiting":       {[]Candidate{cand("own", 0, 30, ms).trust(Own).but(full), cand("k", 0, 30, ms).worked(9), liar("liar", 0, 30)}, nil, false, "k:0-30"},
		"own is too small: no use to wait":       {[]Candidate{cand("own", 0, 30, ms).trust(Own).but(func(c *Candidate) { c.KVFree, c.MaxContext = 10, 10 }), cand("k", 0, 30, ms).worked(9)}, nil, true, "k:0-30"},
		"a part is full: no use to wait":         {[]Candidate{cand("own", 0, 10, ms).trust(Own).but(full), cand("k", 0, 30, ms).worked(9)}, nil, true, "k:0-30"},
		"own is not proven":                      {[]Candidate{cand("own", 0, 30, ms).trust(Own).but(func(c *Candidate) { c.Unproven = true }), cand("k", 0, 30, ms).worked(9)}, nil, true, "k:0-30"},
		"own blocks, and strangers for the rest": {[]Candidate{cand("own", 0, 10, ms*3/2).trust(Own), cand("a", 0, 10, ms).worked(9), cand("b", 10, 30, ms).worked(9)}, nil, true, "own:0-10 b:10-30"},
		"strangers that are thrice as fast":      {[]Candidate{cand("own", 0, 10, 3*ms).trust(Own), cand("a", 0, 10, ms).worked(9), cand("b", 10, 30, ms).worked(9)}, nil, true, "a:0-10 b:10-30"},
		"known, and no liar":                     {[]Candidate{cand("k", 0, 30, 9*ms).worked(1), liar("liar", 0, 30)}, nil, true, "k:0-30"},
		"a newcomer in its turn":                 {[]Candidate{cand("k", 0, 30, 9*ms).worked(1), liar("liar", 0, 30)}, first, true, "liar:0-30 explores"},
		"a slow newcomer in its turn":            {[]Candidate{cand("k", 0, 30, ms).worked(1), cand("slow", 0, 30, 9*ms)}, first, true, "k:0-30"},
		"a liar with one session for nine":       {[]Candidate{cand("k", 0, 30, 9*ms).worked(9), liar("liar", 0, 30).worked(1)}, nil, true, "k:0-30"},
		"who does its share is known":            {[]Candidate{cand("k", 0, 30, 9*ms).worked(8), cand("l", 0, 30, ms).worked(2)}, nil, true, "l:0-30"},
		"who has long been here is known":        {[]Candidate{cand("k", 0, 30, 9*ms).worked(9999), cand("l", 0, 30, ms).worked(20).but(func(c *Candidate) { c.Age = 25 * time.Hour })}, nil, true, "l:0-30"},
		"one newcomer, where there must be":      {[]Candidate{cand("k", 0, 10, ms).worked(1), cand("l", 10, 30, ms).worked(1).but(full), cand("n", 10, 30, ms), cand("o", 0, 10, ms/2), liar("liar", 0, 10)}, nil, true, "k:0-10 n:10-30"},
		"newcomers only":                         {[]Candidate{cand("a", 0, 10, ms), cand("b", 10, 30, ms)}, nil, true, "a:0-10 b:10-30"},
		"of two newcomers no word counts":        {[]Candidate{cand("a", 0, 30, ms), liar("b", 0, 30)}, nil, true, "a:0-30"},
		"a liar that was found out":              {[]Candidate{cand("k", 0, 30, 9*ms).worked(1), liar("liar", 0, 30).worked(1).but(func(c *Candidate) { c.Shunned = true })}, first, true, "k:0-30"},
		"nobody but a liar":                      {[]Candidate{liar("liar", 0, 30).but(func(c *Candidate) { c.Shunned = true })}, nil, true, "liar:0-30"},
		"marks cost":                             {[]Candidate{cand("a", 0, 30, ms).worked(9).but(func(c *Candidate) { c.Marks = 1 }), cand("b", 0, 30, ms*3/2).worked(9)}, nil, true, "b:0-30"},
		"what was seen counts":                   {[]Candidate{cand("a", 0, 30, ms/9).worked(9).but(func(c *Candidate) { c.SeenDecode = 18 }), cand("b", 0, 30, ms).worked(9)}, nil, true, "b:0-30"},
	} {
		req := Request{Client: "own", Blocks: 30, Prompt: 100, MaxTokens: 100, Wait: c.wait}
		r, err := Choose(req, Price(c.cands), near, c.turn)
		got := fmt.Sprint(err)
		if err == nil {
			if got = hops(r); r.Explores {
				got += " explores"
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

// With one honest server that is known a client sends at most one prompt in ten
// to newcomers, however many they are; and of those that did what they were asked
// for, none comes to more.
func TestNewcomersShare(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	cands := []Candidate{cand("honest", 0, 30, 5*ms).worked(1)}
	for i := range 5 {
		cands = append(cands, liar(fmt.Sprint("liar", i), 0, 30))
	}
	since, strangers := 0, 0
	for n := 1; n <= 2000; n++ {
		var turn func(int) int
		if since >= 9 {
			turn = rng.IntN
		}
		r, err := Choose(Request{Blocks: 30, Prompt: 10, MaxTokens: 10}, Price(cands), distances{}, turn)
		if err != nil {
			t.Fatal(err)
		}
		since++
		if r.Hops[0].Peer != "honest" {
			strangers, since = strangers+1, 0
		}
		cands[slices.IndexFunc(cands, func(c Candidate) bool { return c.Peer == r.Hops[0].Peer })].Done++
		if 10*strangers > n {
			t.Fatalf("%d of the first %d prompts", strangers, n)
		}
	}
	if strangers != 200 {
		t.Errorf("newcomers were given %d of 2000 prompts", strangers)
	}
}

// A stage that is replaced is replaced by one of its class, unless that costs trust, or
// there is none.
func TestLike(t *testing.T) {
	class := func(c Candidate, s string) Candidate { c.Class = s; return c.worked(9) }
	like := []Like{{protocol.Span{From: 0, To: 10}, "x"}, {protocol.Span{From: 10, To: 20}, ""}, {protocol.Span{From: 20, To: 30}, "y"}}
	for name, c := range map[string]struct {
		cands []Candidate
		want  string
	}{
		"the same, though slower":           {[]Candidate{class(cand("a", 0, 30, ms), "z"), class(cand("x", 0, 20, 9*ms), "x"), class(cand("y", 20, 30, 9*ms), "y")}, "x:0-20 y:20-30"},
		"one stage cannot be both":          {[]Candidate{class(cand("x", 0, 30, ms), "x"), class(cand("x2", 0, 10, 9*ms), "x"), class(cand("y", 10, 30, 9*ms), "y")}, "x2:0-10 y:10-30"},
		"another rather than none":          {[]Candidate{class(cand("a", 0, 20, ms), "z"), class(cand("y", 20, 30, ms), "y")}, "a:0-20 y:20-30"},
		"an older node's is not known":      {[]Candidate{class(cand("old", 0, 30, ms), ""), class(cand("x", 0, 20, 9*ms), "x"), class(cand("y", 20, 30, 9*ms), "y")}, "x:0-20 y:20-30"},
		"of unknown blocks any":             {[]Candidate{class(cand("x", 0, 10, ms), "x"), class(cand("m", 10, 20, ms), "m"), class(cand("y", 20, 30, ms), "y")}, "x:0-10 m:10-20 y:20-30"},
		"own before a stranger of the same": {[]Candidate{class(cand("own", 0, 30, 9*ms), "z").trust(Own), class(cand("x", 0, 20, ms), "x"), class(cand("y", 20, 30, ms), "y")}, "own:0-30"},
		"none that is shunned":              {[]Candidate{class(cand("a", 0, 20, 9*ms), "z"), class(cand("x", 0, 20, ms), "x").but(func(c *Candidate) { c.Shunned = true }), class(cand("y", 20, 30, ms), "y")}, "a:0-20 y:20-30"},
	} {
		r, err := Choose(Request{Client: "own", Blocks: 30, Prompt: 10, MaxTokens: 10, Like: like}, Price(c.cands), distances{}, nil)
		if err != nil || hops(r) != c.want {
			t.Errorf("%s: %v, %v; want %s", name, r, err, c.want)
		}
	}
}

func TestShortlist(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	var list []Candidate
	for i := range 300 {
		list = append(list, liar(fmt.Sprint("liar", i), 0, 10))
	}
	keep := []Candidate{cand("own", 0, 10, ms).trust(Own), cand("t", 0, 10, ms).trust(Trusted), cand("k", 0, 10, ms).worked(3), cand("rest", 10, 30, 9*ms)}
	list = append(list, keep...)
	peers := map[string]bool{}
	for range 50 {
		got := Shortlist(list, protocol.Span{From: 0, To: 30}, 16, 4, rng.IntN)
		if len(got) > 21 {
			t.Fatalf("%d of %d are asked", len(got), len(list))
		}
		for _, k := range keep {
			if !slices.ContainsFunc(got, func(c Candidate) bool { return c.Peer == k.Peer }) {
				t.Fatalf("%s is not asked", k.Peer)
			}
		}
		for _, c := range got {
			peers[c.Peer] = true
		}
	}
	if len(peers) < 150 {
		t.Errorf("it is always the same: %d of 300 newcomers in 50 times", len(peers))
	}
	if got := Shortlist(keep, protocol.Span{From: 0, To: 30}, 16, 4, rng.IntN); len(got) != len(keep) {
		t.Errorf("%d of %d are asked", len(got), len(keep))
	}
}

// A liar is not chosen for having kept what it has never seen, and the error says
// what is wrong whatever was tried.
func TestChooseErrors(t *testing.T) {
	req := Request{Blocks: 30, Prompt: 100, MaxTokens: 100}
	priced := Price([]Candidate{liar("liar", 0, 30)})
	if !priced[0].New || priced[0].Kept != 0 {
		t.Errorf("%+v", priced[0])
	}
	if _, err := Choose(req, Price([]Candidate{cand("k", 0, 10, ms).worked(3)}), distances{}, nil); !errors.Is(err, ErrNoServer) {
		t.Error(err)
	}
	if !errors.Is(ErrOwnFull, ErrNoRoom) {
		t.Error("callers would not see that there is no room")
	}
}
