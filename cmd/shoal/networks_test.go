package main

import (
	"testing"

	"github.com/shoalnet/shoal/node/api"
)

func TestNetworksText(t *testing.T) {
	open := api.Network{Name: "open", Peers: 3}
	anna := api.Network{Swarm: "aa", Name: "anna", Peers: 1, Members: 2, Founder: true}
	lab := api.Network{Swarm: "bb", Name: "lab", Members: 1}
	for want, list := range map[string][]api.Network{
		"this machine alone: nobody else can connect":                                                                                          {},
		"open: strangers may use this machine, and it uses theirs":                                                                             {open},
		"only your own machines and those you let in (swarm anna, 2 members)":                                                                  {anna},
		"only those in swarm lab (1 member)":                                                                                                   {lab},
		"only those in swarm lab (1 member) and your own machines and those you let in (swarm anna, 2 members)":                                {lab, anna},
		"open: strangers may use this machine, and it uses theirs; beside them your own machines and those you let in (swarm anna, 2 members)": {open, anna},
	} {
		if got := networksText(list, false); got != want {
			t.Errorf("%q, not %q", got, want)
		}
	}
	if got, want := networksText([]api.Network{open}, true), "open: strangers compute the answers"; got != want {
		t.Errorf("%q, not %q", got, want)
	}
}
