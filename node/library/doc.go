// Package library is the models of this node: what names mean, importing, fetching,
// pinning, verifying and removing models, and their tokenizers and templates. It is
// api.Library, api.Keeper and api.Catalogue.
//
//	library.go  what it needs, New and Close
//	names.go    the catalogue, and what its names meant here
//	resolve.go  where the model is that a name means
//	sources.go  which model was imported from where, so that none is twice
//	find.go     that model brought here: for an answer, for a span to serve
//	import.go   models from files, addresses, and the program itself
//	convert.go  a GGUF file of a directory
//	fetch.go    shards from peers and origins, and how far that is
//	wants.go    a model of the store as the exchange wants it
//	text.go     tokenizers, templates, and formats of answers
//	vocabulary.go  texts in tokens, for anybody
//	show.go     list, show
//	models.go   add, pull, remove
//	upkeep.go   verify, gc, pin, drop, export
//	claims.go   which of peers' models a list shows
//	once.go     values that are made once for all that wait for them
//
// # Whose name wins
//
// A name goes through these rules, and the first that finds a model wins. "Listed"
// are the catalogue's names; a short one has no colon, such as smollm2, and may stand
// for other models, too.
//
//	whose word    what it finds                                   for which names               where
//	1 here        a model called exactly so, or as the            listed                        here
//	              catalogue's entry is
//	2 here        a model by its CID, its name, or how either     not listed, or short          here
//	              begins; several are an error
//	3 catalogue   the model that the name meant here before, or   listed                        here
//	              means by the catalogue's CID
//	4 the caller  this program's own model; from Import on a      not listed                    here, or
//	              file or an address                                                            origin
//	5 peers       what they call so, or by a name that begins     not listed, no CID; or short  peers
//	              so; of several the likeliest, or an error if    if nobody offers the model
//	              the caller must be sure                         that the catalogue means
//	6 the CID     the name itself, or what rule 3 looks for       CIDs; listed                  peers
//	7 catalogue   what peers call so, if its manifest has the     listed, of no known CID       peers
//	              catalogue's size and hashes; if several do,
//	              the likeliest, or none if the caller must
//	              be sure
//	8 catalogue   its origins                                     listed, from Pull on          origin
//
// A name with Ollama's tag, NAME:latest, is NAME in all of these rules, unless something
// is called exactly so. What no rule finds is unknown: while the node meets its peers a
// name is sought for some seconds, and later for one. Resolving asks peers and changes nothing here; what
// is then done with the result, find.go decides.
//
// A file or an address that was imported before is the model that it was then (rule 4),
// and is not asked, so that a node starts without it: whether it has changed, only an
// explicit import looks, which reads nothing of what has not (sources.json).
//
// What a listed name turned out to mean is kept in names.json until the model is
// removed, but only where a CID or the origin proved it: a manifest may lie about the
// hashes of files (rule 7). Names at peers are claims. They are weighed by package
// survey: by the groups of addresses of those that are connected, never by how many
// make them.
//
// A model that comes from peers is kept under the name by which lists have shown it
// before, and found by the others, too: clients keep settings by name.
//
// # Who may ask for what
//
// A caller names a model with a Reach. A prompt, or anybody on the API, names what is
// here or at a peer (Ask); a pull also what the catalogue has an origin of (Pull); a
// file or an address is imported for the operator alone, who has the token (Import).
// So no stranger's word has this node read a file or fetch from somewhere. The one
// thing that a prompt, or Show, may fetch from an origin is the header of a catalogue's
// model that peers serve.
//
// # Locks
//
// No lock is held while a model is fetched, read or resolved, or while a function of
// Config is called. A tokenizer is made once for all that wait for it (once.go), so
// one whose header does not come keeps no other waiting. The exception is the lock
// under which names.json is written, which guards nothing else.
//
// # Why the engine is not here
//
// Whether a model can be computed, and how a directory becomes a file, depends on the
// engine. The store is opened with that check, and Config has the converter and the
// errors of both, so that nothing here needs an engine to be built or tested.
package library
