// Package node assembles one shoal daemon from its parts and services, and owns
// their lifetimes. It does no work of theirs.
//
// The parts know nothing of each other:
//
//	store     the models on disk
//	network   peers, offers, streams: the open network, or one private swarm
//	joint     the networks of this node as one
//	swarm     the private swarms of a home; swarms opens a network for each
//	exchange  leaves from and to peers
//	catalog   short names of models, and where those are to be had
//	engine    one child process per served span
//	fence     what that process is kept from
//	standing  what was seen of each peer, over restarts
//	stage     sessions of others through the served spans
//	session   own sessions, along routes that route plans
//	placement which spans a node serves that chooses for itself
//	text      tokenizers and chat templates
//	lend      when the operator lends: hours, load by others, battery
//	metrics   what is counted, for Prometheus
//	traces    what one prompt took where, for a collector of the operator's
//	api       the local HTTP API over all this
//
// Above them are services, which import parts and lower services, each with a state
// and a mutex of its own, and none with a pointer to Node:
//
//	survey    which peers serve what, how far they are and how loaded
//	library   what names mean, imports, fetches, tokenizers
//	generate  one prompt of this node to the tokens of its answer
//	serve     spans of this node, from resolving a model to offering it
//	report    what the API returns about the node, the page and the metrics
//
// Parts and services know each other only through the small interfaces that each
// declares; adapt.go fits the parts together and services.go the services. New starts
// what others need before them, the store and the network first. Run and Close stop
// in reverse: first no new sessions come in (offers), then those that run move to
// other nodes or end (stage, engine), then what they need goes (api, library, exchange,
// network, store).
// Ready waits until all that was asked for is served.
//
// # In a program of your own
//
// A program that has a node in it gives it what is built with C: its main function
// first calls engine.ChildMain with a back end (node/engine/ggml), and
// convert.ChildMain if Config.Convert is set, since engines and the converter are
// this program, started again. Without ChildMain, New refuses to serve; without
// either, node and all that it imports build with CGO_ENABLED=0, as a client does.
//
// Config, Node, api.Client and the HTTP API are meant for such programs and change
// only with a note in the changelog, as do protocol and the formats on the wire. The
// other packages below node are its parts and change whenever that helps.
//
// A light node (Config.Client) is the same without served spans: it joins,
// keeps the header shards of the models it talks to, and holds no weights.
package node
