// Package jinja renders Jinja templates in the dialect of Hugging Face's chat
// templates: jinja2 with trim_blocks, lstrip_blocks, loop controls, Hugging
// Face's tojson and generation blocks, and the methods of Python's strings,
// lists and dicts that such templates call.
//
//	lex.go      text -> tokens, with jinja2's trimming
//	parse.go    tokens -> statements and expressions, each a function
//	eval.go     runs statements, within limits
//	value.go    values: nil, bool, int64, float64, string, lists, ordered dicts
//	filters.go  filters, tests, global functions
//	methods.go  methods of values
//	pytext.go   upper and lower case as Python has them; pyformat.go: its formats
//	wrap.go     lines of a width
//
// A template comes with a model, from an untrusted source: it accesses no file,
// and its time, depth, memory and output are bounded. Any failure is a panic
// with a failure value, which [Parse] and [Template.Render] return as an error.
//
// What filters, methods and operators give is compared with jinja2 itself, set up as
// transformers does for chat templates: testdata/scripts/expressions.py.
//
// Differences from jinja2: integers have 64 bits, and what needs more fails; filters
// for web pages (striptags, urlize, xmlattr), random and filesizeformat do not exist;
// range returns a list; nothing is ever escaped, so text marked safe does
// not cause text joined to it to be escaped; filters return lists, not
// generators; a name that a template sets only later keeps its earlier value
// until then, where jinja2 treats it as undefined in the blocks between; and a
// few operations that fail in jinja2 do not fail here ("do", joining numbers).
//
// # Why not a library
//
// The design names gonja. Of the 70 chat templates that llama.cpp collects,
// gonja v2.9.1 renders 50 as jinja2 does; this package renders all that jinja2
// renders. Among the 20 are gpt-oss's, whose architecture is supported, and
// QwQ's: gonja does not parse a conditional in parentheses, does not have
// keyword arguments of macros and several methods, and sorts the keys of its
// JSON output, which changes the prompt from what a model was trained on. These
// are properties of its parser and its values that callers cannot change;
// llama.cpp and Hugging Face wrote their own renderers for similar reasons.
package jinja
