package member

import (
	"fmt"
	"strings"
)

// Roles is the set of things that a member may do in its swarm.
type Roles uint16

// The roles.
const (
	Use    Roles = 1 << iota // open sessions on other members' nodes
	Serve                    // offer spans and models
	Relay                    // carry other members' connections
	Invite                   // sign certificates and revocation lists
	Bridge                   // join this swarm and another

	AllRoles = Use | Serve | Relay | Invite | Bridge
)

var roleNames = []string{"use", "serve", "relay", "invite", "bridge"}

// Has reports whether all roles of want are in r.
func (r Roles) Has(want Roles) bool { return r&want == want }

// String returns the roles' names, separated by commas, in a fixed order; "none"
// for no role.
func (r Roles) String() string {
	var out []string
	for i, name := range roleNames {
		if r.Has(1 << i) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return "none"
	}
	return strings.Join(out, ",")
}

// ParseRoles parses names separated by commas, as String returns them, in any
// order and case. The error names the first unknown word, or says that there is
// none, and lists the roles.
func ParseRoles(s string) (Roles, error) {
	var r Roles
next:
	for word := range strings.SplitSeq(s, ",") {
		word = strings.ToLower(strings.TrimSpace(word))
		for i, name := range roleNames {
			if word == name {
				r |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("%q is not a role: the roles are %s, separated by commas", word, strings.Join(roleNames, ", "))
	}
	return r, nil
}
