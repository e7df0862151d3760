// Package catalog reads lists of models by short names: what `qwen3:8b` is,
// where it can be had, under which licence and, where that is known, which
// bytes it is. It is pure: whoever uses it reads the files.
//
// A catalogue is a TOML file. The one in this folder, catalog.toml, is inside
// the program; operators put their own beside or in place of it.
//
//	replace = false          # true: forget what catalogues before this one list
//	own = false              # true: unsigned, and the operator's own
//	series = "team"          # which of its signer's catalogues this is; absent: the only one
//	serial = 3               # counts its editions from 1; absent: 0
//	date = "2026-11-30"      # of this edition
//
//	[[model]]
//	name = "qwen3:8b"        # lower case: family, colon, size; nothing that looks like a path, a URL or a CID
//	also = ["qwen3"]         # other names
//	title = "Qwen3 8B"
//	architecture = "qwen3"   # as GGUF names it
//	parameters = "8.2B"
//	quantization = "Q4_K_M"
//	licence = "Apache-2.0"
//	origins = ["hf:Qwen/Qwen3-8B-GGUF/Qwen3-8B-Q4_K_M.gguf"]
//	size = 5027783488        # bytes, of all parts together; 0 or absent: unknown
//	sha256 = ["d98c…"]       # of each part in order; absent: unknown
//	cid = "bafy…"            # of the manifest; absent: whatever the first import makes
//	checked = "…"            # how the entry was confirmed, for whoever keeps the list
//
// Of several origins all must have the same bytes, so more than one takes a
// sha256 or a CID. An entry without a CID is complete nevertheless: a manifest
// is made of the model's bytes alone, so everybody who imports the same file
// gets the same CID. What a name meant the first time is remembered by the
// node that used it, and a name never stands for another CID than that, nor
// for another than the entry's.
//
// # Signature
//
// The last line of a signed catalogue is a comment,
//
//	# signature ed25519 KEY SIGNATURE
//
// both in base64 (RFC 4648, padded): the public key's 32 bytes and the 64 of
// an Ed25519 signature (RFC 8032) over the text "shoal catalogue 1" and a
// newline, followed by every byte of the file before that line. So the file
// stays readable, and any change of it, of a line's end too, breaks the seal.
//
// Of what a key has signed in a series, a node takes no edition with a lower
// serial than one that it has taken before, which its home remembers: whoever
// can put an old file in a new one's place could otherwise bring back what was
// withdrawn. Files without a serial have the number 0, and stand in for each
// other. The catalogue in this folder is as old as the program.
//
// The key that seals the catalogue in this folder was made for that, and its
// private half was thrown away: nobody can sign another catalogue with it.
// Whoever runs the project makes a key of their own,
//
//	shoal model catalog keygen KEYFILE
//	shoal model catalog sign --key KEYFILE node/catalog/catalog.toml
//
// and puts the public half, which keygen prints, into project.pub.
package catalog
