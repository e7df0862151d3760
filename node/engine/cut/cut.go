package cut

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/blocks"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Stage is how a file of a span is made from the model's own.
type Stage = gguf.Layout

// block is the size to which disks' file systems work, in bytes. Ranges that lie alike
// in relation to it can be shared between files.
const block = 4096

// few is the vocabulary of a file that neither begins nor ends the model.
const few = 32

// Of returns the file of a span for llama.cpp's library. The positions of h's tensors
// are those in the model's file; a split model's tensors are those of all parts. Errors
// wrap protocol.ErrCut.
func Of(h *gguf.Header, span protocol.Span) (*Stage, error) { return of(h, span, true) }

// of is Of. The embedding may lie apart from the library's tensors if apart is set.
func of(h *gguf.Header, span protocol.Span, apart bool) (*Stage, error) {
	m, err := check(h, span)
	if err != nil {
		return nil, err
	}
	c := &cutter{h: h, m: m, run: len(m.Blocks) - m.Ahead, vocab: vocabulary(h)}
	c.first, c.last = span.From == 0, span.To == len(m.Blocks)
	c.span = protocol.Span{From: span.From, To: min(span.To, c.run)}
	if apart {
		c.apart = c.aside()
	}
	if c.size = c.vocab; !c.first && !c.last || c.apart != nil {
		c.size = min(few, c.vocab)
	}
	out := gguf.Header{Version: h.Version}
	if out.KVs, err = c.metadata(span); err != nil {
		return nil, err
	}
	placed, err := c.tensors()
	if err != nil {
		return nil, err
	}
	out.KVs = append(out.KVs, c.beside(placed)...)
	return lay(&out, placed, h.Alignment())
}

type cutter struct {
	h           *gguf.Header
	m           *blocks.Model
	span        protocol.Span // of blocks that are run
	run         int           // blocks of the model that are
	first, last bool
	vocab       uint64       // the model's tokens
	size        uint64       // the file's
	apart       *gguf.Tensor // the embedding, where it lies behind the library's tensors
	scale       float32      // of its numbers then
}

// placed is a tensor of the file.
type placed struct {
	gguf.Tensor
	from  int64 // where its data lie in the model's file; -1: they are a hole
	aside bool  // it lies behind all others, and is not the library's
}

// tensors returns the file's tensors in the order in which they are to lie there.
func (c *cutter) tensors() ([]placed, error) {
	var out []placed
	for _, t := range c.h.Tensors {
		part, n := gguf.PartOf(t.Name, c.run)
		from := c.h.DataOffset + int64(t.Offset)
		switch part {
		case gguf.PartNone:
			if !apart(t.Name, len(c.m.Blocks)) {
				return nil, errf("its tensor %.60q names no block of %d; is the file complete?", t.Name, len(c.m.Blocks))
			}
			continue
		case gguf.PartBlock:
			if n < c.span.From || n >= c.span.To {
				continue
			}
			t.Name = renamed(t.Name, n-c.span.From)
		case gguf.PartEmbedding:
			if c.apart != nil || !c.first && !(c.last && tied(c.h)) {
				t, from = c.hole(t), -1
			}
		case gguf.PartOutput:
			if !c.last {
				t, from = c.hole(t), -1
			}
		}
		out = append(out, placed{Tensor: t, from: from})
		if t.Name == "token_embd.weight" && len(t.Shape) == 2 && c.first && !c.last && tied(c.h) && slices.Contains(heads, c.m.Arch) {
			t.Name = "output.weight"
			out = append(out, placed{Tensor: c.hole(t), from: -1})
		}
	}
	if len(out) == 0 {
		return nil, errf("blocks %s have no tensors", c.span)
	}
	slices.SortStableFunc(out, func(a, b placed) int { return cmp.Compare(a.from, b.from) })
	if c.apart != nil {
		out = append(out, placed{Tensor: *c.apart, from: c.h.DataOffset + int64(c.apart.Offset), aside: true})
	}
	return out, nil
}

// apart reports whether a tensor that belongs to no part of the model is left out on
// purpose: it is of a block that drafts tokens, or of another model in the file.
func apart(name string, blocks int) bool {
	head, rest, _ := strings.Cut(name, ".")
	if head != "blk" {
		return true
	}
	number, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(number)
	return err == nil && n >= 0 && n < blocks
}

// hole returns a tensor that is there for the library alone, as small as it may be.
func (c *cutter) hole(t gguf.Tensor) gguf.Tensor {
	if t.Name != "token_embd.weight" && !strings.HasPrefix(t.Name, "output.") {
		return t
	}
	t.Shape = slices.Clone(t.Shape)
	if n := len(t.Shape) - 1; t.Shape[n] == c.vocab {
		t.Shape[n] = c.size
	}
	if len(t.Shape) == 2 {
		t.Type = smallest(t)
	}
	return t
}

// smallest is the type that takes the least room for a matrix, of those for which the
// library has no layout of its own: it would keep a copy in that.
func smallest(t gguf.Tensor) gguf.Type {
	best := t
	for _, kind := range []gguf.Type{19, 6} { // IQ1_S, Q5_0
		if was := best.Bytes(); t.Shape[0]%kind.Block() == 0 {
			if t.Type = kind; t.Bytes() < was {
				best = t
			}
		}
	}
	return best.Type
}

// renamed returns the name of a block's tensor with the block's number changed.
func renamed(name string, n int) string {
	_, rest, _ := strings.Cut(strings.TrimPrefix(name, "blk."), ".")
	return "blk." + strconv.Itoa(n) + "." + rest
}

// lay gives the tensors their places behind the header.
func lay(out *gguf.Header, tensors []placed, align uint64) (*Stage, error) {
	s := &gguf.Layout{}
	var longest gguf.Piece
	at := int64(0) // in the data
	for _, t := range tensors {
		if t.Offset = uint64(at); !t.aside {
			out.Tensors = append(out.Tensors, t.Tensor)
		}
		size := int64(t.Bytes())
		if t.from >= 0 {
			if n := len(s.Pieces) - 1; n >= 0 && t.from-s.Pieces[n].From == at-s.Pieces[n].At { // goes on as it does in the model
				s.Pieces[n].Length = at + size - s.Pieces[n].At
			} else {
				s.Pieces = append(s.Pieces, gguf.Piece{From: t.from, At: at, Length: size})
			}
			if p := s.Pieces[len(s.Pieces)-1]; p.Length > longest.Length {
				longest = p
			}
		}
		at = roundUp(at+size, int64(align))
		if at < 0 || at > 1<<56 {
			return nil, errf("its tensors take more than any disk has")
		}
	}
	padding := make([]byte, 0, block)
	set := func(n int64) ([]byte, error) {
		out.KVs = slices.DeleteFunc(out.KVs, func(kv gguf.KV) bool { return kv.Key == paddingKey })
		out.KVs = append(out.KVs, gguf.KV{Key: paddingKey, Value: padding[:n]})
		raw, err := out.Append(nil)
		if err != nil {
			return nil, errf("its header cannot be written: %s", err)
		}
		return append(raw, make([]byte, roundUp(int64(len(raw)), int64(align))-int64(len(raw)))...), nil
	}
	head, err := set(0)
	if err != nil {
		return nil, err
	}
	if shift := (longest.From - longest.At - int64(len(head))) % block; shift != 0 {
		if head, err = set((shift + block) % block); err != nil {
			return nil, err
		}
	}
	s.Header = head
	for i := range s.Pieces {
		s.Pieces[i].At += int64(len(head))
	}
	s.Size = int64(len(head)) + at
	return s, nil
}

// paddingKey names metadata whose value is there to take room.
const paddingKey = "shoal.padding"

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// vocabulary returns the number of tokens that the model's tensors have.
func vocabulary(h *gguf.Header) uint64 {
	for _, t := range h.Tensors {
		if t.Name == "token_embd.weight" && len(t.Shape) == 2 {
			return t.Shape[1]
		}
	}
	if tokens, ok := h.Value("tokenizer.ggml.tokens").([]string); ok {
		return uint64(len(tokens))
	}
	n, _ := h.Uint(h.Arch("vocab_size"))
	return n
}

// tied reports whether the embedding is the output head, too.
func tied(h *gguf.Header) bool {
	return !slices.ContainsFunc(h.Tensors, func(t gguf.Tensor) bool { return t.Name == "output.weight" })
}

// metadata returns the file's.
func (c *cutter) metadata(span protocol.Span) ([]gguf.KV, error) {
	set, err := c.changes(span)
	if err != nil {
		return nil, err
	}
	var out []gguf.KV
	for _, kv := range c.h.KVs {
		if v, ok := set[kv.Key]; ok {
			kv.Value = v
			delete(set, kv.Key)
		}
		if kv.Value != nil && !dropped(kv.Key) {
			out = append(out, kv)
		}
	}
	for _, kv := range added(set) {
		if kv.Value != nil {
			out = append(out, kv)
		}
	}
	return append(out, noVocab(c.h, c.size)...), nil
}

// dropped reports whether a key of the model's has no place in the file.
func dropped(key string) bool {
	return strings.HasPrefix(key, "tokenizer.") && key != "tokenizer.ggml.token_type_count" || strings.HasPrefix(key, "split.") ||
		strings.HasPrefix(key, "shoal.")
}

// noVocab are the entries that say that there is no text behind the tokens.
func noVocab(h *gguf.Header, tokens uint64) []gguf.KV {
	return []gguf.KV{{Key: "tokenizer.ggml.model", Value: "no_vocab"}, {Key: h.Arch("vocab_size"), Value: uint32(min(tokens, 1<<31))}}
}

// added are entries in a fixed order.
func added(set map[string]any) (out []gguf.KV) {
	for k, v := range set {
		out = append(out, gguf.KV{Key: k, Value: v})
	}
	slices.SortFunc(out, func(a, b gguf.KV) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// changes are the keys whose value is another in the file than in the model; nil: the
// file has none.
func (c *cutter) changes(span protocol.Span) (map[string]any, error) {
	h := c.h
	set := map[string]any{
		h.Arch("block_count"): uint32(c.span.Len()), h.Arch("vocab_size"): nil,
		"shoal.span": fmt.Sprintf("%s of %d", span, len(c.m.Blocks)),
	}
	own := func(key string, v any) { set[h.Arch(key)] = v }
	lower := func(key string, to int) {
		if h.Value(h.Arch(key)) != nil {
			own(key, uint32(max(0, to)))
		}
	}
	if v := h.Value("general.alignment"); v != nil {
		set["general.alignment"] = uint32(h.Alignment()) // the library reads this type only
	}
	lower("nextn_predict_layers", 0)
	if err := c.lists(set); err != nil || c.first && c.last {
		return set, err
	}
	c.patterns(own)
	dense, _ := h.Uint(h.Arch("leading_dense_block_count"))
	lower("leading_dense_block_count", min(int(min(dense, mostBlocks))-c.span.From, c.span.Len()))
	lower("attention.shared_kv_layers", c.span.To-max(c.run-c.m.Shared, c.span.From))
	own("deepstack_mapping", nil) // images' features, which no stage is given
	lower("n_deepstack_layers", 0)
	if !c.first {
		own("embedding_scale", float32(1)) // of embeddings, not of hidden states
	}
	switch c.m.Arch {
	case "deepseek2":
		c.deepseek2(own)
	case "minicpm":
		if h.Value(h.Arch("residual_scale")) == nil {
			own("residual_scale", residualScale(c.run))
		}
	case "glm4moe":
		// The library takes hidden states only with positions of several parts, which
		// are equal for text.
		if !c.first && !sections(h) {
			own("rope.dimension_sections", []int32{1, 1, 0, 0})
		}
	}
	return set, nil
}

// sections reports whether positions have several parts.
func sections(h *gguf.Header) bool {
	list, _ := h.Value(h.Arch("rope.dimension_sections")).([]int32)
	return len(list) > 1 && list[0] > 0 && list[1] > 0
}

// deepseek2 writes what the library takes from the number of blocks.
func (c *cutter) deepseek2(own func(key string, v any)) {
	h := c.h
	if h.Value(h.Arch("attention.q_lora_rank")) == nil {
		own("attention.q_lora_rank", uint32(0))
	}
	if n, _ := h.Uint(h.Arch("expert_gating_func")); n == 0 {
		sigmoid := (c.run == 47 || c.run == 48) && c.vocab == 154880
		own("expert_gating_func", map[bool]uint32{false: 1, true: 2}[sigmoid])
	}
}
