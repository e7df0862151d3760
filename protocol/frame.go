package protocol

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
)

// ErrFrame is wrapped by every error about the bytes of a frame, as opposed
// to those of the stream that carries it.
var ErrFrame = errors.New("malformed frame")

// AppendFrame appends a frame: a varint length, the protobuf header, then the
// payload. It sets f.PayloadLen.
func AppendFrame(b []byte, f *Frame, payload []byte) ([]byte, error) {
	f.PayloadLen = uint32(len(payload))
	n := proto.Size(f)
	if n > MaxHeader || len(payload) > MaxPayload {
		return nil, fmt.Errorf("%w: header of %d and payload of %d bytes, where %d and %d are allowed", ErrFrame, n, len(payload), MaxHeader, MaxPayload)
	}
	b = binary.AppendUvarint(b, uint64(n))
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, f)
	if err != nil {
		return nil, err
	}
	return append(b, payload...), nil
}

// ReadFrame reads one frame. The payload is the caller's to keep. io.EOF means
// that the stream ended between two frames. maxPayload is what the reader
// expects at most; nothing is allocated for a frame that claims more.
func ReadFrame(r *bufio.Reader, maxPayload int) (*Frame, []byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		if err != io.EOF && err != io.ErrUnexpectedEOF && isOverflow(err) {
			err = fmt.Errorf("%w: length: %w", ErrFrame, err)
		}
		return nil, nil, err
	}
	if n > MaxHeader {
		return nil, nil, fmt.Errorf("%w: header of %d bytes, where %d are allowed", ErrFrame, n, MaxHeader)
	}
	head, err := readN(r, int(n))
	if err != nil {
		return nil, nil, err
	}
	f := new(Frame)
	if err := proto.Unmarshal(head, f); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	if f.Kind == nil {
		return nil, nil, fmt.Errorf("%w: of no known kind", ErrFrame)
	}
	if int64(f.PayloadLen) > int64(min(maxPayload, MaxPayload)) {
		return nil, nil, fmt.Errorf("%w: payload of %d bytes, where %d are allowed", ErrFrame, f.PayloadLen, min(maxPayload, MaxPayload))
	}
	payload, err := readN(r, int(f.PayloadLen))
	return f, payload, err
}

func isOverflow(err error) bool { return err.Error() == "binary: varint overflows a 64-bit integer" }

// readN reads n bytes, growing as they come: the length is a peer's claim.
func readN(r io.Reader, n int) ([]byte, error) {
	const chunk = 64 << 10
	b := make([]byte, min(n, chunk))
	for at := 0; ; {
		m, err := io.ReadFull(r, b[at:])
		at += m
		if err == io.EOF && n > 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && n > 0 {
			return nil, err
		}
		if at == n {
			return b, nil
		}
		b = append(b, make([]byte, min(n-at, len(b)))...)
	}
}
