package httpapi

import (
	"context"
	"time"

	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/api/types/system"

	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/engine"
)

// Errors of every backend are of the errdefs taxonomy (github.com/containerd/errdefs) and their text is what the user
// reads: Docker's words, without a class name at the end. errors.go maps the class to an HTTP status. A backend may
// be called by any number of requests at once; a method ends when its context does. A nil backend in [Config] answers
// 501 on every route of its resource.
//
// Filters are Docker's: the key is the filter's name, the values are alternatives. A filter that a backend does not
// know is InvalidArgument with the text "invalid filter 'NAME'". A nil map is no filter.

// Containers serves /containers and /exec. Package engine has the contract.
type Containers interface {
	engine.Containers
	engine.Execs
	engine.Attachments
	engine.Archives
	engine.Committer
}

// Images serves /images, /distribution and /auth. Package engine has the contract.
type Images interface {
	engine.Images
}

// Volumes serves /volumes. Package engine has the contract.
type Volumes interface {
	engine.Volumes
}

// Disk serves /system/df. Package engine has the contract.
type Disk interface {
	engine.Disk
}

// Events serves /events. Package engine has the contract.
type Events interface {
	Recall(ctx context.Context, since time.Time) (past []engine.Event, live <-chan engine.Event)
}

// Usage counts containers and images for /info.
type Usage interface {
	Usage(ctx context.Context) (engine.Usage, error)
}

// Host says what this machine is, for /info. The fields Containers*, Images, Swarm, ServerVersion and SystemTime are
// filled in by this package and may stay empty.
type Host interface {
	Info(ctx context.Context) (system.Info, error)
}

// Swarm is this node's own membership: what works on a node that is in no swarm, too.
type Swarm interface {
	// Init makes a swarm of this node alone. Unavailable with Docker's text if the node is in one already,
	// InvalidArgument for a bad address or availability.
	Init(ctx context.Context, r swarm.InitRequest) (nodeID string, err error)
	// Join returns when this node is a member, or with Unavailable if no remote answered before the time-out.
	Join(ctx context.Context, r swarm.JoinRequest) error
	// Leave ends the membership; Unavailable if this would endanger the swarm and force is false.
	Leave(ctx context.Context, force bool) error
	// Unlock makes a locked manager one again. Conflict if it is not locked, InvalidArgument for what is no key and
	// Unauthenticated for another key than the one that the manager was locked with; then nothing was changed.
	Unlock(ctx context.Context, r swarm.UnlockRequest) error
	// Info is this node's view of the swarm. It never fails and never waits for another node: what is wrong stands
	// in its Error field.
	Info(ctx context.Context) swarm.Info
}

// Control is the swarm as its managers see it. Every method fails with Unavailable and Docker's text if this node is
// no manager or the swarm has no leader, with NotFound for an object that is not there, InvalidArgument for a spec
// that cannot be, Conflict for a name or a port that is taken, and with an error of text "update out of sequence"
// (class Unknown, status 500, as in Docker) for a version that is not the object's own.
//
// An object is named by its ID, its full name or an unambiguous prefix of the ID, looked for in this order.
// What is returned belongs to the caller and holds no secret bytes and no CA key.
type Control interface {
	// Swarm gives the swarm with its join tokens.
	Swarm(ctx context.Context) (*swarm.Swarm, error)
	// UnlockKey gives the key that managers need after a restart, "" if they are not locked.
	UnlockKey(ctx context.Context) (string, error)
	UpdateSwarm(ctx context.Context, version uint64, spec swarm.Spec, rotate RotateFlags) error

	// Nodes takes the filters id, name, label, node.label, membership, role.
	Nodes(ctx context.Context, filters map[string][]string) ([]swarm.Node, error)
	Node(ctx context.Context, idOrName string) (*swarm.Node, error)
	UpdateNode(ctx context.Context, id string, version uint64, spec swarm.NodeSpec) error
	RemoveNode(ctx context.Context, id string, force bool) error

	// Services takes the filters id, name, label, mode, runtime. With status, ServiceStatus is filled in.
	Services(ctx context.Context, filters map[string][]string, status bool) ([]swarm.Service, error)
	// Service fills defaults into empty fields of the spec if insertDefaults.
	Service(ctx context.Context, id string, insertDefaults bool) (*swarm.Service, error)
	// CreateService keeps encodedAuth (the X-Registry-Auth header, "" for none) for the nodes' pulls. With
	// queryRegistry it pins the image by digest if the client has not done so, and says in a warning if it cannot.
	CreateService(ctx context.Context, spec swarm.ServiceSpec, encodedAuth string, queryRegistry bool) (*swarm.ServiceCreateResponse, error)
	UpdateService(ctx context.Context, id string, version uint64, spec swarm.ServiceSpec, o UpdateOptions) (*swarm.ServiceUpdateResponse, error)
	RemoveService(ctx context.Context, id string) error

	// Tasks takes the filters id, name, service, node, label, desired-state, runtime.
	Tasks(ctx context.Context, filters map[string][]string) ([]swarm.Task, error)
	Task(ctx context.Context, id string) (*swarm.Task, error)

	Secrets
	Configs
}

// Secrets is the swarm's secrets. None of its answers has a secret's bytes. The filters are id, name, label, names; an
// update may change labels only, but for the deploy of the stack that the secret is of, which makes a new version.
type Secrets interface {
	Secrets(ctx context.Context, filters map[string][]string) ([]swarm.Secret, error)
	Secret(ctx context.Context, idOrName string) (*swarm.Secret, error)
	CreateSecret(ctx context.Context, spec swarm.SecretSpec) (id string, err error)
	UpdateSecret(ctx context.Context, id string, version uint64, spec swarm.SecretSpec) error
	// RemoveSecret is InvalidArgument while a service uses it.
	RemoveSecret(ctx context.Context, idOrName string) error
	// RotateSecret gives the secret's name to a new version with the bytes and updates the services that use it;
	// FailedPrecondition for one that is an older version itself.
	RotateSecret(ctx context.Context, idOrName string, data []byte) (*Rotation, error)
	// SecretVersions lists the versions that there are, the newest first.
	SecretVersions(ctx context.Context, idOrName string) ([]FileVersion, error)
}

// Configs is the swarm's configs, likewise, but for their bytes, which are shown.
type Configs interface {
	Configs(ctx context.Context, filters map[string][]string) ([]swarm.Config, error)
	Config(ctx context.Context, idOrName string) (*swarm.Config, error)
	CreateConfig(ctx context.Context, spec swarm.ConfigSpec) (id string, err error)
	UpdateConfig(ctx context.Context, id string, version uint64, spec swarm.ConfigSpec) error
	RemoveConfig(ctx context.Context, idOrName string) error
	RotateConfig(ctx context.Context, idOrName string, data []byte) (*Rotation, error)
	ConfigVersions(ctx context.Context, idOrName string) ([]FileVersion, error)
}

// Rotation is what became of a secret or a config that was given other bytes.
type Rotation = control.Rotation

// FileVersion is a version of a secret or a config.
type FileVersion = control.FileVersion

// TaskLogs serves the logs of services and tasks.
type TaskLogs interface {
	// TaskLogs calls each for every line that the tasks' containers wrote, on whatever nodes, by their times; before it
	// calls open, once, with whether the containers have terminals. With Follow it goes on until ctx, the service or the
	// task ends. An error of each ends it and is returned.
	TaskLogs(ctx context.Context, of LogsOf, o engine.LogOptions, open func(tty bool), each func(TaskLine) error) error
}

// LogsOf names whose logs are asked for.
type LogsOf = control.LogsOf

// TaskLine is a line of a task's container.
type TaskLine = control.TaskLine

// Networks serves /networks: the host's own and on a manager also the swarm's. Unlike [Control] it works on every node.
// Package engine has the contract of what changes the host's.
type Networks interface {
	// Networks takes the filters id, name, driver, scope, type, label, dangling.
	Networks(ctx context.Context, filters map[string][]string) ([]network.Inspect, error)
	// Network gives one network; scope is "", "swarm", "local" or "global", and with verbose its services are filled in.
	Network(ctx context.Context, idOrName, scope string, verbose bool) (*network.Inspect, error)
	CreateNetwork(ctx context.Context, r network.CreateRequest) (*network.CreateResponse, error)
	RemoveNetwork(ctx context.Context, idOrName string) error
	PruneNetworks(ctx context.Context, filters map[string][]string) (*network.PruneReport, error)
	// Attachable says why a container that a user makes cannot be on a network; nil if it can, or if there is no such
	// network.
	Attachable(ctx context.Context, idOrName string) error
	Connect(ctx context.Context, idOrName, container string, s *network.EndpointSettings) error
	Disconnect(ctx context.Context, idOrName, container string, force bool) error
}

// RotateFlags says which secrets of the swarm UpdateSwarm replaces.
type RotateFlags = control.RotateFlags

// UpdateOptions is what POST /services/{id}/update takes beside the spec.
type UpdateOptions = control.UpdateOptions
