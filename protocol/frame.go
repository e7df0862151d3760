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
// payload. It sets f.PayloadLen. A frame that is too long to be read is an
// ErrFrame.
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

// Limits are what a reader takes of a frame at most.
type Limits struct {
	Header, Payload int // bytes; never more than MaxHeader and MaxPayload

	// Take is asked before memory is taken for a part of the frame, with its
	// bytes: as they come, not as the frame says. Its error ends the reading.
	// nil: there is enough.
	Take func(bytes int) error
}

// ReadFrame reads one frame. The payload is the caller's to keep. maxPayload is
// the most bytes that the reader expects; nothing is allocated for a frame that
// claims more. Errors are ErrFrame for a malformed frame, io.EOF if the stream
// ended between two frames, and otherwise the stream's.
func ReadFrame(r *bufio.Reader, maxPayload int) (*Frame, []byte, error) {
	return ReadFrameWithin(r, Limits{Header: MaxHeader, Payload: maxPayload})
}

// ReadFrameWithin reads one frame within the given limits; it returns what
// ReadFrame does.
func ReadFrameWithin(r *bufio.Reader, l Limits) (*Frame, []byte, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		if err != io.EOF && err != io.ErrUnexpectedEOF && isOverflow(err) {
			err = fmt.Errorf("%w: length: %w", ErrFrame, err)
		}
		return nil, nil, err
	}
	if most := min(l.Header, MaxHeader); n > uint64(most) {
		return nil, nil, fmt.Errorf("%w: header of %d bytes, where %d are allowed", ErrFrame, n, most)
	}
	head, err := readN(r, int(n), l.Take)
	if err != nil {
		return nil, nil, err
	}
	f := new(Frame)
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(head, f); err != nil { // what is not known takes no room
		return nil, nil, fmt.Errorf("%w: %w", ErrFrame, err)
	}
	if f.Kind == nil {
		return nil, nil, fmt.Errorf("%w: of no known kind", ErrFrame)
	}
	if most := min(l.Payload, MaxPayload); int64(f.PayloadLen) > int64(most) {
		return nil, nil, fmt.Errorf("%w: payload of %d bytes, where %d are allowed", ErrFrame, f.PayloadLen, most)
	}
	payload, err := readN(r, int(f.PayloadLen), l.Take)
	return f, payload, err
}

func isOverflow(err error) bool { return err.Error() == "binary: varint overflows a 64-bit integer" }

// readN reads n bytes, growing as they come: the length is a peer's claim.
func readN(r io.Reader, n int, take func(int) error) ([]byte, error) {
	const chunk = 4 << 10
	var b []byte
	for at := 0; ; {
		more := min(n-at, max(chunk, len(b)))
		if take != nil {
			if err := take(more); err != nil {
				return nil, err
			}
		}
		b = append(b, make([]byte, more)...)
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
	}
}
