package overlay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	apinetwork "github.com/moby/moby/api/types/network"

	"shoal.dev/shoal/internal/network/balance"
	"shoal.dev/shoal/internal/network/local"
)

// newID makes up an ID of a network or an endpoint, as long as Docker's.
func newID() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails on Linux
	return hex.EncodeToString(b[:])
}

// CreateNetwork implements engine.LocalNetworks. The record is written before the kernel has any of it, so that a crash
// leaves a network that the next start completes.
func (k *Kernel) CreateNetwork(ctx context.Context, r apinetwork.CreateRequest) (*apinetwork.Inspect, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.subnet.IsValid() {
		return nil, errDown()
	}
	var taken local.Taken
	var err error
	if taken.Host, err = k.usedPrefixes(); err != nil {
		return nil, err
	}
	if k.want != nil && k.want.Ingress != nil {
		taken.Swarm = append(taken.Swarm, k.want.Ingress.Subnet)
	} // the book has the other networks of the swarm that are on this host
	n, err := k.boxes.makeNetwork(r, taken, func(n local.Network) error {
		if _, err := k.nl.LinkByName(n.BridgeName()); err == nil {
			return errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("cannot create network %s (%s): the host has an interface of that name", n.ID, n.BridgeName()))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := errors.Join(k.ensureBridge(n), k.republish(ctx)); err != nil {
		return nil, errors.Join(err, k.dropNetwork(context.WithoutCancel(ctx), n))
	}
	out := k.boxes.inspect(n.ID)
	return &out, nil
}

// RemoveNetwork implements engine.LocalNetworks.
func (k *Kernel) RemoveNetwork(ctx context.Context, ref string) (*apinetwork.Inspect, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	n, err := k.boxes.removeNetwork(ref)
	if err != nil {
		return nil, err
	}
	if err := k.dropNetwork(ctx, n); err != nil {
		k.boxes.restoreNetwork(n)
		return nil, fmt.Errorf("error while removing network: %w", err)
	}
	return &apinetwork.Inspect{Network: n.Network}, nil
}

// dropNetwork removes what the kernel and the disk have of a network that is out of the book. k.mu is held.
func (k *Kernel) dropNetwork(ctx context.Context, n local.Network) error {
	k.boxes.forgetNetwork(n)
	if err := errors.Join(k.removeLink(n.BridgeName()), k.republish(ctx)); err != nil {
		return err
	}
	if err := os.Remove(k.boxes.networkFile(n.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// LocalNetworks implements engine.LocalNetworks.
func (k *Kernel) LocalNetworks() []apinetwork.Inspect {
	k.boxes.mu.Lock()
	defer k.boxes.mu.Unlock()
	var out []apinetwork.Inspect
	for _, n := range k.boxes.nets.All() {
		out = append(out, k.boxes.nets.Inspect(n.ID))
	}
	return out
}

// FindNetwork implements engine.LocalNetworks.
func (k *Kernel) FindNetwork(ref string) (*apinetwork.Inspect, error) {
	k.boxes.mu.Lock()
	defer k.boxes.mu.Unlock()
	n, err := k.boxes.nets.Find(ref)
	if err != nil {
		return nil, err
	}
	out := k.boxes.nets.Inspect(n.ID)
	return &out, nil
}

func errDown() error {
	return fmt.Errorf("the network of this host was taken down: %w", errdefs.ErrUnavailable)
}

func (b *boxes) networksDir() string          { return filepath.Join(b.cfg.StateDir, "networks") }
func (b *boxes) networkFile(id string) string { return filepath.Join(b.networksDir(), id) }

// loadNetworks reads the networks that were made before.
func (b *boxes) loadNetworks() error {
	if err := os.MkdirAll(b.networksDir(), 0o700); err != nil {
		return err
	}
	files, err := os.ReadDir(b.networksDir())
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(b.networksDir(), f.Name())
		if strings.HasSuffix(f.Name(), ".tmp") {
			_ = os.Remove(path)
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		var n local.Network
		if err := json.Unmarshal(data, &n); err != nil || n.ID != f.Name() {
			return fmt.Errorf("the record of a network in %s cannot be read: restore or remove it", path)
		}
		if n.OfSwarm() {
			b.nets.PutOverlay(n)
		} else if err := b.nets.Add(n); err != nil {
			return fmt.Errorf("the record of a network in %s: %w", path, err)
		}
	}
	return nil
}

// makeNetwork takes a network into the book and writes it down, unless check refuses it.
func (b *boxes) makeNetwork(r apinetwork.CreateRequest, taken local.Taken, check func(local.Network) error) (local.Network, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, err := b.nets.Create(newID(), r, taken, time.Now().UTC())
	if err != nil {
		return n, err
	}
	if err = check(n); err == nil {
		err = writeJSON(b.networkFile(n.ID), n)
	}
	if err != nil {
		_, _ = b.nets.Remove(n.ID) // nobody can be on it yet
	}
	return n, err
}

func (b *boxes) removeNetwork(ref string) (local.Network, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nets.Remove(ref)
}

// forgetNetwork takes a network out of the book if it is there.
func (b *boxes) forgetNetwork(n local.Network) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, err := b.nets.Find(n.ID); err == nil {
		_, _ = b.nets.Remove(n.ID)
	}
}

func (b *boxes) restoreNetwork(n local.Network) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.nets.Add(n); err != nil {
		b.cfg.Log.Warn("a network that could not be removed is gone from the list until the next start", "network", n.Name, "error", err)
	}
}

func (b *boxes) inspect(id string) apinetwork.Inspect {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.nets.Inspect(id)
}

// networks are those that have a bridge, by name.
func (b *boxes) networks() []local.Network {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []local.Network
	for _, n := range b.nets.All() {
		if n.Subnet().IsValid() && !n.OfSwarm() {
			out = append(out, n)
		}
	}
	return out
}

// bridges is what the ruleset is told of the networks.
func (b *boxes) bridges() []balance.Bridge {
	var out []balance.Bridge
	for _, n := range b.networks() {
		out = append(out, balance.Bridge{
			Name: n.BridgeName(), Subnet: n.Subnet(), Together: n.Together(), Internal: n.Internal, Masquerade: n.Masquerade(),
		})
	}
	return out
}
