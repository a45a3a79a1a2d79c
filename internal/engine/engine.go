// Package engine is the contract of what runs containers on one host: images, containers, their logs and exit codes.
//
// It decides nothing; it says what an implementation guarantees. Package containerd implements it on containerd and
// our shim, package fake in memory, and package enginetest is the suite that both pass. The types are the Engine
// API's own, so that nothing is converted on the way to a client. Consumers declare the part of [Engine] they use.
//
// Errors are of the errdefs taxonomy (github.com/containerd/errdefs): NotFound, Conflict, InvalidArgument,
// Unavailable …, with Docker's words. Every method ends when its context does. All methods are safe for concurrent use.
package engine

import (
	"context"
	"net/netip"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/volume"
)

// Engine is everything. It survives its own death: containers, logs and exit codes stay while it is away, and a new
// instance on the same data finds them as they are.
type Engine interface {
	Containers
	Execs
	Attachments
	Archives
	Committer
	Healths
	Images
	Volumes
	Networks
	Feed
	Disk
	// Usage counts containers and images, for `info`.
	Usage(ctx context.Context) (Usage, error)
}

// Containers is the life of containers. A container is named by its name, its ID or an unambiguous prefix of it.
type Containers interface {
	Life
	// Create makes a container that does not run. It fails with NotFound if the image is not there (it does not
	// pull) and Conflict if the name is taken.
	Create(ctx context.Context, s Spec) (id string, warnings []string, err error)
	// Start runs it. Starting a running container does nothing.
	Start(ctx context.Context, name string) error
	// Stop sends the stop signal and, after the grace period, SIGKILL; it returns when the container has exited.
	// Stopping a container that does not run does nothing.
	Stop(ctx context.Context, name string, o StopOptions) error
	// Kill sends a signal, by name or number, "" being SIGKILL. Conflict if the container does not run.
	Kill(ctx context.Context, name, signal string) error
	// Remove deletes it; Conflict if it runs and force is false.
	Remove(ctx context.Context, name string, force bool) error
	// Purge is Remove, and takes the volumes along that were made for the container without a name. Volumes that it
	// or others named stay.
	Purge(ctx context.Context, name string, force bool) error
	// Wait returns a channel that gives one result when the condition holds. The condition is looked at before Wait
	// returns, so that nothing between Wait and a later Start is missed.
	Wait(ctx context.Context, name string, c container.WaitCondition) (<-chan WaitResult, error)
	Inspect(ctx context.Context, name string) (*container.InspectResponse, error)
	List(ctx context.Context, o ListOptions) ([]container.Summary, error)
	// Logs calls each for every line, oldest first, and returns nil at the end or, with Follow, when the container
	// has exited and all was read. An error of each ends it and is returned.
	Logs(ctx context.Context, name string, o LogOptions, each func(LogLine) error) error
}

// Volumes is the volumes of the driver "local", by name. A volume that a container names is made when the container is,
// and stays when it goes.
type Volumes interface {
	// CreateVolume makes a volume, with a made-up name if it has none. One of the name that is there already is
	// returned as it is.
	CreateVolume(ctx context.Context, r volume.CreateRequest) (*volume.Volume, error)
	// Volumes lists them by name. Filters are those of GET /volumes: name, label, dangling, driver.
	Volumes(ctx context.Context, filters map[string][]string) ([]volume.Volume, error)
	InspectVolume(ctx context.Context, name string) (*volume.Volume, error)
	// RemoveVolume fails with Conflict while a container uses it, running or not, whatever force is; force succeeds
	// if there is no such volume.
	RemoveVolume(ctx context.Context, name string, force bool) error
	// PruneVolumes removes those that no container uses and nobody named, with the filter all=true also named ones.
	// Other filters are label and label!.
	PruneVolumes(ctx context.Context, filters map[string][]string) (*volume.PruneReport, error)
}

// Spec is a container to be created: what POST /containers/create says, and what only Shoal says.
type Spec struct {
	Name       string // "" makes one up
	Platform   string // "" is the host's
	Config     *container.Config
	HostConfig *container.HostConfig
	// Ingress is the container's address on the routing mesh; zero for none.
	Ingress netip.Addr
	// Networks are the networks that it is on beside that of HostConfig.NetworkMode, and the settings on each, by the
	// network's name or ID.
	Networks map[string]*network.EndpointSettings
	// Files are placed in the container, read-only and in memory: none of them is ever on a disk of the host. They go
	// with the container's first end, or with a start that fails with another class than Unavailable, so a container
	// with files starts once; until then they survive the daemon. No two have one target.
	Files []File
}

// StopOptions says how to stop. The zero value takes both from the container, then Docker's defaults (SIGTERM, 10 s).
type StopOptions struct {
	Signal  string
	Timeout *time.Duration
}

// WaitResult is how a container ended.
type WaitResult struct {
	ExitCode int
	Err      error
}

// ListOptions chooses containers. Filters are those of GET /containers/json; an unknown one is InvalidArgument.
type ListOptions struct {
	All     bool // also those that do not run
	Limit   int  // the newest so many, running or not; 0 is no limit
	Size    bool
	Filters map[string][]string
}

// LogOptions chooses log lines.
type LogOptions struct {
	Stdout, Stderr bool
	Follow         bool
	Since, Until   time.Time // zero: no bound
	Tail           int       // the last so many lines; negative: all
}

// LogLine is a line that a container wrote, with its newline if it had one.
type LogLine struct {
	Stream string // "stdout" or "stderr"
	Time   time.Time
	Line   []byte
	Attrs  map[string]string // what the log's options add: labels, variables, a tag
}

// Usage is what the engine holds.
type Usage struct {
	Running, Paused, Stopped, Images int
}

// Sandboxes gives containers their network. The engine consumes it; the network implements it.
type Sandboxes interface {
	// Attach makes or finds the network namespace of a container, puts it on the networks that are asked for and returns
	// where it is. It may be called again for the same container, also while it runs; what is asked for then replaces
	// what was before, and addresses and ports that were given stay. It fails with Conflict if a port is taken, with
	// PermissionDenied if an address is, and with NotFound if there is no such network; Detach must follow, or another
	// Attach.
	Attach(ctx context.Context, id string, a Attachment) (Sandbox, error)
	// Detach drops the namespace and gives addresses and ports back. Detaching what is not attached does nothing.
	Detach(ctx context.Context, id string) error
	LocalNetworks
}

// Attachment is what a container wants of the network.
type Attachment struct {
	Name    string     // the container's, for messages
	Task    string     // the ID of the swarm's task that the container is of, which has its addresses; "" for a plain one
	Ingress netip.Addr // its address on the routing mesh; zero for none
	Ports   []PortRequest
	// Networks are those that it is on; nil is the network bridge.
	Networks []EndpointRequest
	// Resolvers are the name servers that it asks for names that are no container's, as it reaches them; none is the
	// host's.
	Resolvers []netip.Addr
}

// PortRequest asks that a port of the host leads to one of the container.
type PortRequest struct {
	Port network.Port
	// HostIP is the address of the host at which it does; zero is all of them.
	HostIP netip.Addr `json:",omitzero"`
	// First and Last bound the host's port; both 0 leave it to the network.
	First, Last uint16
}

// PublishedPort is a port of the host that leads to one of the container.
type PublishedPort struct {
	Port     network.Port
	HostIP   netip.Addr // 0.0.0.0 is all
	HostPort uint16
}

// Sandbox is a container's network.
type Sandbox struct {
	NetNS     string // path of its network namespace
	Endpoints []Endpoint
	Ports     []PublishedPort `json:",omitempty"`
	// Names says that names are resolved by a server at 127.0.0.11 inside the namespace.
	Names bool `json:",omitempty"`
}
