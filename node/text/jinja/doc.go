// Package jinja renders Jinja templates as Hugging Face's chat templates are
// written: jinja2 with trim_blocks, lstrip_blocks, loop controls, its tojson and
// its generation blocks, and the methods of Python's strings, lists and dicts
// that they call.
//
//	lex.go      text -> tokens, with jinja2's trimming
//	parse.go    tokens -> statements and expressions, each a function
//	eval.go     runs statements, within limits
//	value.go    values: nil, bool, int64, float64, string, lists, ordered dicts
//	filters.go  filters, tests, global functions
//	methods.go  what values answer to
//
// A template comes with a model, from anywhere: it reaches no file, and its
// time, depth, memory and output are bounded. All of it fails by panicking with
// a failure, which [Parse] and [Template.Render] return as an error.
//
// What differs from jinja2: nothing is ever escaped, so that what is marked safe
// does not escape what is joined to it; filters give lists, not generators; a
// name that a template sets only later is what it was before, where jinja2 takes
// it for undefined in the blocks between; and a few things that fail there do
// not here ("do", joining numbers).
//
// # Why not a library
//
// The design names gonja. Of the 70 chat templates that llama.cpp collects,
// gonja v2.9.1 renders 50 as jinja2 does; this renders all that jinja2 renders.
// Among the 20 are the one of gpt-oss, whose architecture is supported, and
// QwQ's: gonja does not parse a conditional in parentheses, lacks keyword
// arguments of macros and several methods, and sorts the keys of what it writes
// as JSON, which a model was not trained on. Those are properties of its parser
// and its values, out of reach from outside; llama.cpp and Hugging Face came to
// write their own for like reasons.
package jinja
