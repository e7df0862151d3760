package text

// Pair puts two texts' tokens, which were made without special tokens, together as one
// sequence with the special tokens that the model expects of a pair: the beginning once,
// the
// end after each, and what separates them.
func (t *Tokenizer) Pair(a, b []int32) []int32 {
	var out []int32
	if t.addBOS && t.bos >= 0 {
		out = append(out, t.bos)
	}
	out = append(out, a...)
	if t.addEOS && t.eos >= 0 {
		out = append(out, t.eos)
	}
	if sep, ok := t.SEP(); ok {
		out = append(out, sep)
	}
	out = append(out, b...)
	if t.addEOS && t.eos >= 0 {
		out = append(out, t.eos)
	}
	return out
}
