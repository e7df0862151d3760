// Package scriptmodel makes models that answer with what they were told to. They are real
// GGUF files, of one architecture that engines run, so that an agent's command line can be
// tested end to end: its own request, the API, the network, an engine, a call, its result,
// and the next turn.
//
// The model is a chain: its blocks add nothing to a token's embedding, and each token's
// embedding makes exactly one other token likely. The chat template ends a prompt with
// one of several tokens, after which the chain spells one answer:
//
//	no tools offered             -> Plain
//	N results since the question -> Steps[N], and the last step for any more
//
// A step is text, or a call that [Call] writes. Each answer is one token, whatever its
// length. Of each message the template renders only the beginning, so that prompts stay
// short even if an agent sends a book.
package scriptmodel
