// Package systemd holds the unit with which systemd runs a node for one user, so that
// the program can install it. The other files here are installed by make and packages.
package systemd

import _ "embed"

// Exec is the program and its command in UserUnit.
const Exec = "/usr/local/bin/shoal node"

// UserUnit is the unit of a user's own service.
//
//go:embed user/shoal.service
var UserUnit string
