package cluster

import "net/netip"

// Attachment is the place of a plain container, one that a user started, on a network of the swarm. Its record is a task
// without a service, as in Swarm: the node that has the container asks for it and gives it back, and nobody starts or
// stops anything for it.
type Attachment struct {
	TaskID      string
	ContainerID string
	NetworkID   string
	Addr        netip.Addr
}

// AttachRequest is a node asking for an attachment. It gets the one that the container has on the network, if there is one
// with the address that is asked for.
type AttachRequest struct {
	TaskID string // of a new one: the node's choice, see [NewID]
	// Anew says that others of the container may be given back at any time, so that they do not count.
	Anew        bool `json:",omitempty"`
	ContainerID string
	Network     string     // its name or ID
	Addr        netip.Addr `json:",omitzero"` // zero: any
	// Names are what the container is called on the network, its own name first.
	Names []string
}

// Attaches says whether the task is the record of an [Attachment], and not something to be run.
func (t *Task) Attaches() bool { return t.Spec.NetworkAttachmentSpec != nil }

// Attachment is what the task is the record of, once it has its address.
func (t *Task) Attachment() (a Attachment, ok bool) {
	if !t.Attaches() || len(t.NetworksAttachments) == 0 {
		return a, false
	}
	id := t.NetworksAttachments[0].Network.ID
	return Attachment{TaskID: t.ID, ContainerID: t.Spec.NetworkAttachmentSpec.ContainerID, NetworkID: id, Addr: t.Address(id)}, true
}
