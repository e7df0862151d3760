// Package launchd holds the agent with which macOS runs a node for one user, so that
// the program can install it.
package launchd

import _ "embed"

// Exec is the program and its command in Agent, which a shell reads.
const Exec = "/usr/local/bin/shoal node"

// Label is the agent's name.
const Label = "net.shoal.node"

// Agent is the agent's property list.
//
//go:embed net.shoal.node.plist
var Agent string
