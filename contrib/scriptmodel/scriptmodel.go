package scriptmodel

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strings"

	"github.com/shoalnet/shoal/protocol/gguf"
)

// Script is what a model says.
type Script struct {
	Name  string   `json:"name"`  // of the model
	Steps []string `json:"steps"` // answers to a question, and to the results of its calls; at least one
	Plain string   `json:"plain"` // the answer where no tools are offered
}

// Call returns a step that calls a function, spelled as a demanded call is: an answer that
// must follow a format allows no other spelling. Several calls may be joined.
func Call(name string, arguments any) string {
	args, err := json.Marshal(arguments)
	if err != nil {
		panic(err) // the arguments are no JSON
	}
	return fmt.Sprintf("<tool_call>\n{\"name\": %q, \"arguments\": %s}\n</tool_call>", name, args)
}

// Sizes of the model. The width bounds the number of steps: each answer's two tokens have
// a direction of their own.
const (
	width   = 256
	heads   = 4
	forward = 32
	blocks  = 2
	context = 131072

	// MaxSteps is how many answers a script may have, Plain included.
	MaxSteps = width/2 - 1
)

// end is the token that ends an answer. It is the first behind those of the bytes.
const end = 256

// GGUF returns the model's file.
func (s Script) GGUF() ([]byte, error) {
	answers := append([]string{s.Plain}, s.Steps...)
	if len(s.Steps) == 0 || len(answers) > MaxSteps {
		return nil, fmt.Errorf("a script has from 1 to %d steps, not %d", MaxSteps-1, len(s.Steps))
	}
	var tokens []string
	var kinds []int32
	token := func(text string, kind int32) {
		tokens, kinds = append(tokens, text), append(kinds, kind)
	}
	const normal, control = 1, 3
	for b := range end {
		token(spelled(string([]byte{byte(b)})), normal)
	}
	token("<|end|>", control)
	for i, text := range answers {
		token(fmt.Sprintf("<|answer%d|>", i), control)
		token(spelled(text), normal)
	}
	embedding, output := weights(len(tokens), len(answers))
	return assemble(header(s.Name, blocks, tokens, kinds, end, template(len(s.Steps))), embedding, output, blocks)
}

// template renders the beginning of each message, and the names of tools: what a template
// must show to count as one that knows tools.
func template(steps int) string {
	return `{%- set ns = namespace(results=0) -%}
{%- if tools -%}tools:{%- for t in tools %} {{ t.function.name }}{%- endfor -%}
{%- endif -%}
{%- for m in messages -%}
{%- if m.role == 'user' -%}{%- set ns.results = 0 -%}
{%- elif m.role == 'tool' -%}{%- set ns.results = ns.results + 1 -%}{%- endif -%}
{{- '\n' + m.role + ': ' + m.content[:80] -}}
{%- for c in m.tool_calls or [] -%}
{{- '\n<tool_call>' + ({'name': c.function.name, 'arguments': c.function.arguments} | tojson)[:200] + '</tool_call>' -}}
{%- endfor -%}
{%- endfor -%}
{%- if not tools -%}<|answer0|>` + branches(steps) + `{%- endif -%}`
}

func branches(steps int) string {
	var b strings.Builder
	for i := range steps - 1 {
		fmt.Fprintf(&b, "{%%- elif ns.results == %d -%%}<|answer%d|>", i, i+1)
	}
	fmt.Fprintf(&b, "{%%- else -%%}<|answer%d|>", steps)
	return b.String()
}

// weights returns the rows of the embedding and of the output, by token; e(i) is the unit
// vector of number i:
//
//	a byte, the end, an answer's text  e(0)         <- the end's output
//	the start of answer i              e(1 + i)     <- the output of answer i's text
func weights(vocab, answers int) (embedding, output []float32) {
	embedding, output = make([]float32, vocab*width), make([]float32, vocab*width)
	for t := range vocab {
		embedding[t*width] = 1
	}
	const sure = 8 // the last norm makes of a unit vector one of length 16: the logits are 128 and 0
	output[end*width] = sure
	for i := range answers {
		start := end + 1 + 2*i
		embedding[start*width], embedding[start*width+1+i] = 0, 1
		output[(start+1)*width+1+i] = sure
	}
	return embedding, output
}

// assemble returns the file: the header, padding, and the weights as F32. Blocks add
// nothing to what they get.
func assemble(h *gguf.Header, embedding, output []float32, blocks int) ([]byte, error) {
	vocab := len(embedding) / width
	one := make([]float32, width)
	for i := range one {
		one[i] = 1
	}
	var data []byte
	add := func(name string, values []float32, shape ...uint64) {
		h.Tensors = append(h.Tensors, gguf.Tensor{Name: name, Shape: shape, Offset: uint64(len(data))})
		for _, v := range values {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
		}
	}
	zero := func(n int) []float32 { return make([]float32, n) }
	add("token_embd.weight", embedding, width, uint64(vocab))
	for b := range blocks {
		block := fmt.Sprintf("blk.%d.", b)
		add(block+"attn_norm.weight", one, width)
		for _, name := range []string{"attn_q", "attn_k", "attn_v", "attn_output"} {
			add(block+name+".weight", zero(width*width), width, width)
		}
		add(block+"ffn_norm.weight", one, width)
		add(block+"ffn_gate.weight", zero(width*forward), width, forward)
		add(block+"ffn_up.weight", zero(width*forward), width, forward)
		add(block+"ffn_down.weight", zero(width*forward), forward, width)
	}
	add("output_norm.weight", one, width)
	add("output.weight", output, width, uint64(vocab))
	file, err := h.Append(nil)
	if err != nil {
		return nil, err
	}
	file = append(file, make([]byte, -len(file)&31)...)
	return append(file, data...), nil
}

// spelled writes bytes in the letters of GPT-2's vocabulary: a printable byte is itself,
// others are the letters from U+0100 on.
func spelled(text string) string {
	var b strings.Builder
	for i := range len(text) {
		b.WriteRune(letters[text[i]])
	}
	return b.String()
}

var letters = func() (out [256]rune) {
	next := rune(256)
	for b := range out {
		if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae {
			out[b] = rune(b)
			continue
		}
		out[b] = next
		next++
	}
	return out
}()
