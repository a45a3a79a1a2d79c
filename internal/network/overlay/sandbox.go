package overlay

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/network"
)

// Attach implements engine.Sandboxes. A container's address on a network is the same until it leaves it or Detach, also
// over restarts. A call with another ingress address replaces it.
func (k *Kernel) Attach(ctx context.Context, id string, a engine.Attachment) (engine.Sandbox, error) {
	if !validID.MatchString(id) {
		return engine.Sandbox{}, fmt.Errorf("invalid container ID %q: %w", id, errdefs.ErrInvalidArgument)
	}
	if a.Ingress.IsValid() && !a.Ingress.Is4() {
		return engine.Sandbox{}, fmt.Errorf("ingress address %s of container %s: the routing mesh does not do IPv6 yet: %w", a.Ingress, id, errdefs.ErrNotImplemented)
	}
	if err := ctx.Err(); err != nil {
		return engine.Sandbox{}, err
	}
	sb, err := k.attach(id, a, k.swarmPorts())
	if err != nil || len(sb.Ports) == 0 {
		return sb, err
	}
	return sb, k.publish(ctx)
}

func (k *Kernel) attach(id string, a engine.Attachment, swarm []network.Port) (engine.Sandbox, error) {
	x, err := k.boxes.reserve(id, a)
	if err != nil {
		return engine.Sandbox{}, err
	}
	defer x.mu.Unlock()
	if err := k.boxes.takePorts(x, a.Ports, swarm, k.probe); err != nil {
		return engine.Sandbox{}, err
	}
	if err := k.boxes.plug(x); err != nil {
		return engine.Sandbox{}, fmt.Errorf("network of container %s: %w", id, err)
	}
	return k.boxes.sandbox(x), nil
}

// Detach implements engine.Sandboxes. The namespace is dropped; the kernel takes the interfaces with it in its own time,
// at the latest when the last process has left.
func (k *Kernel) Detach(ctx context.Context, id string) error {
	k.boxes.mu.Lock()
	x := k.boxes.byID[id]
	k.boxes.mu.Unlock()
	if x == nil {
		return nil
	}
	x.mu.Lock()
	published := len(x.Ports) > 0
	err := k.boxes.unplug(x)
	x.mu.Unlock()
	if published && err == nil {
		err = k.publish(ctx)
	}
	return err
}
