package library

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"golang.org/x/sync/semaphore"

	"github.com/shoalnet/shoal/node/api"
	"github.com/shoalnet/shoal/node/catalog"
	"github.com/shoalnet/shoal/node/exchange"
	"github.com/shoalnet/shoal/node/store"
	"github.com/shoalnet/shoal/node/survey"
	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Network is what the library needs of the network.
type Network interface {
	// WaitPeers waits until a peer is connected. Its error says why none is.
	WaitPeers(ctx context.Context) error
}

// Exchange fetches from peers and origins.
type Exchange interface {
	// Manifest fetches a model's manifest, verified against its CID. It returns
	// exchange.ErrNotFound if no peer has it.
	Manifest(ctx context.Context, model cid.Cid) ([]byte, error)
	Fetch(ctx context.Context, model cid.Cid, want exchange.Want, progress func(exchange.Progress), origins ...exchange.Origin) error
	// Gained tells the peers that fetch a model that there is more of it here.
	Gained(model cid.Cid)
}

// Survey knows what peers offer.
type Survey interface {
	Claims(ctx context.Context, ask bool) []*survey.Claim
	Renew(ctx context.Context)
	Index(ctx context.Context) *survey.Index
	NameOf(model cid.Cid) string
}

// Config of a library. Store, Catalog, Network, Exchange, Survey and Log must be
// set, and all functions but Convert and Cuts.
type Config struct {
	Home     string // directory for temporary files, and for what names meant
	Store    *store.Store
	Catalog  *catalog.Catalog
	Network  Network
	Exchange Exchange
	Survey   Survey
	Convert  Converter                         // of directories to be imported; nil: they are refused
	Cuts     func(*gguf.Header) *protocol.Cuts // the spans of a model that this program can compute, nil: all; may be nil
	BadInput []error                           // errors of Convert, and of the store's check, that are the caller's to correct
	Log      *slog.Logger

	// Ability names what a model with this metadata does that generates no text:
	// embedding, rerank. Empty: it does. May be nil: all do.
	Ability func(md interface{ Value(key string) any }) string
	// Served reports that this node serves a model, so that it must stay.
	Served func(*store.Model) bool
	// Changed is called after what is held has changed, and when a fetch begins.
	Changed func()
	// Gained is called after a model, or some of one, has come: what is waited for may
	// be here. nil: nobody waits.
	Gained func()
}

// Library is the models of this node. It is safe for concurrent use.
type Library struct {
	cfg      Config
	store    *store.Store
	names    *names
	sources  *sources
	resolver *resolver

	tools       once[cid.Cid, *Tools] // of the models in use; they are large
	encoding    *semaphore.Weighted   // bytes of text being tokenized
	conversions sync.WaitGroup
	download    rateMeter
	fetches     fetchBoard
	imported    atomic.Uint64 // bytes
}

var (
	_ api.Library    = (*Library)(nil)
	_ api.Keeper     = (*Library)(nil)
	_ api.Catalogue  = (*Library)(nil)
	_ api.Vocabulary = (*Library)(nil)
)

// New makes the library of a store that is open, and removes what imports that a
// crash cut short left in the home. It fails if the home's file of
// names, or that of sources, is damaged.
func New(cfg Config) (*Library, error) {
	names, err := openNames(cfg.Home, cfg.Catalog)
	if err != nil {
		return nil, err
	}
	from, err := openSources(cfg.Home)
	if err != nil {
		return nil, err
	}
	sweep(cfg.Home, cfg.Log)
	return &Library{
		cfg: cfg, store: cfg.Store, names: names, sources: from, encoding: semaphore.NewWeighted(encodeRoom),
		resolver: &resolver{store: cfg.Store, names: names, sources: from, net: cfg.Network, manifest: cfg.Exchange.Manifest, survey: cfg.Survey, began: time.Now()},
	}, nil
}

// Close waits for conversions and for tokenizers that are being made to end. Nobody
// may ask for more, and the contexts of those who did must have ended.
func (l *Library) Close() {
	l.conversions.Wait()
	l.tools.wait()
}

// sweep removes what conversions and imports of the program's own model left. No
// other node is at work in the home, since the store is open.
func sweep(dir string, log *slog.Logger) {
	for _, pattern := range []string{convertPattern, ownPattern} {
		left, _ := filepath.Glob(filepath.Join(dir, pattern))
		for _, path := range left {
			if err := os.RemoveAll(path); err != nil {
				log.Warn("what is left of an import cannot be removed", "path", path, "error", err)
			}
		}
	}
}
