package link

import (
	"io"
	"net"
	"time"

	manet "github.com/multiformats/go-multiaddr/net"
)

// Machine is one machine's end of a link: everything that it sends over forwarded
// connections shares one uplink. It is safe for concurrent use.
type Machine struct{ up *uplink }

// Machine returns a machine on a link with these Params.
func (p Params) Machine() *Machine { return &Machine{newUplink(p)} }

// Forward puts the link between programs that know nothing of it: whoever connects to l
// counts as a program on machine from, and is connected to the TCP address to, which
// counts as one on machine at. It returns the error with which l stops accepting, such as
// net.ErrClosed; connections that exist then go on. An address that cannot be reached
// ends the connection, as a distant one would.
func Forward(l net.Listener, from, at *Machine, to string) error {
	for {
		near, err := l.Accept()
		if err != nil {
			return err
		}
		go forward(near, from, at, to)
	}
}

func forward(near net.Conn, from, at *Machine, to string) {
	now := time.Now() // when the first packet of the handshake leaves
	far, err := net.Dial("tcp", to)
	if err != nil {
		near.Close()
		return
	}
	there := onLink(far, from.up, now.Add(from.up.RTT))
	back := onLink(near, at.up, now.Add(at.up.RTT*3/2))
	done := make(chan struct{})
	go func() {
		defer close(done)
		carry(back, there)
	}()
	carry(there, back)
	<-done
	there.Close()
	back.Close()
}

// onLink delays what is written to c, the first bytes until start.
func onLink(c net.Conn, up *uplink, start time.Time) *conn {
	m, err := manet.WrapNetConn(c)
	if err != nil {
		panic(err) // it is a TCP connection
	}
	return newConn(m, up, start)
}

// carry writes what comes from src to dst, and ends dst's stream where src's ends. Once
// dst can no longer be written to, nothing more is read from src.
func carry(dst, src *conn) {
	_, err := io.Copy(dst, src)
	if err != nil {
		src.Close()
	}
	_ = dst.CloseWrite()
}
