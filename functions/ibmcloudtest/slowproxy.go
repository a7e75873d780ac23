package ibmcloudtest

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// A SlowProxy forwards TCP connections to a server and delays them as if the server were far away: connecting
// takes one round trip, and each byte half a round trip. It counts the connections.
type SlowProxy struct {
	listener    net.Listener
	target      string
	roundTrip   time.Duration
	connections atomic.Int64
}

// NewSlowProxy listens on a free loopback port and forwards to the server at target, host:port.
func NewSlowProxy(target string, roundTrip time.Duration) (*SlowProxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &SlowProxy{listener: listener, target: target, roundTrip: roundTrip}
	go p.serve()
	return p, nil
}

// Addr is where the proxy listens, host:port.
func (p *SlowProxy) Addr() string { return p.listener.Addr().String() }

// Connections is how many connections were made so far.
func (p *SlowProxy) Connections() int { return int(p.connections.Load()) }

// Close stops listening. Connections end with their clients.
func (p *SlowProxy) Close() error { return p.listener.Close() }

func (p *SlowProxy) serve() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			p.connections.Add(1)
			go p.forward(client)
		}
	}
}

// forward handles one connection. The client connects at once; to delay that, too, nothing is forwarded
// before a round trip has passed.
func (p *SlowProxy) forward(client net.Conn) {
	connected := time.Now().Add(p.roundTrip)
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	go carry(server, client, connected, p.roundTrip/2)
	carry(client, server, connected, p.roundTrip/2)
}

// carry copies bytes from one connection to another and closes both at the end. A byte arrives late after it
// was read, or after connected if it was read before.
func carry(to, from net.Conn, connected time.Time, late time.Duration) {
	type segment struct {
		bytes []byte
		due   time.Time
	}
	flight := make(chan segment, 1024)
	go func() {
		defer close(flight)
		for {
			buffer := make([]byte, 16<<10)
			n, err := from.Read(buffer)
			if n > 0 {
				flight <- segment{buffer[:n], time.Now().Add(max(0, time.Until(connected)) + late)}
			}
			if err != nil {
				return
			}
		}
	}()
	for s := range flight {
		time.Sleep(time.Until(s.due))
		if _, err := to.Write(s.bytes); err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
	for range flight { // lets the reader end
	}
}
