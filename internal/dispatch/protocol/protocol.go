// Package protocol is what an agent and a manager say to each other: requests and frames, as data, and their framing.
//
// It decides the limits of what is read. It owns no connection and no state. Messages are encoded with the store's
// codec; a field that is not known is ignored, so that a newer side can say more.
package protocol

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/network"
	"shoal.dev/shoal/internal/store"
)

// The routes.
const (
	PathSession   = "/dispatch/v1/session"   // POST SessionRequest; the answer is a stream of frames
	PathStatus    = "/dispatch/v1/status"    // POST StatusRequest
	PathHeartbeat = "/dispatch/v1/heartbeat" // POST HeartbeatRequest; the answer is a HeartbeatResponse
	PathHeard     = "/dispatch/v1/heard"     // POST HeardRequest, from managers only
	PathUsage     = "/dispatch/v1/usage"     // POST UsageRequest
)

// DefaultHeartbeat is the heartbeat period of a swarm whose settings have none.
const DefaultHeartbeat = 2 * time.Second

const (
	// MaxFrame is the largest frame in bytes: the mesh of a million tasks at 60 bytes an endpoint, doubled.
	MaxFrame = 128 << 20
	// MaxRequest is the largest body of a request in bytes. It is below what the store takes as one entry.
	MaxRequest = 3 << 20
	// MaxStatuses is the number of task statuses in one request that stays below MaxRequest.
	MaxStatuses = 1000
)

// SessionRequest opens a session. The node is the one of the certificate.
type SessionRequest struct {
	// Epoch and Version are the highest that the agent has seen; the manager sends nothing that is older.
	Epoch   uint64
	Version uint64
	// Description and Addr are the node's facts: Node.Description and Node.Status.Addr.
	Description swarm.NodeDescription
	Addr        string
	// Level is the highest feature level that the node's version knows; see package cluster.
	Level int `json:",omitempty"`
	// DiskFull is Node.DiskFull.
	DiskFull int `json:",omitempty"`
}

// Frame is one message of a manager to an agent. The first of a session is complete; a frame that carries nothing but
// a version keeps the session alive and says that nothing changed for the node up to there.
type Frame struct {
	// Complete says that Tasks are all the node's tasks and Ingress the whole mesh.
	Complete bool `json:",omitempty"`
	Epoch    uint64
	// Version is the store version up to which the node now knows all that is for it.
	Version uint64
	// Now is swarm time when the frame was made.
	Now time.Time
	// HeartbeatPeriod and Managers are there when they changed.
	HeartbeatPeriod time.Duration `json:",omitempty"`
	Managers        []swarm.Peer  `json:",omitempty"`
	// Tasks are those that are new or changed; their status is the one that is known to the swarm.
	Tasks []*cluster.Task `json:",omitempty"`
	// Removed are the IDs of tasks whose record is gone.
	Removed []string `json:",omitempty"`
	// Files are the secrets, configs and credentials of the node's tasks that the agent does not have; in a complete
	// frame, all.
	Files []File `json:",omitempty"`
	// DroppedFiles are the IDs of those that no task of the node uses any more.
	DroppedFiles []string `json:",omitempty"`
	// Mesh is how the routing mesh changed; nil if it did not.
	Mesh *Mesh `json:",omitempty"`
	// Overlays are the node's networks that are new or changed, each a network.Overlay that is encoded already, because
	// one encoding serves every node. Of a complete frame they are all.
	Overlays [][]byte `json:",omitempty"`
	// OverlaysGone are the IDs of networks that the node has no task on any more.
	OverlaysGone []string `json:",omitempty"`
}

// File is the payload of a secret or config, or the credentials of a service, whose ID it has then: a map from
// repositories to X-Registry-Auth headers. IDs are unique over all kinds.
type File struct {
	ID   string
	Data []byte
	// Template says that the payload is a template.
	Template bool `json:",omitempty"`
}

// String keeps the payload out of whatever prints the file.
func (f File) String() string { return fmt.Sprintf("file %s (%d bytes)", f.ID, len(f.Data)) }

// GoString is String.
func (f File) GoString() string { return f.String() }

// Mesh is a new routing mesh or a change of it: exactly one of the fields is set, or none for no mesh at all. They are
// encoded already, because one encoding serves every node.
type Mesh struct {
	Ingress []byte `json:",omitempty"` // a network.Ingress that replaces what was there
	Delta   []byte `json:",omitempty"` // a network.Delta of what was there
}

// Resolve returns the mesh after the change of old.
func (m *Mesh) Resolve(old *network.Ingress) (*network.Ingress, error) {
	switch {
	case m.Ingress != nil:
		in := &network.Ingress{}
		if err := store.Unmarshal(m.Ingress, in); err != nil {
			return nil, fmt.Errorf("reading the routing mesh: %w", err)
		}
		return in, nil
	case m.Delta != nil:
		if old == nil {
			return nil, errors.New("a change of the routing mesh, but there is none")
		}
		d := &network.Delta{}
		if err := store.Unmarshal(m.Delta, d); err != nil {
			return nil, fmt.Errorf("reading a change of the routing mesh: %w", err)
		}
		return d.Apply(old), nil
	}
	return nil, nil
}

// ResolveOverlays returns a node's networks after a frame, by ID; old is left as it is.
func (f *Frame) ResolveOverlays(old []*network.Overlay) ([]*network.Overlay, error) {
	if !f.Complete && len(f.Overlays)+len(f.OverlaysGone) == 0 {
		return old, nil
	}
	all := map[string]*network.Overlay{}
	if !f.Complete {
		for _, o := range old {
			all[o.ID] = o
		}
	}
	for _, b := range f.Overlays {
		o := &network.Overlay{}
		if err := store.Unmarshal(b, o); err != nil {
			return nil, fmt.Errorf("reading a network: %w", err)
		}
		if o.ID == "" {
			return nil, errors.New("a network without an ID")
		}
		all[o.ID] = o
	}
	for _, id := range f.OverlaysGone {
		delete(all, id)
	}
	return slices.SortedFunc(maps.Values(all), func(a, b *network.Overlay) int { return strings.Compare(a.ID, b.ID) }), nil
}

// TaskStatus is the status of a task as its agent sees it.
type TaskStatus struct {
	TaskID string
	Status swarm.TaskStatus
}

// NodeReport is what a node says of itself and its tasks.
type NodeReport struct {
	NodeID   string
	Statuses []TaskStatus `json:",omitempty"`
	// Facts is there when the node says what it is.
	Facts *Facts `json:",omitempty"`
}

// Facts is a node's description of itself.
type Facts struct {
	Description swarm.NodeDescription
	Addr        string
	Level       int `json:",omitempty"`
	DiskFull    int `json:",omitempty"`
}

// StatusRequest carries reports. A worker may report only for itself; a manager also for nodes whose session it has.
type StatusRequest struct {
	Nodes []NodeReport
	// Forwarded says that a manager passes it on to the leader; it is not passed on again.
	Forwarded bool `json:",omitempty"`
}

// HeartbeatRequest says that the node lives.
type HeartbeatRequest struct {
	// Applied is the store version that the node's kernel holds; 0 for none yet.
	Applied uint64
	// Changed says that the kernel was changed just now: a task may be waiting for that before it is stopped.
	Changed bool `json:",omitempty"`
	// Clock is what the node's clock says.
	Clock time.Time `json:"Clock,omitzero"`
}

// HeartbeatResponse says what the swarm wants of the node beside its tasks.
type HeartbeatResponse struct {
	// Role is the role that the node is to have.
	Role swarm.NodeRole
	// Certificate is about the node's certificate; nil of a manager that has no state yet.
	Certificate *Certificate `json:",omitempty"`
	// Clock is what the manager's clock says.
	Clock time.Time `json:"Clock,omitzero"`
	// Measure are the IDs of the services whose tasks the node is to measure, at most [MaxMeasured].
	Measure []string `json:",omitempty"`
}

// MaxMeasured is the number of services that a node is told to measure.
const MaxMeasured = 1000

// UsageRequest says what tasks of a node used lately. A manager passes it on to the leader.
type UsageRequest struct {
	NodeID    string
	Tasks     []TaskUsage
	Forwarded bool `json:",omitempty"`
}

// TaskUsage is what one task used.
type TaskUsage struct {
	TaskID string
	// NanoCPUs is in billionths of a CPU, on average over the last seconds.
	NanoCPUs int64
	// MemoryBytes is without what the kernel can take back at once.
	MemoryBytes int64
	// Connections is how many were begun through the routing mesh, a second on average.
	Connections float64 `json:",omitempty"`
}

// HeardRequest says whom a manager hears.
type HeardRequest struct{ Nodes []Heard }

// Heard is when a node was last heard.
type Heard struct {
	NodeID string
	// Age is how long ago it was, by the reporting manager's clock.
	Age     time.Duration
	Applied uint64
	// ClockOffset is how far the node's clock is ahead of the reporting manager's.
	ClockOffset time.Duration `json:",omitempty"`
}

// Write writes one frame: its length in four bytes, big-endian, then its encoding.
func Write(w io.Writer, f *Frame) error {
	b, err := store.Marshal(f)
	if err != nil {
		return fmt.Errorf("encoding a frame: %w", err)
	}
	if len(b) > MaxFrame {
		return fmt.Errorf("a frame of %d bytes is too large, at most %d", len(b), MaxFrame)
	}
	out := make([]byte, 4+len(b))
	binary.BigEndian.PutUint32(out, uint32(len(b)))
	copy(out[4:], b)
	_, err = w.Write(out)
	return err
}

// Read reads one frame. At the end of the stream it returns io.EOF.
func Read(r io.Reader) (*Frame, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > MaxFrame {
		return nil, fmt.Errorf("a frame of %d bytes is too large, at most %d", n, MaxFrame)
	}
	// The buffer grows with what arrives, so that a length alone allocates nothing.
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, r, int64(n)); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	f := &Frame{}
	if err := store.Unmarshal(buf.Bytes(), f); err != nil {
		return nil, fmt.Errorf("reading a frame: %w", err)
	}
	for _, t := range f.Tasks {
		if t == nil || t.ID == "" {
			return nil, errors.New("a frame has a task without an ID")
		}
	}
	return f, nil
}

// StatusError is an answer that is not a success.
type StatusError struct {
	Code int
	Text string
}

func (e *StatusError) Error() string { return e.Text }

// Refused says whether the error is an answer that trying again does not change.
func Refused(err error) bool {
	var e *StatusError
	return errors.As(err, &e) && e.Code >= 400 && e.Code < 500
}

// Open sends a request and returns the answer, which is a success; its body is to be closed.
func Open(ctx context.Context, rt http.RoundTripper, path string, msg any) (*http.Response, error) {
	b, err := store.Marshal(msg)
	if err != nil {
		return nil, fmt.Errorf("encoding a request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://manager"+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/cbor")
	resp, err := rt.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	return nil, &StatusError{resp.StatusCode, strings.TrimSpace(strings.ToValidUTF8(string(text), "?"))}
}

// Post sends a request whose answer says nothing but that it succeeded.
func Post(ctx context.Context, rt http.RoundTripper, path string, msg any) error {
	resp, err := Open(ctx, rt, path, msg)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096)) // lets the connection be used again
	return errors.Join(err, resp.Body.Close())
}

// maxBeat is the largest answer to a heartbeat in bytes: the IDs of [MaxMeasured] services and room to spare.
const maxBeat = 64 << 10

// Beat sends a heartbeat.
func Beat(ctx context.Context, rt http.RoundTripper, req HeartbeatRequest) (HeartbeatResponse, error) {
	var out HeartbeatResponse
	resp, err := Open(ctx, rt, PathHeartbeat, req)
	if err != nil {
		return out, err
	}
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBeat))
	if err = errors.Join(err, resp.Body.Close()); err != nil || len(b) == 0 { // a manager may have nothing to say
		return out, err
	}
	return out, store.Unmarshal(b, &out)
}

// Decode reads a request's body, within [MaxRequest].
func Decode(w http.ResponseWriter, r *http.Request, msg any) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxRequest))
	if err != nil {
		return err
	}
	return store.Unmarshal(b, msg)
}
