// Package doctor finds what is wrong with a node and what to type. It has two halves:
// Look and LookHome gather facts about a machine and a home without changing anything,
// and Examine is a pure function from facts to findings. What the node knows of itself
// and of the network comes as an api.Status and an api.Health: from the daemon if one is
// running, else from a light client that has looked for peers for a few seconds.
//
// Every check that applies reports at least one finding, if only an ok one, so that a
// script can distinguish "checked and fine" from "not checked". A Fix is a shell command
// if one can repair the fault, and otherwise says what a person must do.
package doctor
