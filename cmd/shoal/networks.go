package main

import (
	"fmt"
	"strings"

	"github.com/shoalnet/shoal/node/api"
)

// networksText says who may use a node, by the networks that it is in.
func networksText(list []api.Network, light bool) string {
	var private, bridges []string
	open := false
	for _, n := range list {
		switch {
		case n.Bridge == "lends":
			bridges = append(bridges, fmt.Sprintf("lends to swarm %q over a bridge", cell(n.Name)))
			continue
		case n.Bridge != "":
			bridges = append(bridges, fmt.Sprintf("uses swarm %q over a bridge", cell(n.Name)))
			continue
		case n.Swarm == "":
			open = true
			continue
		}
		name, members := cell(n.Name), count(max(n.Members, n.Peers+1), "member")
		if n.Founder {
			private = append(private, fmt.Sprintf("your own machines and those you let in (swarm %s, %s)", name, members))
		} else {
			private = append(private, fmt.Sprintf("those in swarm %s (%s)", name, members))
		}
	}
	members, strangers := strings.Join(private, " and "), "open: strangers may use this machine, and it uses theirs"
	if light {
		strangers = "open: strangers compute the answers"
	}
	more := ""
	if len(bridges) > 0 {
		more = "; " + strings.Join(bridges, "; ")
	}
	switch {
	case open && len(private) > 0:
		return strangers + "; beside them " + members + more
	case open:
		return strangers + more
	case len(private) > 0:
		return "only " + members + more
	}
	return "this machine alone: nobody else can connect"
}
