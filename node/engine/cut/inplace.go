package cut

import (
	"encoding/binary"

	"github.com/shoalnet/shoal/protocol"
	"github.com/shoalnet/shoal/protocol/gguf"
)

// Lay is Of for a model that lies behind so many bytes of room in its file (0: it does
// not begin the file, or is split). Of the whole model no byte moves if the library
// takes it as it lies: the layout is then InPlace. Positions are those in that file.
func Lay(h *gguf.Header, span protocol.Span, room int64) (*Stage, error) {
	return layBehind(h, span, room, true)
}

func layBehind(h *gguf.Header, span protocol.Span, room int64, apart bool) (*Stage, error) {
	m, err := check(h, span)
	if err != nil {
		return nil, err
	}
	if room > 0 && span.Len() == len(m.Blocks) {
		if head, err := inPlace(h, room); head != nil || err != nil {
			return &Stage{Header: head, InPlace: true}, err
		}
	}
	return of(h, span, apart)
}

// inPlace returns a header that fits into the room before the model. Its metadata are
// the model's without a tokenizer; behind them it has an entry whose value are all the
// bytes from there to the model's own table of tensors, which thus serves both
// headers. It returns nil if the library would not take that table: where the tensors'
// data are not in the table's order, or not without gaps.
func inPlace(h *gguf.Header, room int64) ([]byte, error) {
	align := h.Alignment()
	at := uint64(0)
	for _, t := range h.Tensors {
		if t.Offset != at {
			return nil, nil
		}
		at += uint64(roundUp(int64(t.Bytes()), int64(align)))
	}
	whole, err := h.Append(nil)
	if err != nil {
		return nil, errf("its header cannot be read as it was written: %s", err)
	}
	bare, err := (&gguf.Header{KVs: h.KVs}).Append(nil)
	if err != nil || roundUp(room+int64(len(whole)), int64(align)) != h.DataOffset || uint64(room)%align != 0 {
		return nil, nil //nolint:nilerr // then it is laid out anew
	}
	table := room + int64(len(bare)) // where it lies in the file

	out := gguf.Header{Version: h.Version}
	for _, kv := range h.KVs {
		if kv.Key == "general.alignment" {
			kv.Value = uint32(align)
		}
		if !dropped(kv.Key) && kv.Key != h.Arch("vocab_size") {
			out.KVs = append(out.KVs, kv)
		}
	}
	out.KVs = append(out.KVs, noVocab(h, vocabulary(h))...)
	out.KVs = append(out.KVs, gguf.KV{Key: paddingKey, Value: []uint8{}})
	head, err := out.Append(nil)
	if err != nil || int64(len(head)) > room {
		return nil, nil //nolint:nilerr // likewise
	}
	binary.LittleEndian.PutUint64(head[8:], uint64(len(h.Tensors)))
	binary.LittleEndian.PutUint64(head[len(head)-8:], uint64(table-int64(len(head)))) // the last entry's length
	return head, nil
}
