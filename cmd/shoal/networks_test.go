package main

import (
	"testing"

	"github.com/shoalnet/shoal/node/api"
)

func TestNetworksText(t *testing.T) {
	open, anna, lab := api.Network{Name: "open", Peers: 3}, api.Network{Swarm: "aa", Name: "anna", Peers: 1}, api.Network{Swarm: "bb", Name: "lab"}
	for want, list := range map[string][]api.Network{
		"in the open network: strangers may use this node, and it uses theirs":                                        {open},
		`in the private swarm "anna" (2 machines connected); not open to strangers`:                                   {anna},
		`in the private swarm "anna" (2 machines connected), and open to strangers`:                                   {open, anna},
		`in the private swarm "lab" (this machine alone) and in "anna" (2 machines connected); not open to strangers`: {lab, anna},
	} {
		if got := networksText(list, false); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	if got, want := networksText([]api.Network{open}, true), "in the open network: strangers compute the answers"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}
