// Package constrain determines which tokens may come next in an answer that
// must have a given format: a JSON value that satisfies a JSON schema, a text that
// matches a regular expression or a grammar, and the text around it.
//
//	format.go      pieces of the protocol -> an expression
//	grammar.go     a grammar in GBNF -> an expression
//	document.go    a schema's JSON, in its order
//	schema.go      a schema -> rules: references followed, alternatives expanded,
//	               requirements of several schemas on one value combined
//	keywords.go    what each keyword adds to the rules
//	conditions.go  not, if, oneOf and the like, rewritten as other schemas
//	validate.go    whether a value that a schema lists satisfies the rest of it
//	emit.go        rules -> an expression
//	strings.go     JSON's own syntax; numbers.go, multiples.go, pattern.go: what
//	               bounds and regular expressions leave of it
//	expr.go        expressions, and pruning of those that cannot be completed
//	lazy.go        expressions that are built as an answer gets there; fresh.go:
//	               those that depend on the answer's earlier values
//	machine.go     an expression -> states, and the tokens allowed in each
//	vocab.go       a model's tokens as a trie
//
// # How it works
//
// An expression is a graph of bytes, sequences, alternatives and repetitions,
// with cycles where a schema refers to itself. What may come next is a set of
// stacks of expressions, as in a recursive descent that follows all
// alternatives at once. Each set is built when it is first reached and kept
// with its 256 transitions, so that most steps are one table look-up: a
// deterministic automaton that is built only as far as needed. The tokens
// allowed in a state are found by walking the vocabulary's trie along with it,
// which cuts off most of it early. Inside a string nearly all tokens are
// allowed; those made of a few plain characters are precomputed, and only the
// others are walked. On 2 shared cores (AMD EPYC) a new state costs about 20 to
// 100 µs, the first in a string about 1 ms with 256,000 tokens, and a state
// seen before 10 µs; `go test -bench .` measures it.
//
// A length beside a pattern or format is counted beside its automaton: their
// product has too many states to build, but an answer visits few of them. In the
// same way a list without duplicates remembers which of a few values it has used.
// Of strings and numbers, which are too many to list, the values themselves are
// part of the state; they are read from the answer when an item ends, so tokens
// do not reach across that end.
//
// Expressions that cannot be completed are removed first, so that every answer
// begun can be completed. There are two exceptions, which are errors: a vocabulary
// without tokens for a required byte, and a list without duplicates of numbers
// within narrow bounds, where those that begin alike are used up.
//
// # Which values a schema allows
//
// Every allowed answer satisfies the schema, but not every value that satisfies
// it is allowed. Properties come in the schema's order, and optional ones may
// be left out; properties that it does not name are allowed only if
// additionalProperties, patternProperties or unevaluatedProperties is present and
// not false. There are no newlines and no indentation, and at most one blank after
// a comma or colon: models are known to write white space endlessly where it is
// allowed. For the same reason numbers have at most 18 digits, and 16 after the
// point, unless bounds require more. Strings described by a pattern, format, enum
// or const have only the escapes that they need. The items that contains asks for
// come first. A value listed by enum or const is checked against the rest of its
// schema.
//
// The opposite of a schema, which not, else and overlapping alternatives of oneOf
// need, is a list of alternatives, one for each keyword that can fail; those that
// cannot be written are left out. Where none is left, the keyword is refused.
// Unknown keywords and formats are annotations, as JSON Schema has it, except that
// nullable, which is OpenAPI's, allows null. A keyword that cannot be followed is an
// error that names it and its place.
//
// Schemas and formats come from strangers: their size, the work of compiling
// them and of each token, and the memory kept are bounded.
//
// # Why not a library
//
// The good ones (llguidance, XGrammar, Outlines) are in Rust, C++ and Python,
// and there is none in Go. llama.cpp's grammars are part of its sampler, which
// does not build as a dependency. A validator of JSON Schema cannot determine
// what may come next; the tests use one as their oracle.
package constrain
