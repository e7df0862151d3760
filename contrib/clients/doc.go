// Command clients has clients that people use ask a network, and makes README's table of
// what works:
//
//	go run ./contrib/clients [--only NAME,…] [--write] [--shoal bin/shoal] [--cache DIR]
//
// Each client is one entry of the list in list.go, with pinned versions, and one small
// program in a folder of its language. It (rows of one package together) is installed into a directory of its own in the
// cache by its language's ordinary client (pip, npm, go, cargo, mvn), and its program runs
// once, with a home of its own. Programs of one language share their checks: cases.py,
// cases.mjs, and so on. A program that was built or installed once is used again until
// its entry or its source changes.
//
// There are two networks of two nodes each. One tells tales, over links slow enough that
// an answer can be cancelled: texts are compared with what the API answers to a plain
// request, and after a cancelled stream no session may be left. The other answers by a
// script (see package scriptmodel), so that a call of a free tool really happens: one call
// of weather, then a report that is JSON, so that the frameworks that send a format beside
// their tools can do that. Agents' command lines have a script each: it edits a file with
// the agent's own tool.
//
// A program prints "case NAME", then "ok NAME" or "fail NAME WHY" for each case that its
// client has, and "end" at last; so a crash or a hang counts against the case during
// which it happened. Cases are list, chat, stream, tools, structure, cancel and errors (an
// unknown model must be the client's own error, and say so).
//
// This is not part of the tests: it needs registries of five languages and some minutes,
// and what it finds depends on others' releases.
package main
