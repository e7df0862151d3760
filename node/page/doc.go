// Package page is the web page of a node: chat, a picture of the network, the models, and
// what the node lends. The binary embeds static/ unchanged: plain HTML, CSS and JavaScript
// modules, without a build step.
//
// # What it trusts
//
// It trusts nothing that a model says. An answer is hostile text: it becomes a tree of a
// few kinds of nodes (markdown.js), and elements and text nodes are made of that
// one by one (dom.js). No text is ever parsed as HTML; links go to http, https
// and mailto alone. Peers' names and versions are text nodes, too. Should that
// fail, the content security policy lets no script run but the page's own and no
// request leave the page's origin.
//
// # How it stays quick
//
// The part of an answer that has arrived is split into blocks (a paragraph, a list, a
// piece of code). Only the last one is redrawn, once per frame, and a block that grows too
// long is split, so that one line of a megabyte costs no more than many short ones.
//
// # Where its data comes from
//
// Answers come from POST /v1/chat/completions with shoal's details, the picture and the
// lists from GET /shoal/v1/view. What the owner changes goes through shoal's own
// endpoints (manage.js, rules.js); package api decides who the owner is.
//
// # What the browser keeps
//
// Conversations are in IndexedDB, because localStorage has no room for attached files.
// All are read at the start: at most 500, and 40 million characters, which the page
// refuses to exceed instead of dropping any. They are stored while an answer grows, so
// that a reload loses seconds of it. Settings are in localStorage; an API key in
// sessionStorage or, if the user chooses so, in localStorage; the secret of an owner's
// session in localStorage, until the node forgets it.
//
// # A context that is full
//
// The page has no tokenizer. It learns from each answer how many characters a token has,
// leaves out the oldest turns that would not fit, and leaves out more whenever the node
// says that a prompt is too long (roll.js). The question itself is never cut.
package page
