// Package doctor says what is wrong with a node and what to type. It is in two
// halves: Look and its like gather facts of a machine and of a home, changing
// nothing, and Examine is a pure function from facts to findings. What the node
// itself knows, and the network around it, comes as an api.Status and an
// api.Health: of the daemon if one runs, else of a light client that has looked
// around for a few seconds.
//
// Every check gives at least one finding when it applies, an ok one included, so
// that a script can tell "looked and found nothing" from "did not look". A Fix is
// a line for a shell wherever one can mend the fault, and else says what a person
// must do.
package doctor
