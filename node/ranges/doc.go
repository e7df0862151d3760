// Package ranges reads what a server says about the part of a file that it sends:
// the header Content-Range, as RFC 9110 (section 14.4) has it.
//
// Two readers of origins need it, the store's, which resumes a transfer, and the
// exchange's, which asks for leaves. A server may send less than it was asked for,
// and need not say how large the whole is; both are right, and the reader asks for
// the rest. What it may not do is to send another part.
package ranges
