package cluster

import (
	"net/netip"
	"strconv"
	"time"

	"github.com/moby/moby/api/types/swarm"
)

// Swarm is the swarm's settings, join tokens and public CA certificate. The settings are the specification part;
// the rest (epoch, TLSInfo, rotation) is state.
type Swarm struct {
	swarm.Swarm
	StateVersion uint64 `json:",omitempty"`
	// Epoch says which cut of its history the swarm goes on from (--force-new-cluster, restore); see [NextEpoch]. An agent
	// refuses a manager of a lower epoch.
	Epoch uint64 `json:",omitempty"`
	// LongestCert is the longest validity of certificates that the swarm ever asked for, where that was changed; see
	// [Swarm.CertsOver]. 0: the one that it asks for now.
	LongestCert time.Duration `json:",omitempty"`
	// Level is the feature level of which the records may be; 0 is 1. It never falls. See [Level].
	Level int `json:",omitempty"`
	next
}

// Node is a member of the swarm. The user's NodeSpec, the data path and the index are the specification part; the
// description, status, manager status and how full its disk is are state.
type Node struct {
	swarm.Node
	StateVersion uint64 `json:",omitempty"`
	// Index is the node's small number, from 1 to 65535, unique in the swarm (claimed): the conntrack zone and mark
	// that the ingress network knows it by.
	Index uint16 `json:",omitempty"`
	// DataPathAddr is the address that tunnels between nodes use.
	DataPathAddr netip.Addr `json:"DataPathAddr,omitzero"`
	// IngressAddr is the node's own address on the ingress network.
	IngressAddr netip.Addr `json:"IngressAddr,omitzero"`
	// Level is the highest feature level that the node's version knows; 0 is 1.
	Level int `json:",omitempty"`
	// DiskFull is how many percent of the node's disk were used when it found itself too full for new tasks; 0: it has room.
	DiskFull int `json:",omitempty"`
}

// Service is what a user wants to run. Spec and PreviousSpec are the specification part; Endpoint, UpdateStatus,
// JobStatus, Schedule, Rebalancing, Scale and Met are state.
type Service struct {
	swarm.Service
	StateVersion uint64 `json:",omitempty"`
	// Schedule is how far its schedule is; nil: it has none.
	Schedule *ScheduleStatus `json:",omitempty"`
	// Rebalancing says that a user asked for the service's tasks to be moved until that improves their spread no more.
	Rebalancing bool `json:",omitempty"`
	// Scale is what autoscaling made of its replicas; nil: nothing yet. See [Service.Replicas].
	Scale *ScaleStatus `json:",omitempty"`
	// Met are the dependencies that were met once, so that nothing waits for them again; see [Service.Unmet].
	Met []string `json:",omitempty"`
}

// Task is one try to run a service's container on a node. Status, RunningAt and EndedAt are its state part; everything
// else, the desired state, the node and the addresses among it, is the specification part.
type Task struct {
	swarm.Task
	StateVersion uint64 `json:",omitempty"`
	// ServiceName is the service's name when the task was made; container names and hostnames derive from it.
	ServiceName string `json:",omitempty"`
	// Global says that the task is one of a global service or job: its slot is its node, which it has from its creation.
	Global bool `json:",omitempty"`
	// SpecVersion is the version of the service's specification that the task was made from.
	SpecVersion uint64 `json:",omitempty"`
	// StartAt is the time before which the task is not started: the restart delay. It is swarm time.
	StartAt time.Time `json:"StartAt,omitzero"`
	// Released says that no node's kernel sends the task new connections any more, so that it may be stopped; see
	// [Task.Held]. It is never taken back.
	Released bool `json:",omitempty"`
	// Moving says that the task gives way to another one of its slot, on a node that has fewer of the service's tasks.
	Moving bool `json:",omitempty"`
	// HostPorts are the ports that the task's container publishes on its node, as its service said when it was made.
	HostPorts []swarm.PortConfig `json:",omitempty"`
	// Access is what the container is given of its node beyond Docker's, as its service said when it was made.
	Access *Access `json:",omitempty"`
	// Attempt counts the tasks that its slot had since the service's specification last changed.
	Attempt uint64 `json:",omitempty"`
	// RunningAt and EndedAt are when it was first known to run and to have ended, in swarm time: Status.Timestamp is the
	// time of the node's clock, and only that of its last state. Zero: it has not, or so far as the swarm knows.
	RunningAt time.Time `json:"RunningAt,omitzero"`
	EndedAt   time.Time `json:"EndedAt,omitzero"`
}

// Network is a swarm-wide network. Its VNI is in DriverState, its subnets in IPAMOptions; both are state.
type Network struct {
	swarm.Network
	StateVersion uint64 `json:",omitempty"`
}

// Claim makes something unique: it is created with expected version 0, which only one writer can do. The ID says
// what is claimed; see the Claim* functions.
type Claim struct {
	ID string
	swarm.Meta
	StateVersion uint64 `json:",omitempty"`
	// Owner is the ID of the record that holds the claim.
	Owner string `json:",omitempty"`
	// OwnerName is what to call the owner in an error message.
	OwnerName string `json:",omitempty"`
	// ReleasedAt is the store version at which the owner let go; the claim is deleted when no node's kernel can
	// still hold it. 0: in use.
	ReleasedAt uint64 `json:",omitempty"`
}

func (*Swarm) Kind() Kind     { return KindSwarm }
func (*Node) Kind() Kind      { return KindNode }
func (*Service) Kind() Kind   { return KindService }
func (*Task) Kind() Kind      { return KindTask }
func (*Network) Kind() Kind   { return KindNetwork }
func (*Claim) Kind() Kind     { return KindClaim }
func (*Authority) Kind() Kind { return KindAuthority }

func (*Swarm) Key() string     { return SingletonID }
func (n *Node) Key() string    { return n.ID }
func (s *Service) Key() string { return s.ID }
func (t *Task) Key() string    { return t.ID }
func (n *Network) Key() string { return n.ID }
func (c *Claim) Key() string   { return c.ID }
func (*Authority) Key() string { return SingletonID }

func (s *Swarm) GetMeta() *swarm.Meta     { return &s.Meta }
func (n *Node) GetMeta() *swarm.Meta      { return &n.Meta }
func (s *Service) GetMeta() *swarm.Meta   { return &s.Meta }
func (t *Task) GetMeta() *swarm.Meta      { return &t.Meta }
func (n *Network) GetMeta() *swarm.Meta   { return &n.Meta }
func (c *Claim) GetMeta() *swarm.Meta     { return &c.Meta }
func (a *Authority) GetMeta() *swarm.Meta { return &a.Meta }

func (s *Swarm) GetStateVersion() *uint64     { return &s.StateVersion }
func (n *Node) GetStateVersion() *uint64      { return &n.StateVersion }
func (s *Service) GetStateVersion() *uint64   { return &s.StateVersion }
func (t *Task) GetStateVersion() *uint64      { return &t.StateVersion }
func (n *Network) GetStateVersion() *uint64   { return &n.StateVersion }
func (c *Claim) GetStateVersion() *uint64     { return &c.StateVersion }
func (a *Authority) GetStateVersion() *uint64 { return &a.StateVersion }

func (s *Swarm) Clone() Object     { return deepCopy(s) }
func (n *Node) Clone() Object      { return deepCopy(n) }
func (s *Service) Clone() Object   { return deepCopy(s) }
func (t *Task) Clone() Object      { return deepCopy(t) }
func (n *Network) Clone() Object   { return deepCopy(n) }
func (c *Claim) Clone() Object     { return deepCopy(c) }
func (a *Authority) Clone() Object { return deepCopy(a) }

// MergeState takes the epoch, the level, the TLS facts and the rotation flag.
func (s *Swarm) MergeState(from Object) {
	f := from.(*Swarm)
	s.Level, s.next = f.Level, f.next
	s.Epoch, s.TLSInfo, s.RootRotationInProgress = f.Epoch, f.TLSInfo, f.RootRotationInProgress
}

// MergeState takes the description, the level, both statuses and how full the disk is.
func (n *Node) MergeState(from Object) {
	f := from.(*Node)
	n.Level, n.Description, n.Status, n.ManagerStatus, n.DiskFull = f.Level, f.Description, f.Status, f.ManagerStatus, f.DiskFull
}

// MergeState takes the endpoint, the update status, the job status, how far the schedule is, whether it is being rebalanced,
// how it is scaled and what it has not to wait for any more.
func (s *Service) MergeState(from Object) {
	f := from.(*Service)
	s.Endpoint, s.UpdateStatus, s.JobStatus, s.Schedule, s.Rebalancing, s.Scale, s.Met = f.Endpoint, f.UpdateStatus, f.JobStatus, f.Schedule, f.Rebalancing, f.Scale, f.Met
}

// MergeState takes the status and since when it holds.
func (t *Task) MergeState(from Object) {
	f := from.(*Task)
	t.Status, t.RunningAt, t.EndedAt = f.Status, f.RunningAt, f.EndedAt
}

// SetStatus sets what was reported of the task at a time of the swarm.
func (t *Task) SetStatus(st swarm.TaskStatus, at time.Time) {
	if st.State == swarm.TaskStateRunning && t.RunningAt.IsZero() {
		t.RunningAt = at
	}
	if Terminal(st.State) && t.EndedAt.IsZero() {
		t.EndedAt = at
	}
	t.Status = st
}

// MergeState takes the driver state and the allocated address ranges.
func (n *Network) MergeState(from Object) {
	f := from.(*Network)
	n.DriverState, n.IPAMOptions = f.DriverState, f.IPAMOptions
}

// MergeState does nothing: a claim is all specification.
func (c *Claim) MergeState(Object) {}

// MergeState does nothing: the authority is all specification.
func (a *Authority) MergeState(Object) {}

// New returns an empty record of the kind, or nil if the kind is unknown.
func New(k Kind) Object {
	switch k {
	case KindSwarm:
		return &Swarm{}
	case KindNode:
		return &Node{}
	case KindService:
		return &Service{}
	case KindTask:
		return &Task{}
	case KindNetwork:
		return &Network{}
	case KindClaim:
		return &Claim{}
	case KindAuthority:
		return &Authority{}
	case KindSecret:
		return &Secret{}
	case KindSecretData:
		return &SecretData{}
	case KindConfig:
		return &Config{}
	case KindUnlockKey:
		return &UnlockKey{}
	case KindCredentials:
		return &Credentials{}
	}
	return nil
}

// Kinds lists every kind of record.
func Kinds() []Kind {
	return []Kind{KindSwarm, KindNode, KindService, KindTask, KindNetwork, KindClaim, KindAuthority, KindSecret, KindSecretData, KindConfig, KindCredentials, KindUnlockKey}
}

// Address returns the task's address on the network, or the zero address.
func (t *Task) Address(networkID string) netip.Addr {
	for _, a := range t.NetworksAttachments {
		if a.Network.ID == networkID && len(a.Addresses) > 0 {
			return a.Addresses[0].Addr()
		}
	}
	return netip.Addr{}
}

// Name is what users call the task, without its ID: SERVICE.SLOT or, as in Docker for slot 0 too, SERVICE.NODE.
func (t *Task) Name() string {
	if t.Slot == 0 {
		return t.ServiceName + "." + t.NodeID
	}
	return t.ServiceName + "." + strconv.Itoa(t.Slot)
}

// SlotClaim is the ID of the claim on the task's slot.
func (t *Task) SlotClaim() string {
	if t.Global {
		return ClaimSlotNode(t.ServiceID, t.NodeID)
	}
	return ClaimSlot(t.ServiceID, t.Slot)
}
