// Package member has the signed objects of a private swarm as bytes: who is a
// member, who may be invited, who is no longer a member, and which other swarm
// may use this one. It does no I/O.
//
//	object        signed by                                 bytes
//	Certificate   the swarm's root key, or an issuer         163, with its issuer's 326
//	Revocations   the swarm's root key, or an issuer         at most MaxRevocations
//	BridgeRecord  the root key of the swarm that lends       at most MaxBridge
//	Grant         the root key of the swarm that uses it      at most MaxGrant
//	Ticket        nobody: its secret is proved, not shown    241 letters with two addresses
//	Membership    its certificate by its issuer; a helper    SealedSize when sealed, always
//	              key's by the member
//
// A swarm is its root key: the swarm's ID is the first half of the key's
// SHA-256. The root key signs certificates. A certificate with the role Invite
// makes its holder an issuer, which signs certificates of others, with roles no
// wider than its own, and carries its own certificate along as proof. An issuer
// makes no issuers, so a chain has at most two certificates.
//
// A revocation list names members by their keys. Issuers sign lists, too: the root
// key can stay offline, and a stolen laptop can still be cut off at once. Each
// signer has a list of its own, which replaces the signer's list before as a
// whole, and all apply (see Lists). The root has the last word: no list can name
// its key, an issuer's list does not count against those whom the root has made
// issuers, and it counts only while the issuer's certificate is valid. So the
// root's list that names an issuer undoes all that the issuer has revoked.
//
// One list that all issuers share would be shorter. But each of them could drop
// from it what others have revoked, and when the root revokes an issuer, nobody
// could tell which entries are that issuer's.
//
// A bridge lets the members of one swarm use another. The lender's root key signs the
// record, and the guest's accepts it by a grant. BridgeAsk and BridgeOffer are the texts that
// the two owners pass on.
//
// Each object has one encoding: what Parse accepts is, byte for byte, what
// Marshal returns. Signatures cover a label that names the kind of object, so
// none can stand for another. Parsers bound what they read before they allocate.
//
// # In the TLS certificate
//
// A node proves its membership in the TLS handshake, before any stream. A TLS
// server shows its certificate before it knows who asks, so the membership is
// sealed with the swarm's view key, which members have (View.Seal). To all
// others it is noise of a constant length.
//
// It is carried as the certificate's subject key identifier, not in an extension
// of our own. An extension needs an object identifier. One of our own would have
// to be registered; one without registration, made from a UUID under 2.25, has a
// component of 128 bits, and Go's crypto/x509 refuses certificates with
// components beyond 31 bits; anything shorter under 2.25, or under any other
// arc, would be somebody else's. It would also mark shoal's nodes on the wire.
// The subject key identifier is an octet string of the issuer's choice by its
// definition (RFC 5280, 4.2.1.2), and nothing but the two ends reads it.
package member
