// Package texts has answers of the kinds that people ask models for, with their prompts,
// to measure run-ahead decode with: files written again with changes, diffs, quotations,
// JSON, code and prose that are new, and two that nobody can guess. They are the same on
// every run. A ratio of speeds says what guessing is worth where a model writes such a
// text; how often models do is another question, and so kinds are never averaged with
// weights.
//
// [Vocabulary] makes tokens of them about as a language model's tokenizer does.
package texts
