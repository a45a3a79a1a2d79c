package apitest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"shoal.dev/shoal/internal/httpapi"
)

// Host is a machine called node1.
type Host struct{}

func (Host) Info(context.Context) (system.Info, error) {
	return system.Info{Name: "node1", KernelVersion: "6.1", NCPU: 2, ContainerdCommit: system.Commit{ID: "abc"}}, nil
}

// Swarm is a swarm of one node with a running task for each service. It is in memory; a Worker knows nothing.
type Swarm struct {
	mu     sync.Mutex
	Active bool
	Worker bool
	// Autolock is the swarm's setting, Locked that this manager needs its key.
	Autolock, Locked bool
	ByName           map[string]swarm.Service
	Rotate           httpapi.RotateFlags
	Options          httpapi.UpdateOptions
	Query            bool
	kept             files
}

// NewSwarm is of no swarm.
func NewSwarm() *Swarm { return &Swarm{ByName: map[string]swarm.Service{}} }

// NotManager is what a manager's command says elsewhere.
const NotManager = `This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try again.`

func (f *Swarm) Init(_ context.Context, r swarm.InitRequest) (string, error) {
	if f.Active {
		return "", errdefs.ErrUnavailable.WithMessage(`This node is already part of a swarm. Use "docker swarm leave" to leave this swarm and join another one.`)
	}
	f.Active, f.Autolock = true, r.AutoLockManagers
	return "node1id", nil
}

func (f *Swarm) Join(_ context.Context, r swarm.JoinRequest) error {
	return errdefs.ErrUnavailable.WithMessage("Timeout was reached before node joined " + strings.Join(r.RemoteAddrs, ", "))
}

func (f *Swarm) Leave(_ context.Context, force bool) error {
	if !force {
		return errdefs.ErrUnavailable.WithMessage("You are attempting to leave the swarm on a node that is participating as a manager.")
	}
	f.Active = false
	return nil
}

func (f *Swarm) Info(context.Context) swarm.Info {
	if !f.Active {
		return swarm.Info{}
	}
	if f.Locked {
		return swarm.Info{NodeID: "node1id", LocalNodeState: swarm.LocalNodeStateLocked}
	}
	return swarm.Info{NodeID: "node1id", LocalNodeState: swarm.LocalNodeStateActive, ControlAvailable: !f.Worker, Nodes: 1, Managers: 1}
}

func (f *Swarm) manager() error {
	if !f.Active || f.Worker {
		return errdefs.ErrUnavailable.WithMessage(NotManager)
	}
	return nil
}

func (f *Swarm) Swarm(context.Context) (*swarm.Swarm, error) {
	if err := f.manager(); err != nil {
		return nil, err
	}
	info := swarm.ClusterInfo{ID: "swarm1"}
	info.Spec.EncryptionConfig.AutoLockManagers = f.Autolock
	return &swarm.Swarm{ClusterInfo: info, JoinTokens: swarm.JoinTokens{Worker: "SWMTKN-1-w", Manager: "SWMTKN-1-m"}}, nil
}

func (f *Swarm) UpdateSwarm(_ context.Context, _ uint64, spec swarm.Spec, r httpapi.RotateFlags) error {
	f.Rotate, f.Autolock = r, spec.EncryptionConfig.AutoLockManagers
	return f.manager()
}

func (f *Swarm) Nodes(_ context.Context, filters map[string][]string) ([]swarm.Node, error) {
	if err := f.manager(); err != nil {
		return nil, err
	}
	return []swarm.Node{TheNode()}, nil
}

// TheNode is the swarm's only one.
func TheNode() swarm.Node {
	return swarm.Node{
		ID:            "node1id",
		Spec:          swarm.NodeSpec{Role: swarm.NodeRoleManager, Availability: swarm.NodeAvailabilityActive},
		Description:   swarm.NodeDescription{Hostname: "node1", Engine: swarm.EngineDescription{EngineVersion: "0.1.0"}},
		Status:        swarm.NodeStatus{State: swarm.NodeStateReady},
		ManagerStatus: &swarm.ManagerStatus{Leader: true, Reachability: swarm.ReachabilityReachable, Addr: "198.51.100.1:2377"},
	}
}

func (f *Swarm) Node(_ context.Context, id string) (*swarm.Node, error) {
	if err := f.manager(); err != nil {
		return nil, err
	}
	if n := TheNode(); id == n.ID || id == "node1" || id == "self" {
		return &n, nil
	}
	return nil, errdefs.ErrNotFound.WithMessage("node " + id + " not found")
}

func (f *Swarm) UpdateNode(context.Context, string, uint64, swarm.NodeSpec) error {
	return f.manager()
}
func (f *Swarm) RemoveNode(context.Context, string, bool) error { return f.manager() }

func (f *Swarm) Services(_ context.Context, filters map[string][]string, status bool) ([]swarm.Service, error) {
	if err := f.manager(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []swarm.Service
	for _, k := range slices.Sorted(maps.Keys(f.ByName)) {
		s := f.ByName[k]
		if status {
			s.ServiceStatus = &swarm.ServiceStatus{RunningTasks: 1, DesiredTasks: 1}
		}
		out = append(out, s)
	}
	return out, nil
}

func (f *Swarm) Service(_ context.Context, id string, _ bool) (*swarm.Service, error) {
	if err := f.manager(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.ByName {
		if s.ID == id || s.Spec.Name == id {
			return &s, nil
		}
	}
	return nil, errdefs.ErrNotFound.WithMessage("service " + id + " not found")
}

func (f *Swarm) CreateService(_ context.Context, spec swarm.ServiceSpec, _ string, query bool) (*swarm.ServiceCreateResponse, error) {
	if err := f.manager(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Query = query
	if _, ok := f.ByName[spec.Name]; ok {
		return nil, errdefs.ErrAlreadyExists.WithMessage("name conflicts with an existing object: service " + spec.Name + " already exists")
	}
	if r := spec.Mode.Replicated; r != nil && r.Replicas == nil {
		one := uint64(1)
		spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &one}
	}
	svc := swarm.Service{ID: spec.Name + "id", Spec: spec, Meta: swarm.Meta{Version: swarm.Version{Index: 7}}}
	if spec.EndpointSpec != nil {
		svc.Endpoint = swarm.Endpoint{Spec: *spec.EndpointSpec, Ports: spec.EndpointSpec.Ports}
	}
	f.ByName[spec.Name] = svc
	return &swarm.ServiceCreateResponse{ID: spec.Name + "id"}, nil
}

func (f *Swarm) UpdateService(ctx context.Context, id string, version uint64, spec swarm.ServiceSpec, o httpapi.UpdateOptions) (*swarm.ServiceUpdateResponse, error) {
	s, err := f.Service(ctx, id, false)
	if err != nil {
		return nil, err
	}
	if s.Version.Index != version {
		return nil, fmt.Errorf("update out of sequence")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Options = o
	s.Spec = spec
	f.ByName[spec.Name] = *s
	return &swarm.ServiceUpdateResponse{}, nil
}

func (f *Swarm) RemoveService(ctx context.Context, id string) error {
	s, err := f.Service(ctx, id, false)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.ByName, s.Spec.Name)
	return nil
}

func (f *Swarm) Tasks(_ context.Context, filters map[string][]string) ([]swarm.Task, error) {
	if err := f.manager(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []swarm.Task
	for _, s := range f.ByName {
		out = append(out, taskOf(s))
	}
	return out, nil
}

func taskOf(s swarm.Service) swarm.Task {
	return swarm.Task{
		ID: s.ID + "task1", ServiceID: s.ID, NodeID: "node1id", Slot: 1, Spec: s.Spec.TaskTemplate, DesiredState: swarm.TaskStateRunning,
		Status: swarm.TaskStatus{State: swarm.TaskStateRunning, Timestamp: time.Unix(1700000000, 0)},
	}
}

func (f *Swarm) Task(_ context.Context, id string) (*swarm.Task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.ByName {
		if t := taskOf(s); t.ID == id {
			return &t, nil
		}
	}
	return nil, errdefs.ErrNotFound.WithMessage("task " + id + " not found")
}
