// Package proc has the few things about processes that each operating system does
// in its own way: a group of its own for a child, its priority, whether a process
// lives, and the signals that Windows lacks. Files have theirs in package files.
package proc
