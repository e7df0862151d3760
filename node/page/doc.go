// Package page is the web page of a node: chat, the network as a picture, the
// models, and what the node lends. All of it is in the binary, as it is in
// static/: plain HTML, CSS and JavaScript modules, nothing to build.
//
// # What it trusts
//
// Nothing that a model says. An answer is hostile text: it becomes a tree of a
// few kinds of nodes (markdown.js), and elements and text nodes are made of that
// one by one (dom.js). No text is ever parsed as HTML; links go to http, https
// and mailto alone. Peers' names and versions are text nodes, too. Should that
// fail, the content security policy lets no script run but the page's own and no
// request leave the page's origin.
//
// # How it stays quick
//
// What has come of an answer is cut into blocks (a paragraph, a list, a piece of
// code). Only the last one is drawn anew, once a frame, and a block that grows too
// long is cut, so a line of a megabyte costs what many short ones do.
//
// # Where its data comes from
//
// Answers from POST /v1/chat/completions with shoal's details; all else from GET
// /shoal/v1/view. Conversations stay in the browser's localStorage, a key in its
// sessionStorage.
package page
