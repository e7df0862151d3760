// Package hostile has peers that behave badly, for tests against nodes of one's
// own on loopback. They speak the protocol by hand, over plain libp2p hosts
// without limits, and do what a stranger can do for nothing: claim, hold, send
// and name what is not so. Each case is bounded in count, and ends with its
// Peer.
//
//	Claim       an offer of a whole model at an impossible speed
//	Lie         accept every session, answer at once, and always the same token
//	Stall       accept every session, say that it computes, and answer never
//	Hold        sessions of the longest length, kept alive by Ping alone
//	HalfFrames  first frames that end a byte short
//	Flood       Halt upon Halt, of which no answer is read
//	Reflect     offers of made-up peers that are all said to be at one address
//	Names       offers of thousands of models
package hostile
