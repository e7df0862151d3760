// Package door opens the listeners through which a node is asked: a unix socket in its
// home, for the operator's own commands, and a TCP address if one is configured. It
// writes the file that tells commands where these are, and closes all in order.
//
// The socket is there even if the API has no TCP address, so that commands find their
// node wherever the API listens for others. Its mode admits only the node's user.
//
// Metrics may have an address of their own, with the probes for balancers and nothing
// else: unlike the API it may be reached by anyone, since it takes no work and shows no
// text.
package door
