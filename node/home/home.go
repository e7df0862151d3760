// Package home names the files of a node's home directory, for the node that writes
// them and for the commands and checks that look at them.
package home

import "path/filepath"

// Home is the path of a node's home directory. Its methods return paths in it.
type Home string

func (h Home) file(name string) string { return filepath.Join(string(h), name) }

// Config is the file of settings; the operator writes it.
func (h Home) Config() string { return h.file("config.toml") }

// Key is the private key that makes the node the peer that it is.
func (h Home) Key() string { return h.file("key") }

// Port keeps the port for peers that was drawn at the first start.
func (h Home) Port() string { return h.file("port") }

// Peers has the peers that were met.
func (h Home) Peers() string { return h.file("peers.json") }

// Standing has what was seen of each peer.
func (h Home) Standing() string { return h.file("standing.json") }

// Ledger has what was given to and taken from each peer, in bytes.
func (h Home) Ledger() string { return h.file("ledger.json") }

// APIToken opens shoal's own endpoints of the API.
func (h Home) APIToken() string { return h.file("api.token") }

// Keys has the keys of the API's callers, hashed, and what they were used for.
func (h Home) Keys() string { return h.file("keys.json") }

// API says how the running node is reached: see node.ReadWord.
func (h Home) API() string { return h.file("api.json") }

// Socket is the running node's socket, if its path is not too long for one.
func (h Home) Socket() string { return h.file("api.sock") }

// Names has which models the names of the catalogue stand for.
func (h Home) Names() string { return h.file("names.json") }

// Sources returns the file that remembers which models came from where.
func (h Home) Sources() string { return h.file("sources.json") }

// CatalogDir is the directory of further catalogues; the operator fills it.
func (h Home) CatalogDir() string { return h.file("catalog.d") }

// Editions has the newest edition seen of each catalogue.
func (h Home) Editions() string { return h.file("catalogs.json") }

// Store is the directory of the models.
func (h Home) Store() string { return h.file("store") }

// StoreLock is the lock of the process that has the store open.
func (h Home) StoreLock() string { return filepath.Join(h.Store(), "lock") }

// Engines is the directory of libraries that were installed for engines.
func (h Home) Engines() string { return h.file("engines") }

// Measured keeps which engine was faster for which span.
func (h Home) Measured() string { return h.file("measured.json") }

// TLS is the self-signed certificate of the API, and its key.
func (h Home) TLS() string { return h.file("tls.pem") }
