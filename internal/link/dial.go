package link

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/pki"
)

// DialConfig says how to open a link.
type DialConfig struct {
	Identity *pki.Holder
	// Handler serves the manager's requests to us; nil answers 404.
	Handler http.Handler
	// DeadAfter is how long the manager may be silent before the link is closed; 0 means 5 s.
	DeadAfter time.Duration
	Dial      Dialer
	Log       *slog.Logger
}

// Dial opens a link to the manager at addr (host:port) and checks that it is a manager of our swarm. ctx bounds only the
// opening, which takes no longer than 10 s. A manager that does not take this node gives a *RefusedError with its reason; the text of any error names
// the address.
func Dial(ctx context.Context, addr string, c DialConfig) (*Link, error) {
	if c.DeadAfter == 0 {
		c.DeadAfter = DefaultDeadAfter
	}
	s, err := dialManager(ctx, c.Dial, addr, protoLink, c.Identity.Get(), c.DeadAfter)
	if err != nil {
		return nil, err
	}
	lc := linkConfig{
		peer: s.peer, until: s.until, client: true, handler: c.Handler, deadAfter: c.DeadAfter, log: c.Log,
	}
	l, err := newLink(s.raw, s.conn, lc)
	if err != nil {
		return nil, fmt.Errorf("opening a link to the manager at %s: %w", addr, err)
	}
	l.run(lc)
	return l, nil
}

// JoinClient speaks to a manager's Join handler. The manager's certificate was checked against the token.
type JoinClient struct {
	// Client sends requests to the manager, whatever host the URL names: use http://manager/….
	Client *http.Client
	// RootPEM is the swarm's root certificate, which the token's digest vouches for.
	RootPEM []byte
	// Manager is who answered.
	Manager Peer
	// LocalAddr is our address on the connection: the one that the manager sees, if there is no address translation.
	LocalAddr net.Addr
	transport *http.Transport
	first     atomic.Pointer[net.Conn]
}

// JoinDial connects to the manager at addr (host:port) without a certificate and checks that the swarm's root
// certificate there has the token's digest and signed the manager's. Nothing is sent that is secret. ctx bounds the
// connecting, which takes no longer than 10 s.
func JoinDial(ctx context.Context, dial Dialer, addr string, t pki.Token) (*JoinClient, error) {
	j := &JoinClient{}
	conn, err := j.dial(ctx, dial, addr, t)
	if err != nil {
		return nil, err
	}
	j.LocalAddr = conn.LocalAddr()
	j.first.Store(&conn) // serves the first request
	j.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if c := j.first.Swap(nil); c != nil {
				return *c, nil
			}
			return (&JoinClient{}).dial(ctx, dial, addr, t)
		},
		DisableCompression: true,
		IdleConnTimeout:    joinTimeout / 2,
	}
	j.Client = &http.Client{Transport: j.transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return j, nil
}

// Close closes connections that are idle.
func (j *JoinClient) Close() {
	if c := j.first.Swap(nil); c != nil {
		_ = (*c).Close()
	}
	j.transport.CloseIdleConnections()
}

// dial connects and fills in who answered.
func (j *JoinClient) dial(ctx context.Context, dial Dialer, addr string, t pki.Token) (net.Conn, error) {
	c := baseTLS(protoJoin)
	c.InsecureSkipVerify = true // VerifyConnection does it, with the token's digest
	c.VerifyConnection = func(cs tls.ConnectionState) error { return j.verify(cs.PeerCertificates, t) }
	_, conn, err := dialTLS(ctx, dial, addr, c, DefaultDeadAfter)
	if err != nil {
		return nil, err
	}
	return conn, nil
}

// verify checks the chain that the manager showed: its certificate, what links it to an older root, and the root.
func (j *JoinClient) verify(certs []*x509.Certificate, t pki.Token) error {
	if len(certs) < 2 {
		return errors.New("what answers there is no manager of a swarm: it shows no certificate authority")
	}
	root := certs[len(certs)-1]
	pem := pki.RootPEM(root)
	if !t.Matches(pem) {
		return fmt.Errorf("remote CA does not match fingerprint. Expected: %s", hex.EncodeToString(t.Digest[:]))
	}
	roots := x509.NewCertPool()
	roots.AddCert(root)
	p, err := pki.PeerOf(certs[:len(certs)-1], roots, time.Now())
	if err != nil {
		return err
	}
	if p.Role != swarm.NodeRoleManager {
		return fmt.Errorf("node %s is not a manager", p.NodeID)
	}
	j.RootPEM, j.Manager = pem, p
	return nil
}
