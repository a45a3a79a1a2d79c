package node

import (
	"crypto/tls"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/docker/go-connections/tlsconfig"
)

// Ports of the API on TCP when a host names none, as dockerd has them.
const (
	plainPort = "2375"
	tlsPort   = "2376"
)

// secured says whether the API on TCP has TLS.
func (c *Config) secured() bool { return c.TLSVerify || c.TLS != nil && *c.TLS }

// serverTLS is how the API on TCP is secured, nil if it is not: with tlsverify only clients with a certificate of
// tlscacert are served.
func (c *Config) serverTLS() (*tls.Config, error) {
	if !c.secured() {
		return nil, nil
	}
	o := tlsconfig.Options{CertFile: c.TLSCert, KeyFile: c.TLSKey}
	for key, file := range map[string]string{"tlscert": c.TLSCert, "tlskey": c.TLSKey} {
		if file == "" {
			return nil, fmt.Errorf("TLS on TCP needs %q, the path of a PEM file", key)
		}
	}
	if c.TLSVerify {
		if c.TLSCACert == "" {
			return nil, fmt.Errorf("tlsverify needs %q, the path of a PEM file: whose clients are served", "tlscacert")
		}
		o.CAFile, o.ClientAuth, o.ExclusiveRootPools = c.TLSCACert, tls.RequireAndVerifyClientCert, true
	}
	config, err := tlsconfig.Server(o)
	if err != nil {
		return nil, fmt.Errorf("TLS on TCP: %w", err)
	}
	config.NextProtos = []string{"http/1.1"} // attach takes the connection over, which HTTP/2 has no way for
	return config, nil
}

// tcpAddr reads a host tcp://ADDRESS[:PORT]. Without TLS it is refused unless that was asked for in so many words.
func (c *Config) tcpAddr(host string) (string, error) {
	addr := strings.TrimPrefix(host, "tcp://")
	if !c.secured() && c.TLS == nil {
		return "", fmt.Errorf(`host %q: whoever reaches the API is root on this machine: set "tlsverify" with "tlscacert", "tlscert" and "tlskey", or, to open it to everybody, "tls": false (--tls=false)`, host)
	}
	if addr == "" {
		addr = "127.0.0.1"
	}
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		name, port = strings.Trim(addr, "[]"), plainPort
		if c.secured() {
			port = tlsPort
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || strings.ContainsAny(name, "/ ") {
		return "", fmt.Errorf("host %q: give it as tcp://ADDRESS:PORT", host)
	}
	return net.JoinHostPort(name, port), nil
}

// openDoors is a warning for each host whose API is open to more than those it should be.
func (c *Config) openDoors() []string {
	var all []string
	for _, h := range c.Hosts {
		addr, isTCP := strings.CutPrefix(h, "tcp://")
		switch {
		case !isTCP || c.TLSVerify:
		case c.secured():
			all = append(all, "API is accessible on https://"+addr+" without TLS client verification: access to it is equivalent to root access on the host")
		default:
			all = append(all, "API is accessible on http://"+addr+" without encryption: access to it is equivalent to root access on the host")
		}
	}
	return all
}
