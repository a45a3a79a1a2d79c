package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// headerTimeout bounds how long a client may take to send its request's head.
const headerTimeout = 10 * time.Second

// listen opens the API's sockets. A socket that another daemon answers on is not taken from it.
func (n *Node) listen() ([]net.Listener, error) {
	var out []net.Listener
	for _, h := range n.cfg.Hosts {
		l, err := n.listenAt(h)
		if err != nil {
			for _, l := range out {
				l.Close()
			}
			return nil, fmt.Errorf("opening %s: %w", h, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func (n *Node) listenAt(host string) (net.Listener, error) {
	if path, ok := strings.CutPrefix(host, "unix://"); ok {
		return listenUnix(path, n.cfg.SocketGroup)
	}
	addr, err := n.cfg.tcpAddr(host)
	if err != nil {
		return nil, err
	}
	secure, err := n.cfg.serverTLS()
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr)
	if err != nil || secure == nil {
		return l, err
	}
	return tls.NewListener(l, secure), nil
}

func listenUnix(path, group string) (net.Listener, error) {
	if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
		c.Close()
		return nil, errors.New("another daemon answers on it")
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	// The socket gets its mode by chmod: the umask is the process's, not a thread's. Until then its folder's owner
	// could connect, which is root.
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	gid := 0
	if g, err := user.LookupGroup(group); err == nil {
		gid, _ = strconv.Atoi(g.Gid)
	}
	if err := errors.Join(os.Chown(path, 0, gid), os.Chmod(path, 0o660)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// serve serves the handler until ctx ends, then gives requests a second to end.
func serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	s := &http.Server{
		Handler: h, ReadHeaderTimeout: headerTimeout, MaxHeaderBytes: 1 << 20,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ErrorLog:    slog.NewLogLogger(log.Handler(), slog.LevelWarn), // who fails to connect: an operator wants to know
	}
	stop := context.AfterFunc(ctx, func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if s.Shutdown(end) != nil {
			s.Close()
		}
	})
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
