package gguf

// Layout is how a GGUF file is made from ranges of another.
type Layout struct {
	Header  []byte  // the file's beginning
	Pieces  []Piece // in the order in which they lie in the file; what lies between them is zeros
	Size    int64   // of the file, in bytes
	InPlace bool    // the header alone makes a file of the other, written before its own; there are no pieces
}

// Piece is a range of bytes.
type Piece struct {
	From   int64 // where it lies in the other file, in bytes
	At     int64 // where it comes to lie
	Length int64
}
