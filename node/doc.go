// Package node assembles one shoal daemon from its parts and owns their
// lifetimes.
//
//	store     the models on disk
//	network   peers, offers, streams
//	exchange  leaves from and to peers
//	catalog   short names of models, and where those are to be had
//	convert   a GGUF file of a Hugging Face directory
//	engine    one child process per served span
//	fence     what that process, and convert's, is kept from
//	standing  what was seen of each peer, over restarts
//	stage     sessions of others through the served spans
//	session   own sessions, along routes that route plans
//	text      tokenizers and chat templates
//	lend      when the operator lends: hours, load by others, battery
//	metrics   what is counted, for Prometheus
//	traces    what one prompt took where, for a collector of the operator's
//	api       the local HTTP API over all this
//
// Above the parts are services, which import parts and lower services, each with a
// state and a mutex of its own, and none with a pointer to Node:
//
//	survey    who serves what, how far, how loaded
//	serve     spans of this node, from resolving a model to offering it; placement
//	          decides which
//	report    what the API returns about the node, the page and the metrics
//
// Parts and services know each other only through the small interfaces that each
// declares; adapt.go fits the parts together, services.go the services, and observe.go
// has answers counted and traced. Parts start in the order above and stop in reverse:
// first no new sessions come in (offers), then those that run move to other nodes or
// end (stage), then what they need goes (api, engine, exchange, network, store). New,
// Run and Close in node.go read that way.
//
// A model is named with a reach (models.go). A prompt, or anybody on the API,
// names what is here or at a peer; a pull also what the catalogue has an origin
// of; a file or an address is imported for the operator alone, who has the token.
// So no stranger's word has this node read a file or fetch from somewhere. The
// one thing that a prompt may fetch from an origin is the header of a catalogue's
// model that peers serve.
// What names mean at peers is weighed in package survey: by the groups of addresses
// of the peers that are connected, never by how many make the claim.
//
// A light node (Config.Client) is the same without served spans: it joins,
// keeps the header shards of the models it talks to, and holds no weights.
package node
