package main

import (
	"fmt"
	"strings"

	"github.com/shoalnet/shoal/node/api"
)

// networksText says who may use a node, by the networks that it is in.
func networksText(list []api.Network, light bool) string {
	var private []string
	open := false
	for _, n := range list {
		if n.Swarm == "" {
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
	switch {
	case open && len(private) > 0:
		return strangers + "; beside them " + members
	case open:
		return strangers
	case len(private) > 0:
		return "only " + members
	}
	return "this machine alone: nobody else can connect"
}
