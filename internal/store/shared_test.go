package store

import (
	"bytes"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
)

func shared(id string, spec swarm.TaskSpec) *cluster.Task {
	t := &cluster.Task{ServiceName: "web"}
	t.ID, t.ServiceID, t.Spec = id, "svc", spec
	t.Labels = map[string]string{"a": "b"}
	return t
}

// Tasks whose specification is encoded once for all have the encoding that each has by itself, also where specifications
// differ in one part only.
func TestWhatIsEncodedOnceIsEncodedTheSame(t *testing.T) {
	spec := swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "hello:1"}, Networks: []swarm.NetworkAttachmentConfig{{Target: "n1"}, {Target: "n2"}}}
	fewer, forced, placed, bare := spec, spec, spec, swarm.TaskSpec{}
	fewer.Networks = spec.Networks[:1]
	forced.ForceUpdate = 1
	placed.Placement = &swarm.Placement{Constraints: []string{"node.role==worker"}}
	m := memo{}
	for i, s := range []swarm.TaskSpec{spec, spec, fewer, forced, placed, bare, spec} {
		k := shared("t", s)
		v, err := m.encodable(k)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := Marshal(k); err != nil || !bytes.Equal(got, want) {
			t.Errorf("task %d: %x, by itself %x (%v)", i, got, want, err)
		}
	}
	if len(m) != 5 {
		t.Errorf("%d specifications were encoded, there are 5", len(m))
	}
}

// Tasks of equal specifications share one after they were decoded; who changes a clone of one changes none of the others.
func TestTasksShareWhatIsEqual(t *testing.T) {
	in := newInterned(2)
	decode := func(k *cluster.Task) *cluster.Task {
		t.Helper()
		b, err := Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		o, err := in.decode(cluster.KindTask, b)
		if err != nil {
			t.Fatal(err)
		}
		return o.(*cluster.Task)
	}
	spec := func(image string) swarm.TaskSpec {
		return swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: image}}
	}
	a, b, c := decode(shared("a", spec("hello:1"))), decode(shared("b", spec("hello:1"))), decode(shared("c", spec("hello:2")))
	if a.Spec.ContainerSpec != b.Spec.ContainerSpec || a.ID != "a" || b.ID != "b" {
		t.Error("two tasks of one specification do not share it")
	}
	if c.Spec.ContainerSpec.Image != "hello:2" {
		t.Errorf("the other specification is %+v", c.Spec.ContainerSpec)
	}
	n := a.Clone().(*cluster.Task)
	n.Spec.ContainerSpec.Image, n.Labels["a"] = "other", "other"
	if b.Spec.ContainerSpec.Image != "hello:1" || b.Labels["a"] != "b" {
		t.Errorf("a change of a clone is seen in another task: %+v", b)
	}
	if d := decode(shared("d", spec("hello:3"))); d.Spec.ContainerSpec.Image != "hello:3" || len(in.specs) != 1 {
		t.Errorf("%+v, with %d remembered of at most 2", d.Spec.ContainerSpec, len(in.specs))
	}
}

// An entry that writes the state part of a record carries no more than that.
func TestAStatusTravelsAlone(t *testing.T) {
	k := shared("t", swarm.TaskSpec{ContainerSpec: &swarm.ContainerSpec{Image: "a-long-name-of-an-image"}})
	k.Version.Index, k.StateVersion = 7, 8
	k.Status.State = swarm.TaskStateRunning
	data, err := encodeEntry(&entry{At: time.Unix(1, 0), Groups: []Group{{Changes: []Change{PutState(k)}}}})
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("a-long-name-of-an-image")) {
		t.Error("the entry has the specification")
	}
	e, err := decodeEntry(data, newInterned(1))
	if err != nil {
		t.Fatal(err)
	}
	c := e.Groups[0].Changes[0]
	if got := c.Value.(*cluster.Task); got.Status.State != swarm.TaskStateRunning || c.ExpectState != 8 || got.ID != "t" {
		t.Errorf("%+v", c)
	}
}
