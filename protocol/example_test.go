package protocol_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/multiformats/go-multihash"

	"github.com/shoalnet/shoal/protocol"
)

// An offer speaks for the key that has signed it, for as long as it says.
func ExampleSealOffer() {
	key, _, err := crypto.GenerateEd25519Key(bytes.NewReader(make([]byte, 64)))
	if err != nil {
		fmt.Println(err)
		return
	}
	hash := sha256.Sum256([]byte("a model's manifest"))
	digest, err := multihash.Encode(hash[:], multihash.SHA2_256)
	if err != nil {
		fmt.Println(err)
		return
	}
	now := time.Now()
	sealed, err := protocol.SealOffer(&protocol.OfferBody{
		Seq: 1, IssuedUnixMs: now.UnixMilli(), ExpiresUnixMs: now.Add(10 * time.Minute).UnixMilli(), Version: "v1",
		Spans: []*protocol.ServedSpan{{Model: cid.NewCidV1(cid.Raw, digest).Bytes(), From: 0, To: 16, Blocks: 32, Width: 4096, Name: "half of it"}},
	}, key)
	if err != nil {
		fmt.Println(err)
		return
	}

	// Another node has its bytes alone.
	got, err := protocol.OpenOffer(sealed.Envelope, now)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s serves blocks %s of %d\n", got.Spans[0].Name, got.Spans[0].Span(), got.Spans[0].Blocks)
	fmt.Println("by its signer:", got.From == sealed.From)

	_, err = protocol.OpenOffer(sealed.Envelope, now.Add(time.Hour))
	fmt.Println("an hour later refused:", errors.Is(err, protocol.ErrOffer))
	// Output:
	// half of it serves blocks 0-16 of 32
	// by its signer: true
	// an hour later refused: true
}
