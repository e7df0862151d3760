// Package install puts llama.cpp's library into a home: a build that others have made
// and published as a package, pinned here by version and checksum.
//
//	builds.go   which build is for which machine, and its checksum
//	fetch.go    from a registry, or from a file
//	unpack.go   out of the archive: libraries and the licence, and nothing else
//
// Nothing of an archive is read before all of it has the checksum. It is unpacked beside
// its place and renamed to it, so that a folder in the home is whole or not there, and
// after a failure nothing is left. A broken download begins again: a build is some
// megabytes, and a part kept for later would be one more thing to verify.
//
// No registry's address is built in: which one is used, and through which mirror, is the
// business of whoever runs the machine. The caller takes it from a flag, from the
// environment or from the registry's own client.
package install
