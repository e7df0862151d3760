package protocol

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/ipfs/go-cid"
	"github.com/ipld/go-ipld-prime"
	"github.com/ipld/go-ipld-prime/codec/dagcbor"
	"github.com/ipld/go-ipld-prime/node/bindnode"
	"github.com/ipld/go-ipld-prime/schema"
	"github.com/multiformats/go-multihash"
)

// ManifestFormat is the format that this version writes and reads.
const ManifestFormat = "shoal/1"

// ErrManifest is wrapped by every refusal of a manifest.
var ErrManifest = errors.New("manifest refused")

// Kinds of shard.
const (
	ShardHeader    = "header"    // metadata, tokenizer, tensor table, and tensors that every span needs
	ShardEmbedding = "embedding" // the token embedding
	ShardBlock     = "block"     // one transformer block
	ShardOutput    = "output"    // final norm and output head
	ShardOther     = "other"     // tensors that no span needs (vision towers, ...): kept for export
)

// Manifest describes a model: what it is, and where each byte of its files
// belongs. It is made from the file alone, so the same file gives the same
// manifest, and so the same CID, wherever it is made. A manifest from a peer
// is trusted as far as its CID was, and its structure only after Check.
type Manifest struct {
	Format       string
	Name         string // general.name
	Architecture string
	Quantization string // the commonest type of the block tensors
	Licence      string // general.license
	Parameters   int64
	Context      int64 // tokens
	Blocks       int64
	Width        int64 // of a hidden state
	Vocab        int64
	TiedOutput   bool // the output head is the token embedding
	Files        []File
	Shards       []Shard
	Base         *cid.Cid // of an adapter: the manifest of the model that it adds to; nil: a model
}

// File is one of the model's files, in order; all but split models have one.
type File struct {
	Size   int64
	Sha256 []byte
}

// Shard is a separately addressed part of a model. Its content is that of its
// extents, one after another.
type Shard struct {
	Kind    string
	Block   int64 // of a ShardBlock, else -1
	Root    cid.Cid
	Size    int64
	Extents []Extent
	Tensors []TensorInfo
}

// Extent is a run of bytes of one of the model's files. No leaf crosses its
// ends.
type Extent struct {
	File   int64
	Offset int64
	Length int64
}

// TensorInfo says where a tensor's data lies.
type TensorInfo struct {
	Name   string
	Type   int64   // ggml's numbering
	Shape  []int64 // the fastest dimension first
	File   int64
	Offset int64 // from the file's start
	Length int64
}

const manifestSchema = `
type Manifest struct {
	format String
	name String
	architecture String
	quantization String
	licence String
	parameters Int
	context Int
	blocks Int
	width Int
	vocab Int
	tiedOutput Bool
	files [File]
	shards [Shard]
	base optional Link
}
type File struct {
	size Int
	sha256 Bytes
}
type Shard struct {
	kind String
	block Int
	root Link
	size Int
	extents [Extent]
	tensors [TensorInfo]
}
type Extent struct {
	file Int
	offset Int
	length Int
} representation tuple
type TensorInfo struct {
	name String
	type Int
	shape [Int]
	file Int
	offset Int
	length Int
} representation tuple
`

var manifestType = func() schema.TypedPrototype {
	ts, err := ipld.LoadSchemaBytes([]byte(manifestSchema))
	if err != nil {
		panic(err)
	}
	return bindnode.Prototype((*Manifest)(nil), ts.TypeByName("Manifest"))
}()

// Encode returns the manifest's canonical dag-cbor bytes and its CID. A manifest
// that is too long is an ErrManifest.
func (m *Manifest) Encode() ([]byte, cid.Cid, error) {
	var buf bytes.Buffer
	node := bindnode.Wrap(m, manifestType.Type())
	if err := dagcbor.Encode(node.Representation(), &buf); err != nil {
		return nil, cid.Undef, fmt.Errorf("encoding the manifest: %w", err)
	}
	if buf.Len() > MaxManifest {
		return nil, cid.Undef, fmt.Errorf("%w: %d bytes, where %d are allowed", ErrManifest, buf.Len(), MaxManifest)
	}
	id, err := cid.V1Builder{Codec: cid.DagCBOR, MhType: multihash.SHA2_256}.Sum(buf.Bytes())
	return buf.Bytes(), id, err
}

// DecodeManifest reads a manifest, which must be canonical, and checks it. All
// errors wrap ErrManifest.
func DecodeManifest(raw []byte) (m *Manifest, err error) {
	if len(raw) > MaxManifest {
		return nil, fmt.Errorf("%w: %d bytes, where %d are allowed", ErrManifest, len(raw), MaxManifest)
	}
	defer func() { // bindnode panics on some shapes that the schema does not foresee
		if r := recover(); r != nil {
			m, err = nil, fmt.Errorf("%w: %v", ErrManifest, r)
		}
	}()
	nb := manifestType.Representation().NewBuilder()
	if err := (dagcbor.DecodeOptions{AllowLinks: true, AllocationBudget: 64 << 20}).Decode(nb, bytes.NewReader(raw)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	m, ok := bindnode.Unwrap(nb.Build()).(*Manifest)
	if !ok {
		return nil, fmt.Errorf("%w: not a manifest", ErrManifest)
	}
	if err := m.Check(); err != nil {
		return nil, err
	}
	again, _, err := m.Encode()
	if err != nil || !bytes.Equal(again, raw) {
		return nil, fmt.Errorf("%w: its bytes are not canonical", ErrManifest)
	}
	return m, nil
}

// Check holds a manifest's structure to what every user of it relies on: the
// extents of all shards cover each file exactly once, tensors lie in their
// shard's extents, and there is one shard for each block; of an adapter, at most one.
// A manifest comes from
// strangers: the time this takes grows in proportion to its size. All errors
// wrap ErrManifest.
func (m *Manifest) Check() error {
	switch {
	case m.Format != ManifestFormat:
		return refuse("format %q; this version reads %q", m.Format, ManifestFormat)
	case m.Blocks < 1 || m.Blocks > 1<<16 || m.Width < 1 || m.Width > 1<<20 || m.Vocab < 0 || m.Vocab > 1<<24 || m.Context < 0 || m.Parameters < 0:
		return refuse("impossible dimensions")
	case len(m.Files) < 1 || len(m.Files) > 10_000:
		return refuse("%d files", len(m.Files))
	case len(m.Name) > 256 || len(m.Architecture) > 64 || len(m.Quantization) > 64 || len(m.Licence) > 4096:
		return refuse("overlong text")
	}
	var all []Extent
	tensors := 0
	blocks := make([]bool, m.Blocks)
	kinds := map[string]int{}
	for i := range m.Shards {
		s := &m.Shards[i]
		kinds[s.Kind]++
		all = append(all, s.Extents...)
		if tensors += len(s.Tensors); len(all) > MaxExtents || tensors > MaxTensors {
			return refuse("more than %d extents or %d tensors", MaxExtents, MaxTensors)
		}
		switch s.Kind {
		case ShardBlock:
			if s.Block < 0 || s.Block >= m.Blocks || blocks[s.Block] {
				return refuse("shard %d is of block %d", i, s.Block)
			}
			blocks[s.Block] = true
		case ShardHeader, ShardEmbedding, ShardOutput, ShardOther:
			if s.Block != -1 {
				return refuse("shard %d, %s, names a block", i, s.Kind)
			}
		default:
			return refuse("shard %d is of unknown kind %q", i, clip(s.Kind, 64))
		}
		if err := m.checkShard(i); err != nil {
			return err
		}
	}
	least := 1
	if m.Base != nil {
		if p := m.Base.Prefix(); !m.Base.Defined() || p.Version != 1 || p.Codec != cid.DagCBOR || p.MhType != multihash.SHA2_256 || p.MhLength != 32 {
			return refuse("it adds to %s, which is no model", *m.Base)
		}
		least, blocks = 0, nil // an adapter has shards of what it adds to alone
	}
	if kinds[ShardHeader] != 1 || kinds[ShardEmbedding] < least || kinds[ShardEmbedding] > 1 || kinds[ShardOutput] > 1 || kinds[ShardOther] > 1 ||
		slices.Contains(blocks, false) {
		return refuse("it lacks shards, or has some twice")
	}
	return m.checkCover(all)
}

func refuse(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrManifest, fmt.Sprintf(format, args...))
}

// checkShard holds a shard against the files and against itself.
func (m *Manifest) checkShard(i int) error {
	s := &m.Shards[i]
	if p := s.Root.Prefix(); !s.Root.Defined() || p.Version != 1 || p.Codec != cid.DagProtobuf && p.Codec != cid.Raw || p.MhType != multihash.SHA2_256 || p.MhLength != 32 {
		return refuse("shard %d has root %s", i, s.Root)
	}
	var size int64
	for _, e := range s.Extents {
		if e.File < 0 || e.File >= int64(len(m.Files)) || e.Offset < 0 || e.Length <= 0 || e.Length > m.Files[e.File].Size-e.Offset {
			return refuse("shard %d has an extent outside its file", i)
		}
		size += e.Length
	}
	if size != s.Size || size == 0 {
		return refuse("shard %d is of %d bytes, its extents of %d", i, s.Size, size)
	}
	sorted := slices.SortedFunc(slices.Values(s.Extents), Extent.compare)
	for k := range s.Tensors {
		if t := &s.Tensors[k]; !t.within(sorted) {
			return refuse("tensor %q lies outside its shard", clip(t.Name, 64))
		}
	}
	return nil
}

// checkCover holds that the extents of all shards cover each file once.
func (m *Manifest) checkCover(all []Extent) error {
	slices.SortFunc(all, Extent.compare)
	at := make([]int64, len(m.Files))
	for _, e := range all {
		if e.Offset != at[e.File] {
			return refuse("file %d: bytes %d to %d belong to no shard or to two", e.File, min(at[e.File], e.Offset), max(at[e.File], e.Offset))
		}
		at[e.File] += e.Length
	}
	for i, f := range m.Files {
		if f.Size <= 0 || f.Size > 1<<46 || len(f.Sha256) != 32 || at[i] != f.Size {
			return refuse("file %d is not covered to its end", i)
		}
	}
	return nil
}

// compare orders extents as they begin.
func (e Extent) compare(o Extent) int {
	return cmp.Or(cmp.Compare(e.File, o.File), cmp.Compare(e.Offset, o.Offset))
}

// within says that a tensor lies in the last extent that begins no later, of
// sorted ones; it lies in no other, as extents do not overlap.
func (t *TensorInfo) within(sorted []Extent) bool {
	i, found := slices.BinarySearchFunc(sorted, Extent{File: t.File, Offset: t.Offset}, Extent.compare)
	if !found {
		i--
	}
	if i < 0 || sorted[i].File != t.File {
		return false
	}
	e := sorted[i]
	return t.Length > 0 && t.Length <= e.Length && t.Offset-e.Offset <= e.Length-t.Length
}

// Size is that of all files, in bytes.
func (m *Manifest) Size() int64 {
	var n int64
	for _, f := range m.Files {
		n += f.Size
	}
	return n
}

// ShardsFor lists the indices of the shards that serving a span takes. A span
// that begins the model needs the embedding, and one that ends it the output
// head, which is the embedding again where the two are tied. An empty span
// takes the header alone: enough to tokenize.
func (m *Manifest) ShardsFor(s Span) []int {
	var out []int
	for i := range m.Shards {
		sh := &m.Shards[i]
		need := false
		switch sh.Kind {
		case ShardHeader:
			need = true
		case ShardEmbedding:
			need = s.Len() > 0 && (s.From == 0 || m.TiedOutput && s.To == int(m.Blocks))
		case ShardOutput:
			need = s.Len() > 0 && s.To == int(m.Blocks)
		case ShardBlock:
			need = s.From <= int(sh.Block) && int(sh.Block) < s.To
		}
		if need {
			out = append(out, i)
		}
	}
	return out
}

// All is the span of the whole model.
func (m *Manifest) All() Span { return Span{0, int(m.Blocks)} }

// ModelKey is the provider key of "I serve part of this model", and BucketKey
// of "... of its blocks [16*bucket, 16*bucket+16)": CIDs made of a text, since
// the DHT's provider records are kept by CID.
func ModelKey(model cid.Cid) cid.Cid { return textKey("shoal/model/" + model.String()) }

// BucketKey is the key of the bucket of a model's blocks; see ModelKey.
func BucketKey(model cid.Cid, bucket int) cid.Cid {
	return textKey(fmt.Sprintf("shoal/model/%s/%d", model, bucket))
}

func textKey(text string) cid.Cid {
	mh, err := multihash.Sum([]byte(text), multihash.SHA2_256, -1)
	if err != nil {
		panic(err) // SHA2-256 is always there
	}
	return cid.NewCidV1(cid.Raw, mh)
}

// Buckets of a span: those that it has a block in.
func Buckets(s Span) []int {
	var out []int
	for b := s.From / BucketBlocks; b*BucketBlocks < s.To; b++ {
		out = append(out, b)
	}
	return out
}
