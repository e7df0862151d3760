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
// A program that has a node in it gives it what is built with C: its main function
// first calls engine.ChildMain with a back end (node/engine/ggml), and
// convert.ChildMain if Config.Convert is set, since engines and the converter are
// this program, started again. Without ChildMain, New refuses to serve; without
// either, node and all that it imports build with CGO_ENABLED=0, as a client does.
//
// The parts know each other only through the small interfaces that each
// declares; adapt.go fits them together, and observe.go has them counted and
// traced. Start order is the order above, and stop order the reverse: first
// nobody new is let in (offers), then running sessions move to other nodes or
// end (stage), then what they stood on goes (api, engine, exchange, network,
// store). New, Run and Close in node.go read that way.
//
// A span is fetched, loaded, measured, and proven by a token through a whole
// chain (probe.go) before it is offered as ready. Which span that is, the
// operator says or, with "auto", the node itself finds by route.Decide, again
// and again (place.go).
//
// Memory: engines take what they take outside of Go, so this process is told to
// keep to the rest of the machine's or control group's (memory.go), and told
// anew whenever one is loaded or goes. Without that the garbage of one long
// prompt in a container of 500 MiB has the kernel kill node or engine.
//
// A model is named with a reach (models.go). A prompt, or anybody on the API,
// names what is here or at a peer; a pull also what the catalogue has an origin
// of; a file or an address is imported for the operator alone, who has the token.
// So no stranger's word has this node read a file or fetch from somewhere. The
// one thing that a prompt may fetch from an origin is the header of a catalogue's
// model that peers serve.
// What names mean at peers is weighed in heard.go: by the groups of addresses of
// those who are connected, never by how many say it.
//
// A light node (Config.Client) is the same without served spans: it joins,
// keeps the header shards of the models it talks to, and holds no weights.
package node
