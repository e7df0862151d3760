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
// Answers from POST /v1/chat/completions with shoal's details; all else from GET
// /shoal/v1/view. Conversations stay in the browser's localStorage, a key in its
// sessionStorage.
package page
