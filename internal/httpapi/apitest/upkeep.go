package apitest

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/httpapi"
)

// Torn is the name of a service with which backups end before their digest.
const Torn = "torn"

// backup is one that a client takes for whole.
func backup(records string) []byte {
	b := []byte("SHOALBK1" + records)
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// Backup writes a backup of no real records; with a service called [Torn] it fails on the way.
func (f *Swarm) Backup(_ context.Context, w io.Writer) error {
	if err := f.manager(); err != nil {
		return err
	}
	f.mu.Lock()
	_, torn := f.ByName[Torn]
	f.mu.Unlock()
	b := backup("records")
	if torn {
		b = b[:12]
	}
	_, err := w.Write(b)
	if torn {
		err = errors.New("the manager stopped")
	}
	return err
}

// Restore takes what Backup wrote.
func (f *Swarm) Restore(_ context.Context, r httpapi.RestoreRequest, body io.Reader) (string, error) {
	if f.Active {
		return "", errdefs.ErrUnavailable.WithMessage(`This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.`)
	}
	if strings.Contains(r.AdvertiseAddr, "/") {
		return "", errdefs.ErrInvalidArgument.WithMessage("advertise address must be a non-zero IP address or network interface (with optional port number)")
	}
	b, err := io.ReadAll(body)
	if err != nil {
		return "", err
	}
	if string(b) != string(backup("records")) {
		return "", errdefs.ErrInvalidArgument.WithMessage("not a backup that can be used")
	}
	f.Active = true
	return "node1id", nil
}
