package constrain

import (
	"errors"
	"fmt"

	"github.com/shoalnet/shoal/protocol"
)

// maxPieces bounds the pieces of a format, nested ones included.
const maxPieces = 4096

// Compile compiles a format into a machine. An error about a JSON schema is a
// *[SchemaError]; others are a malformed format or one with too many pieces.
func Compile(v *Vocab, format []*protocol.Piece) (*Machine, error) {
	b := newBuilder(v)
	root, err := b.pieces(format, new(int), 0)
	if err != nil {
		return nil, err
	}
	ok, n := prune(root)
	switch {
	case !ok:
		return nil, &SchemaError{Problem: errNothing.Error()}
	case n > maxExprs:
		return nil, &SchemaError{Problem: "is too large"}
	}
	return newMachine(v, root)
}

func (b *builder) pieces(list []*protocol.Piece, count *int, depth int) (*expr, error) {
	var out []*expr
	for _, p := range list {
		if *count++; *count > maxPieces || depth > 8 {
			return nil, errors.New("the format has too many pieces")
		}
		e, err := b.piece(p, count, depth)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return seq(out...), nil
}

func (b *builder) piece(p *protocol.Piece, count *int, depth int) (*expr, error) {
	switch k := p.GetKind().(type) {
	case *protocol.Piece_Text:
		return b.exactly(k.Text), nil
	case *protocol.Piece_Until:
		if k.Until == "" {
			return nil, errors.New("a piece of the format that ends with nothing")
		}
		return b.until(k.Until), nil
	case *protocol.Piece_Schema:
		return b.schema(k.Schema)
	case *protocol.Piece_Pattern:
		d, err := compilePattern(k.Pattern, true)
		if err != nil {
			return nil, fmt.Errorf("the pattern: %.64q %w", k.Pattern, err)
		}
		if err := b.spend(part{doc: trueDoc}, maxBudget/300+d.size()/50); err != nil {
			return nil, err
		}
		return unquoted(d), nil
	case *protocol.Piece_Grammar:
		return b.grammar(k.Grammar)
	case *protocol.Piece_Either:
		var ways []*expr
		for _, list := range k.Either.GetOf() {
			e, err := b.pieces(list.GetPieces(), count, depth+1)
			if err != nil {
				return nil, err
			}
			ways = append(ways, e)
		}
		return either(ways...), nil
	case *protocol.Piece_Again:
		e, err := b.pieces(k.Again.GetPieces(), count, depth+1)
		return repeat(e, 0, -1), err
	}
	return nil, fmt.Errorf("a piece of the format of an unknown kind")
}

// exactly is a fixed text. Control tokens that are written out in it match as
// tokens, if the vocabulary has them.
func (b *builder) exactly(text string) *expr {
	var list []*expr
	from := 0
	for i := 0; i < len(text); {
		id, n := b.vocab.markAt(text[i:])
		if n == 0 {
			i++
			continue
		}
		list = append(list, literal(text[from:i]), &expr{kind: kindMark, mark: id})
		i += n
		from = i
	}
	return seq(append(list, literal(text[from:]))...)
}

// until is anything up to and including a text.
func (b *builder) until(end string) *expr {
	anything := bytesOf(0, 255)
	if id, n := b.vocab.markAt(end); n == len(end) {
		free := repeat(anything, 0, -1)
		free.text = true
		return seq(free, &expr{kind: kindMark, mark: id})
	}
	// Knuth, Morris and Pratt's automaton: state i has matched i bytes of the
	// end.
	next := make([][256]int, len(end))
	back := 0
	for i := range len(end) {
		if i > 0 {
			next[i] = next[back]
			back = next[back][end[i]]
		}
		next[i][end[i]] = i + 1
	}
	nodes := make([]*expr, len(end)+1)
	nodes[len(end)] = empty
	for i := range len(end) {
		nodes[i] = &expr{kind: kindEither}
	}
	for i := range len(end) {
		to := map[int]*expr{}
		for c := range 256 {
			e := to[next[i][c]]
			if e == nil {
				e = &expr{kind: kindByte}
				to[next[i][c]] = e
				nodes[i].alts = append(nodes[i].alts, &expr{kind: kindSeq, a: e, b: nodes[next[i][c]]})
			}
			e.set.add(byte(c), byte(c))
		}
	}
	return nodes[0]
}
