package main

import (
	"fmt"
	"strings"

	"github.com/shoalnet/shoal/node/api"
)

// networksText says which networks a node is in, and so who may use it.
func networksText(list []api.Network, light bool) string {
	var swarms, bridges []string
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
		swarms = append(swarms, fmt.Sprintf("%q (%s)", cell(n.Name), machines(n.Peers+1)))
	}
	in := "in the private swarm " + strings.Join(swarms, " and in ")
	more := ""
	if len(bridges) > 0 {
		more = "; " + strings.Join(bridges, "; ")
	}
	switch {
	case len(swarms) > 0 && open:
		return in + ", and open to strangers" + more
	case len(swarms) > 0:
		return in + "; not open to strangers" + more
	case light:
		return "in the open network: strangers compute the answers"
	}
	return "in the open network: strangers may use this node, and it uses theirs"
}

// machines counts the machines of a swarm that are there, this one included.
func machines(n int) string {
	if n == 1 {
		return "this machine alone"
	}
	return count(n, "machine") + " connected"
}
