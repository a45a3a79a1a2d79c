package apitest

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/httpapi"
)

// Torn is the name of a service with which backups end before their digest, and a manager is lost.
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

// Readdress refuses what is no address.
func (f *Swarm) Readdress(_ context.Context, advertise string) error {
	if err := f.manager(); err != nil {
		return err
	}
	if advertise == "" || strings.Contains(advertise, "/") {
		return errdefs.ErrInvalidArgument.WithMessage("advertise address must be a non-zero IP address or network interface (with optional port number)")
	}
	return nil
}

// Health is of one manager; one is lost with a service called [Torn], and the majority with one called lonely.
func (f *Swarm) Health(context.Context) (*httpapi.SwarmHealth, error) {
	if err := f.manager(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	h := &httpapi.SwarmHealth{
		Status: httpapi.StatusOK, Reasons: []string{}, Leader: "node1id", Epoch: 1, Voters: 1, Quorum: 1, Reachable: 1,
		Managers: []httpapi.ManagerHealth{{
			ID: "node1id", Hostname: "node1", Addr: "198.51.100.1:2377", Voter: true, Leader: true, Reachable: true,
			CertificateNotAfter: time.Now().Add(time.Hour * 24 * 90), DiskFree: 30e9, DiskTotal: 40e9,
		}},
	}
	lose := func(status string, n int, why string) {
		h.Status, h.Reasons, h.Voters, h.Quorum = status, append(h.Reasons, why), h.Voters+n, 2
		for i := range n {
			h.Managers = append(h.Managers, httpapi.ManagerHealth{ID: fmt.Sprintf("lost%d", i), Addr: "198.51.100.9:2377", Voter: true, LastContact: -1})
		}
	}
	if _, ok := f.ByName[Torn]; ok {
		lose(httpapi.StatusDegraded, 1, "manager lost0 at 198.51.100.9:2377 cannot be reached")
	}
	if _, ok := f.ByName["lonely"]; ok {
		lose(httpapi.StatusNoQuorum, 2, "1 of 3 managers can be reached and 2 are needed: changes are refused")
		h.Leader = ""
	}
	return h, nil
}

// CheckNetworks finds the network shop as it should be, unless there is a service called [Torn].
func (f *Swarm) CheckNetworks(_ context.Context, ref string) (*httpapi.NetworkCheck, error) {
	if err := f.manager(); err != nil {
		return nil, err
	}
	if ref != "" && ref != "shop" {
		return nil, errdefs.ErrNotFound.WithMessage("network " + ref + " not found")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	at := httpapi.NetworkOnNode{ID: "shopid", Name: "shop", NodeID: "node1id", Hostname: "node1", Differences: []string{}}
	out := &httpapi.NetworkCheck{Networks: []httpapi.NetworkOnNode{at}}
	if _, ok := f.ByName[Torn]; ok {
		out.Networks[0].Differences = []string{"way to 10.0.1.3"}
		out.Silent = []httpapi.SilentNode{{NodeID: "node2id", Hostname: "node2", Why: "it has no connection to a manager"}}
	}
	return out, nil
}
