// Package constrain says which tokens may come next in an answer that must have a
// given format: a JSON value of a JSON schema, and what stands around it.
//
//	format.go    pieces of the protocol -> an expression
//	document.go  a schema's JSON, in its order
//	schema.go    a schema -> rules: references followed, alternatives opened,
//	             what several schemas say of one value put together
//	keywords.go  what each keyword adds to the rules
//	emit.go      rules -> an expression
//	strings.go   JSON's own syntax; numbers.go, pattern.go: what bounds and
//	             regular expressions leave of it
//	expr.go      expressions, and taking away what can never end
//	machine.go   an expression -> states, and for each the tokens that may come
//	vocab.go     a model's tokens as a trie
//
// # How it works
//
// An expression is a graph of bytes, sequences, alternatives and repetitions; it
// comes back to itself where a schema does. What may come next is a set of stacks
// of expressions, as in a recursive descent that takes all ways at once. Each set
// is made when it is first reached and kept with its 256 ways on, so that most
// steps are one look into a table: a deterministic automaton that is made as far
// as it is needed. The tokens of a state are found by walking the vocabulary's
// trie along with it, which cuts off most of it at once. Inside a string nearly
// all tokens may come; those that are a few plain characters are known beforehand,
// and the others alone are walked. On 2 shared cores (AMD EPYC) a state costs some
// 20 to 100 µs, the first in a string about 1 ms with 256,000 tokens, one that was
// met before 10 µs; `go test -bench .` measures it.
//
// Expressions that can never end are taken away first, so that whatever an answer
// has begun it can also end. Where the vocabulary lacks a byte it cannot: that is
// an error.
//
// # What comes of a schema
//
// All that is allowed follows the schema; not all that follows it is allowed.
// Properties come in the schema's order, optional ones may be left out; others
// than those it names come only if additionalProperties is written and not false.
// There are no lines and no indents, and one blank at most behind a comma or
// colon: models are known to write white space for ever where it may stand. For
// the same reason numbers have 18 digits at most, and 16 behind the point, unless
// bounds ask for more. Strings that a pattern, format, enum or const describes
// have no escapes but those that they need. oneOf counts as anyOf. A keyword that
// is not followed is an error that names it and its place; annotations are passed
// over.
//
// Schemas and formats come from strangers: their size, the work of compiling them
// and of each token, and what is kept are bounded.
//
// # Why not a library
//
// Those that do this well (llguidance, XGrammar, Outlines) are Rust, C++ and
// Python, and there is none in Go; llama.cpp's grammars come with its sampler,
// which does not build as a dependency. A
// validator of JSON Schema cannot say what may come next; one is the tests'
// oracle.
package constrain
