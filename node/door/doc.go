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
//
// With TLS, one address takes encrypted and plain connections, told apart by their first
// byte. Programs of this machine go on as they are, since nobody can read along there;
// browsers of other machines are sent to the encrypted address, and programs refused.
// The certificate is self-signed by default and has only names and addresses of this
// machine. A new one, for a new address or because the old one ends soon, keeps the key.
// Let's Encrypt and its kind are no default, because a node at home has no name to prove.
package door
