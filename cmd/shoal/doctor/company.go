package doctor

import (
	"fmt"
	"strings"
)

// access says who may use the node.
func access(f *Facts) (out []Finding) {
	for _, why := range f.Broken {
		out = append(out, bad("", "%s", why)...)
	}
	who := "who may use this node"
	if !f.Daemon.Answers {
		who += ", from its next start on"
	}
	switch {
	case f.Who == "":
		return out
	case f.Kept:
		return warn(f.shoal("config set", "open", "true"), "%s: %s; nobody has chosen that, since it is from before homes had a swarm of their own: the line below keeps it so, and false in place of true ends it", who, f.Who)
	}
	return append(out, ok("%s: %s", who, f.Who)...)
}

// private reports whether the node is known not to be in the open network.
func (f *Facts) private() bool {
	return f.Status != nil && f.Status.Networks != nil && !f.Status.Open
}

// open is what has another node be in the open network if this one is.
func (f *Facts) open() []string {
	if f.Status != nil && f.Status.Open {
		return []string{"--open"}
	}
	return nil
}

// through is the line that starts the node with the address of a peer.
func (f *Facts) through(address string) string {
	return f.shoal("node", append(f.open(), "--bootstrap", address)...)
}

// noFellows says what it means that no member is connected to a node which is not open.
func noFellows(f *Facts) []Finding {
	var names []string
	others := 0
	for _, n := range f.Status.Networks {
		names = append(names, n.Name)
		others += max(0, n.Members-1)
	}
	in := strings.Join(names, " and ")
	switch {
	case len(names) == 0:
		return ok("none, since this home is in no network yet")
	case others == 0:
		return ok("none: no other machine is in swarm %s; `%s` prints a code that lets one in", in, f.shoal("invite"))
	}
	return warn(f.shoal("swarm members"), "none: %s known in swarm %s, and none of them is connected: their nodes must be running, and reachable from here", known(others), in)
}

// known counts the other members.
func known(n int) string {
	if n == 1 {
		return "1 other member is"
	}
	return fmt.Sprintf("%d other members are", n)
}
