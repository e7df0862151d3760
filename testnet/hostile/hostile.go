package hostile

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	libprotocol "github.com/libp2p/go-libp2p/core/protocol"
	libp2pquic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
	"google.golang.org/protobuf/proto"

	"github.com/shoalnet/shoal/protocol"
)

const (
	dialTime = 10 * time.Second
	beat     = 250 * time.Millisecond
)

// Model is the model that a peer claims to serve and opens sessions for.
type Model struct {
	ID     cid.Cid
	Name   string
	Blocks int
	Width  int
}

// Peer is a misbehaving peer that is connected to one node.
type Peer struct {
	Host     host.Host
	Target   peer.ID
	Sessions atomic.Int64 // opened by others at this peer

	wg     sync.WaitGroup
	ctx    context.Context
	cancel context.CancelFunc
}

// Connect creates a peer with a new key, on loopback, and connects it to a node: target
// is a multiaddr with /p2p/.
func Connect(ctx context.Context, target string) (*Peer, error) {
	info, err := peer.AddrInfoFromString(target)
	if err != nil {
		return nil, err
	}
	h, err := libp2p.New(
		libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.DisableMetrics(),
		libp2p.Transport(libp2pquic.NewTransport), libp2p.Transport(tcp.NewTCPTransport),
		libp2p.ListenAddrStrings("/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"),
	)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if err := h.Connect(ctx, *info); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	p := &Peer{Host: h, Target: info.ID}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p, nil
}

// Close ends everything that the peer does.
func (p *Peer) Close() error {
	p.cancel()
	err := p.Host.Close()
	p.wg.Wait()
	return err
}

func (p *Peer) stream(proto libprotocol.ID) (network.Stream, error) {
	ctx, cancel := context.WithTimeout(p.ctx, dialTime)
	defer cancel()
	return p.Host.NewStream(ctx, p.Target, proto)
}

// ---- claims ----

func (p *Peer) key() crypto.PrivKey { return p.Host.Peerstore().PrivKey(p.Host.ID()) }

// body returns the body of an offer that is valid from now on.
func body(addrs ...multiaddr.Multiaddr) *protocol.OfferBody {
	now := time.Now()
	b := &protocol.OfferBody{Seq: uint64(now.UnixMilli()), IssuedUnixMs: now.UnixMilli(), ExpiresUnixMs: now.Add(14 * time.Minute).UnixMilli()}
	for _, a := range addrs {
		b.Addrs = append(b.Addrs, a.Bytes())
	}
	return b
}

// span claims all of a model, ready for a long time, at a microsecond per block, with
// room for everyone.
func (m Model) span() *protocol.ServedSpan {
	return &protocol.ServedSpan{
		Model: m.ID.Bytes(), To: uint32(m.Blocks), Blocks: uint32(m.Blocks), Width: uint32(m.Width), Name: m.Name, Ready: true, Loaded: true,
		SinceS: 900, UsPerBlock: 1, UsPerBlockPrefill: 1, KvTokens: 1 << 30, KvFree: 1 << 30, MaxContext: 1 << 30,
	}
}

// Claim offers a whole model at an impossible speed: it sends the offer to the target and
// to every peer that asks.
func (p *Peer) Claim(m Model) error {
	envelope := func() []byte {
		b := body(p.Host.Addrs()...)
		b.Spans = append(b.Spans, m.span())
		o, err := protocol.SealOffer(b, p.key())
		if err != nil {
			return nil
		}
		return o.Envelope
	}
	p.Host.SetStreamHandler(protocol.OffersID, func(s network.Stream) {
		_ = write(s, &protocol.OffersReply{Envelopes: [][]byte{envelope()}})
		_ = s.Close()
	})
	p.Host.SetStreamHandler(protocol.StatusID, func(s network.Stream) {
		_ = write(s, &protocol.StatusReply{Spans: []*protocol.SpanStatus{{Model: m.ID.Bytes(), To: uint32(m.Blocks), KvFree: 1 << 30, Cached: 1 << 30}}})
		_ = s.Close()
	})
	return p.push(envelope())
}

// push sends an offer of any peer to the target.
func (p *Peer) push(envelope []byte) error {
	s, err := p.stream(protocol.OffersID)
	if err != nil {
		return err
	}
	defer s.Close()
	if err := write(s, &protocol.OffersRequest{Own: envelope}); err != nil {
		return err
	}
	_ = s.CloseWrite()
	_ = s.SetReadDeadline(time.Now().Add(dialTime))
	_, _ = io.Copy(io.Discard, s)
	return nil
}

// Reflect sends the target offers of n made-up peers with a model, all claimed to be at
// the given addresses.
func (p *Peer) Reflect(n int, m Model, addrs ...multiaddr.Multiaddr) error {
	for range n {
		b := body(addrs...)
		b.Spans = append(b.Spans, m.span())
		if err := p.pushMadeUp(b); err != nil {
			return err
		}
	}
	return nil
}

// Names sends the target offers of n made-up peers, each with 55 models that nobody has.
func (p *Peer) Names(n int) error {
	for i := range n {
		b := body()
		for k := range 55 {
			id, err := cid.V1Builder{Codec: cid.DagCBOR, MhType: 0x12}.Sum(fmt.Appendf(nil, "%s %d %d", p.Host.ID(), i, k))
			if err != nil {
				return err
			}
			m := Model{ID: id, Name: fmt.Sprintf("made-up-%d-%d", i, k), Blocks: 1, Width: 1}
			b.Spans = append(b.Spans, m.span())
		}
		if err := p.pushMadeUp(b); err != nil {
			return err
		}
	}
	return nil
}

func (p *Peer) pushMadeUp(b *protocol.OfferBody) error {
	o, err := sealMadeUp(b)
	if err != nil {
		return err
	}
	return p.push(o.Envelope)
}

func sealMadeUp(b *protocol.OfferBody) (*protocol.Offer, error) {
	key, _, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return nil, err
	}
	return protocol.SealOffer(b, key)
}

// ---- serving ----

// serve answers streams of the stage protocol, in any version.
func (p *Peer) serve(one func(network.Stream, *bufio.Reader)) {
	p.Host.SetStreamHandlerMatch(protocol.StageID, func(id libprotocol.ID) bool {
		return len(id) > len("/shoal/stage/") && id[:len("/shoal/stage/")] == "/shoal/stage/"
	}, func(s network.Stream) {
		p.Sessions.Add(1)
		one(s, bufio.NewReader(s))
		_ = s.Reset()
	})
}

// Lie serves sessions over a whole model: each receives token 42 as many times as it
// asked for tokens.
func (p *Peer) Lie() {
	p.serve(func(s network.Stream, r *bufio.Reader) {
		most := 1
		for {
			f, _, err := protocol.ReadFrame(r, 0)
			if err != nil {
				return
			}
			switch k := f.Kind.(type) {
			case *protocol.Frame_Open:
				most = int(k.Open.GetSampling().GetMaxTokens())
				err = send(s, &protocol.Frame{Kind: &protocol.Frame_Opened{Opened: &protocol.Opened{UsPerStep: 1, Format: true}}})
			case *protocol.Frame_Ping:
				err = send(s, &protocol.Frame{Kind: &protocol.Frame_Pong{Pong: &protocol.Pong{Epoch: 1}}})
			case *protocol.Frame_Step:
				for i := 0; k.Step.Sample && i < most && err == nil; i++ {
					t := &protocol.Token{Epoch: k.Step.Epoch, Index: uint32(i), Id: 42, Logprob: -0.01}
					if i == most-1 {
						t.Finish = protocol.Finish_FINISH_LENGTH
					}
					err = send(s, &protocol.Frame{Kind: &protocol.Frame_Token{Token: t}})
				}
			case *protocol.Frame_Bye:
				return
			}
			if err != nil {
				return
			}
		}
	})
}

// Stall accepts every session, answers each Ping that it is computing and has finished
// another pass, and never sends a token.
func (p *Peer) Stall() {
	p.serve(func(s network.Stream, r *bufio.Reader) {
		for passes := uint64(1); ; passes++ {
			f, _, err := protocol.ReadFrame(r, 0)
			if err != nil {
				return
			}
			switch k := f.Kind.(type) {
			case *protocol.Frame_Open:
				err = send(s, &protocol.Frame{Kind: &protocol.Frame_Opened{Opened: &protocol.Opened{UsPerStep: 1, Format: true}}})
			case *protocol.Frame_Ping:
				err = send(s, &protocol.Frame{Kind: &protocol.Frame_Pong{Pong: &protocol.Pong{Epoch: 1, Computing: true, Waiting: 1, Passes: passes}}})
			case *protocol.Frame_Halt:
				err = send(s, &protocol.Frame{Kind: &protocol.Frame_Halted{Halted: &protocol.Halted{Epoch: k.Halt.Epoch, CanReplay: true}}})
			}
			if err != nil {
				return
			}
		}
	})
}

// ---- holding and sending ----

func (m Model) open(tokens int) *protocol.Frame {
	id := make([]byte, 16)
	_, _ = rand.Read(id)
	return &protocol.Frame{Kind: &protocol.Frame_Open{Open: &protocol.Open{
		Session: id, Model: m.ID.Bytes(), To: uint32(m.Blocks), Stages: 1, Epoch: 1, MaxTokensTotal: uint32(tokens),
		Sampling: &protocol.Sampling{PromptTokens: 1, MaxTokens: 5},
	}}}
}

// Hold opens n sessions of the given number of tokens and sends only Ping on them, until
// the peer is closed. It returns how many were accepted.
func (p *Peer) Hold(n int, m Model, tokens int) (held int) {
	var all []network.Stream
	for range n {
		s, err := p.stream(protocol.StageID)
		if err != nil {
			break
		}
		_ = s.SetReadDeadline(time.Now().Add(dialTime))
		r := bufio.NewReader(s)
		if send(s, m.open(tokens)) != nil {
			continue
		}
		f, _, err := protocol.ReadFrame(r, 0)
		if err != nil || f.GetOpened() == nil {
			_ = s.Reset()
			continue
		}
		_ = s.SetReadDeadline(time.Time{})
		all = append(all, s)
		p.wg.Go(func() { _, _ = io.Copy(io.Discard, r) })
	}
	p.wg.Go(func() {
		tick := time.NewTicker(beat)
		defer tick.Stop()
		for {
			for _, s := range all { // writing to an ended one fails
				_ = send(s, &protocol.Frame{Kind: &protocol.Frame_Ping{Ping: &protocol.Ping{}}})
			}
			select {
			case <-p.ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	return len(all)
}

// HalfFrames opens n streams, announces a frame of 1 MiB on each, and sends all of it
// except one byte. It returns on how many streams that much was accepted.
func (p *Peer) HalfFrames(n int) (taken int) {
	head := append(binary.AppendUvarint(nil, protocol.MaxHeader), make([]byte, protocol.MaxHeader-1)...)
	var ok atomic.Int64
	var wg sync.WaitGroup
	turns := make(chan struct{}, 16)
	for range n {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			s, err := p.stream(protocol.StageID)
			if err != nil {
				return
			}
			_ = s.SetWriteDeadline(time.Now().Add(2 * time.Second))
			if _, err := s.Write(head); err == nil {
				ok.Add(1)
			}
		})
	}
	wg.Wait()
	return int(ok.Load())
}

// Flood opens a session and sends n Halts on it without reading an answer. It returns how
// many could be sent within the given time.
func (p *Peer) Flood(n int, m Model, within time.Duration) (sent int, err error) {
	s, err := p.stream(protocol.StageID)
	if err != nil {
		return 0, err
	}
	if err := send(s, m.open(16)); err != nil {
		return 0, err
	}
	_ = s.SetWriteDeadline(time.Now().Add(within))
	w := bufio.NewWriterSize(s, 16<<10)
	for sent < n && err == nil { // a failed write is the expected end
		err = send(w, &protocol.Frame{Kind: &protocol.Frame_Halt{Halt: &protocol.Halt{Epoch: uint64(sent + 2)}}})
		sent++
	}
	_ = w.Flush()
	return sent, nil
}

func send(w io.Writer, f *protocol.Frame) error {
	b, err := protocol.AppendFrame(nil, f, nil)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

func write(w io.Writer, m proto.Message) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	_, err = w.Write(append(binary.AppendUvarint(nil, uint64(len(b))), b...))
	return err
}
