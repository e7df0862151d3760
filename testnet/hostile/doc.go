// Package hostile implements misbehaving peers, for tests against one's own nodes on
// loopback. They implement the protocol themselves, over plain libp2p hosts without
// limits, and do what any stranger can do at no cost: make false claims, hold resources,
// and flood. Each case is bounded in count, and ends with its Peer.
//
//	Claim       offer a whole model at an impossible speed
//	Lie         accept every session and answer immediately, always with the same token
//	Stall       accept every session, report that it computes, and never answer
//	Hold        open sessions of maximum length, kept alive by Ping alone
//	HalfFrames  send first frames that end one byte short
//	Flood       send Halt after Halt without reading an answer
//	Reflect     send offers of made-up peers that are all claimed to be at one address
//	Names       send offers of thousands of models
package hostile
