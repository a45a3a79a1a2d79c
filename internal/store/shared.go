package store

import (
	"sync"

	"github.com/fxamacker/cbor/v2"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

// Most of a task is the specification that it shares with the other tasks of its service. On the disk and on the wire each
// task has its own, so that a record is whole by itself. In memory tasks of equal specifications share one, which makes a
// large swarm a fraction of the size, and it is encoded and decoded once instead of once for each task.

// memo has the encoded specifications of the tasks that are encoded together.
type memo map[specKey]cbor.RawMessage

// specKey tells specifications apart by where their parts are in memory, which is stable while a memo is in use: records
// that are being encoded do not change.
type specKey struct {
	container  *swarm.ContainerSpec
	plugin     *swarm.RuntimeSpec
	attachment *swarm.NetworkAttachmentSpec
	resources  *swarm.ResourceRequirements
	restart    *swarm.RestartPolicy
	placement  *swarm.Placement
	log        *swarm.Driver
	networks   *swarm.NetworkAttachmentConfig // the first of so many
	count      int
	force      uint64
	runtime    swarm.RuntimeType
}

func keyOf(s *swarm.TaskSpec) specKey {
	k := specKey{
		s.ContainerSpec, s.PluginSpec, s.NetworkAttachmentSpec, s.Resources, s.RestartPolicy, s.Placement, s.LogDriver,
		nil, len(s.Networks), s.ForceUpdate, s.Runtime,
	}
	if len(s.Networks) > 0 {
		k.networks = &s.Networks[0]
	}
	return k
}

// encodable is what to encode for the record.
func (m memo) encodable(o cluster.Object) (any, error) {
	t, ok := o.(*cluster.Task)
	if !ok {
		return o, nil
	}
	k := keyOf(&t.Spec)
	b, ok := m[k]
	if !ok {
		var err error
		if b, err = encMode.Marshal(t.Spec); err != nil {
			return nil, err
		}
		m[k] = b
	}
	return taskOut{t, b}, nil
}

// taskOut is a task with its specification encoded already.
type taskOut struct {
	*cluster.Task
	Spec cbor.RawMessage
}

// taskIn is a task with what it shares not decoded yet.
type taskIn struct {
	*cluster.Task
	Spec   view
	Labels view
}

// interned has what tasks share, by its encoding. It is safe for concurrent use.
type interned struct {
	mu     sync.Mutex
	limit  int // of entries in each map
	specs  map[string]*swarm.TaskSpec
	labels map[string]map[string]string
	texts  map[string]string
}

// maxInterned is how many specifications the store remembers between entries, some kilobytes each, and how many texts.
const maxInterned = 10_000

func newInterned(limit int) *interned {
	return &interned{limit: limit, specs: map[string]*swarm.TaskSpec{}, labels: map[string]map[string]string{}, texts: map[string]string{}}
}

// decode reads a record of a known kind.
func (in *interned) decode(k cluster.Kind, data []byte) (cluster.Object, error) {
	if k != cluster.KindTask {
		o := cluster.New(k)
		return o, decMode.Unmarshal(data, o)
	}
	t := &cluster.Task{}
	w := taskIn{Task: t}
	if err := decMode.Unmarshal(data, &w); err != nil {
		return nil, err
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	spec, err := sharedValue(in.specs, w.Spec, in.limit)
	if err != nil {
		return nil, err
	}
	labels, err := sharedValue(in.labels, w.Labels, in.limit)
	if err != nil {
		return nil, err
	}
	if spec != nil {
		t.Spec = *spec
	}
	t.Labels = labels
	in.share(&t.ServiceID, &t.ServiceName, &t.NodeID, &t.Status.Message, (*string)(&t.Status.State), (*string)(&t.DesiredState))
	return t, nil
}

// share makes equal texts one in memory. Tasks have few different ones, and the garbage collector looks at each by itself.
func (in *interned) share(texts ...*string) {
	for _, s := range texts {
		known, ok := in.texts[*s]
		if !ok {
			if len(in.texts) >= in.limit {
				clear(in.texts)
			}
			in.texts[*s] = *s
			continue
		}
		*s = known
	}
}

// sharedValue is the value of the encoding, the same one for equal encodings.
func sharedValue[T any](known map[string]T, data []byte, limit int) (v T, err error) {
	if len(data) == 0 {
		return v, nil
	}
	v, ok := known[string(data)]
	if ok {
		return v, nil
	}
	if err := decMode.Unmarshal(data, &v); err != nil {
		return v, err
	}
	if len(known) >= limit {
		clear(known)
	}
	known[string(data)] = v
	return v, nil
}
