package agent

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/template"
)

// vault holds the secrets, configs and credentials of the node's tasks, in memory only, and what templates say of the
// node.
type vault struct {
	mu    sync.Mutex
	files map[string]protocol.File // by ID
	node  template.Node
}

// take takes what a frame brings. What it drops is dropped by drop, after the tasks have heard.
func (v *vault) take(f *protocol.Frame) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if f.Complete || v.files == nil {
		v.files = make(map[string]protocol.File, len(f.Files))
	}
	for _, file := range f.Files {
		v.files[file.ID] = file
	}
}

func (v *vault) drop(ids []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, id := range ids {
		delete(v.files, id)
	}
}

func (v *vault) describe(nodeID string, d swarm.NodeDescription) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.node = template.Node{ID: nodeID, Hostname: d.Hostname, OS: d.Platform.OS, Architecture: d.Platform.Architecture}
}

func (v *vault) get(id string) (protocol.File, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	f, ok := v.files[id]
	return f, ok
}

func (v *vault) payload(id string) ([]byte, bool) {
	f, ok := v.get(id)
	return f.Data, ok
}

func (v *vault) host() template.Node {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.node
}

// container is the container of a task with its templates expanded and its secrets and configs in it. The error of a
// task that cannot have one is for its user, and shows no secret's bytes.
func (v *vault) container(t *cluster.Task, nodeID string) (engine.Spec, error) {
	if t.Spec.ContainerSpec == nil {
		return containerSpec(t, nodeID)
	}
	c, err := template.Container(t, v.host())
	if err != nil {
		return engine.Spec{}, errdefs.ErrInvalidArgument.WithMessage(err.Error())
	}
	expanded := *t
	expanded.Spec.ContainerSpec = c
	spec, err := containerSpec(&expanded, nodeID)
	if err != nil {
		return engine.Spec{}, err
	}
	spec.Files, err = v.place(t, c)
	return spec, err
}

// place are the files of the task's secrets and configs.
func (v *vault) place(t *cluster.Task, c *swarm.ContainerSpec) ([]engine.File, error) {
	var out []engine.File
	refs := template.Files{Secret: v.payload, Config: v.payload}
	add := func(kind, name, id string, f engine.File, uid, gid string, expand func(*cluster.Task, template.Node, template.Files, []byte) ([]byte, error)) error {
		file, ok := v.get(id)
		if !ok {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s not found: %s", kind, name))
		}
		var err error
		if f.UID, err = cluster.FileOwner(uid); err == nil {
			f.GID, err = cluster.FileOwner(gid)
		}
		if f.Data = file.Data; err == nil && file.Template {
			f.Data, err = expand(t, v.host(), refs, file.Data)
		}
		if err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("%s %s: %s", kind, name, err))
		}
		out = append(out, f)
		return nil
	}
	for _, r := range c.Secrets {
		if r.File == nil {
			continue
		}
		f := engine.File{Target: cluster.SecretTarget(r.File.Name), Mode: r.File.Mode.Perm()}
		if err := add("secret", r.SecretName, r.SecretID, f, r.File.UID, r.File.GID, template.Secret); err != nil {
			return nil, err
		}
	}
	for _, r := range c.Configs {
		if r.File == nil {
			continue
		}
		f := engine.File{Target: cluster.ConfigTarget(r.File.Name), Mode: r.File.Mode.Perm()}
		if err := add("config", r.ConfigName, r.ConfigID, f, r.File.UID, r.File.GID, template.Config); err != nil {
			return nil, err
		}
	}
	return out, nil
}
