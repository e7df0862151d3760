package bitswap

import (
	"context"
	"fmt"
	"time"

	"github.com/ipfs/boxo/bitswap"
	"github.com/ipfs/boxo/bitswap/client"
	"github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/exchange"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"

	"github.com/shoalnet/shoal/protocol"
)

const (
	// AnswerTime is how long a peer may take to send a block before another
	// peer is asked for it as well.
	AnswerTime = 10 * time.Second

	answerMost       = 30 * time.Second // the same, as bitswap's estimate may raise it
	rebroadcastEvery = 5 * time.Second  // a running session asks for holders; the answer is in memory
)

// Blocks is what this node can send. Any error of Get and Size means that the
// block is not here.
type Blocks interface {
	Get(ctx context.Context, c cid.Cid) ([]byte, error)
	Has(ctx context.Context, c cid.Cid) (bool, error)
	Size(ctx context.Context, c cid.Cid) (int, error) // bytes
}

// Ledger keeps what passed between this node and its peers.
type Ledger interface {
	// Pass adds bytes of blocks given to and taken from a peer.
	Pass(peer string, given, taken int)
	// Bad reports whether a peer lied, and is not to be asked.
	Bad(peer string) bool
}

// Options of a Service. All fields but May must be set.
type Options struct {
	Blocks  Blocks
	May     func(p peer.ID, block cid.Cid) bool // reports whether a block may be sent to a peer; nil: all
	Ledger  Ledger
	Holders func() []peer.AddrInfo // of the models that are being fetched, connected
	Blame   func(p peer.ID)        // called on its own goroutine: p sent blocks that it was not asked for
}

// Service speaks bitswap under the prefix /shoal, in both directions. It is safe
// for concurrent use.
type Service struct {
	bs    *bitswap.Bitswap
	guard *guard
}

// New starts to answer peers over a host, and is ready to ask them. The host
// bounds the streams (see the package's doc).
func New(h host.Host, opt Options) *Service {
	answers := client.DefaultDontHaveTimeoutConfig()
	answers.DontHaveTimeout, answers.MinTimeout, answers.MaxTimeout = AnswerTime, AnswerTime, answerMost
	g := newGuard(bsnet.NewFromIpfsHost(h, bsnet.Prefix(protocol.DHTPrefix),
		bsnet.SupportedProtocols([]libprotocol.ID{bsnet.ProtocolBitswap})), opt.Ledger, opt.Blame) // no older versions
	queue := newSendQueue(g, opt.Ledger)
	may := opt.May
	if may == nil {
		may = func(peer.ID, cid.Cid) bool { return true }
	}
	bs := bitswap.New(context.Background(), queue, finder{opt.Holders}, blockstore{opt.Blocks},
		bitswap.MaxOutstandingBytesPerPeer(PerPeer),
		bitswap.TaskWorkerCount(sendAtOnce),
		bitswap.EngineTaskWorkerCount(sendAtOnce),
		bitswap.WithTaskComparator(queue.before),
		bitswap.WithPeerBlockRequestFilter(may),
		// Several leaves share a link, so each takes long to come. Bitswap
		// would soon ask others for what is already on its way.
		bitswap.WithClientOption(client.WithDontHaveTimeoutConfig(answers)),
		bitswap.RebroadcastDelay(rebroadcastEvery),
		bitswap.WithClientOption(client.WithDefaultProviderQueryManager(false)),
		bitswap.WithoutDuplicatedBlockStats(),
	)
	queue.server.Store(bs.Server)
	g.bs.Store(bs)
	return &Service{bs: bs, guard: g}
}

// Close stops answering and asking; sessions fail. Streams that are open end
// with the host's.
func (s *Service) Close() error { return s.bs.Close() }

// Session asks for blocks. It is safe for concurrent use.
type Session struct{ f exchange.Fetcher }

// Session begins a session, which ends with ctx.
func (s *Service) Session(ctx context.Context) Session { return Session{s.bs.NewSession(ctx)} }

// GetBlock waits for a block from any holder and returns its content, which
// bitswap has checked against the CID. It fails only with ctx or Close.
func (s Session) GetBlock(ctx context.Context, c cid.Cid) ([]byte, error) {
	b, err := s.f.GetBlock(ctx, c)
	if err != nil {
		return nil, err
	}
	return b.RawData(), nil
}

// Connected makes bitswap ask a connected peer that it may have given up after a
// failure.
func (s *Service) Connected(p peer.ID) { s.bs.PeerConnected(p) }

// Drop makes bitswap forget that a peer is connected.
func (s *Service) Drop(p peer.ID) { s.bs.Client.PeerDisconnected(p) }

// Wanted lists the blocks that are being asked for now.
func (s *Service) Wanted() []cid.Cid { return s.bs.GetWantlist() }

// Notify sends a block that has come to the peers that wait for it. It fails if
// the service is closed.
func (s *Service) Notify(ctx context.Context, c cid.Cid, data []byte) error {
	b, err := blocks.NewBlockWithCid(data, c)
	if err != nil {
		return fmt.Errorf("block %s: %w", c, err)
	}
	return s.bs.Server.NotifyNewBlocks(ctx, b)
}

// Stats returns the bytes of blocks sent and received since New, those that came
// twice or unasked included.
func (s *Service) Stats() (sent, received uint64) {
	st, err := s.bs.Stat()
	if err != nil {
		return 0, 0
	}
	return st.DataSent, st.DataReceived
}

// Shun hides from bitswap, for a minute, the peers that have owed blocks for
// longer than tooLong, if a fetch has other holders. It reports whether it hid
// any. A peer that is a holder for other fetches only (it is in all, and not in
// holders) is left alone.
func (s *Service) Shun(tooLong time.Duration, holders, all []peer.AddrInfo) bool {
	return s.guard.shun(tooLong, holders, all)
}

// Shuns reports whether a peer is hidden from bitswap.
func (s *Service) Shuns(p peer.ID) bool { return s.guard.shuns(p) }

// Forgive hides nobody any more.
func (s *Service) Forgive() { s.guard.forgive() }

// finder answers bitswap's search for providers with the holders of the
// models that are being fetched, whatever block it asks for.
type finder struct{ holders func() []peer.AddrInfo }

func (f finder) FindProvidersAsync(context.Context, cid.Cid, int) <-chan peer.AddrInfo {
	all := f.holders()
	out := make(chan peer.AddrInfo, len(all))
	for _, p := range all {
		out <- p
	}
	close(out)
	return out
}
