package dispatch_test

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/dispatch/protocol"
	"shoal.dev/shoal/internal/store"
)

func secret(w *world, id, payload string) {
	s := &cluster.Secret{}
	s.ID, s.Spec.Name = id, id
	w.create(s, &cluster.SecretData{ID: id, Data: []byte(payload)})
}

func config(w *world, id, payload string) {
	c := &cluster.Config{}
	c.ID, c.Spec.Name, c.Spec.Data = id, id, []byte(payload)
	c.Spec.Templating = &swarm.Driver{Name: "golang"}
	w.create(c)
}

func using(t *cluster.Task, secrets, configs []string) *cluster.Task {
	for _, id := range secrets {
		t.Spec.ContainerSpec.Secrets = append(t.Spec.ContainerSpec.Secrets, &swarm.SecretReference{SecretID: id, SecretName: id, File: &swarm.SecretReferenceFileTarget{Name: id}})
	}
	for _, id := range configs {
		t.Spec.ContainerSpec.Configs = append(t.Spec.ContainerSpec.Configs, &swarm.ConfigReference{ConfigID: id, ConfigName: id, File: &swarm.ConfigReferenceFileTarget{Name: id}})
	}
	return t
}

func fileIDs(files []protocol.File) []string {
	var ids []string
	for _, f := range files {
		ids = append(ids, f.ID)
	}
	return ids
}

func TestANodeGetsTheFilesOfItsTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1", "n2")
		secret(w, "s1", "one")
		secret(w, "s2", "two")
		secret(w, "s3", "three")
		config(w, "c1", "text")
		waiting := using(task("w", "n1", 0), []string{"s3"}, nil)
		waiting.Status.State = swarm.TaskStatePending
		w.create(using(task("a", "n1", 0), []string{"s1"}, []string{"c1"}), using(task("x", "n2", 0), []string{"s2"}, nil), waiting)
		srv := w.leader()
		ss := mustOpen(t, w.dial(srv, "n1"))
		f := ss.next()
		if !f.Complete || !slices.Equal(fileIDs(f.Files), []string{"c1", "s1"}) || string(f.Files[1].Data) != "one" || f.Files[1].Template || !f.Files[0].Template {
			t.Errorf("the complete frame has %v", f.Files)
		}
		// What it has is not sent again.
		w.create(using(task("b", "n1", 0), []string{"s1", "s2"}, nil))
		if f = ss.next(); !slices.Equal(fileIDs(f.Files), []string{"s2"}) || len(f.DroppedFiles) > 0 {
			t.Errorf("with a second task %v, dropped %v", f.Files, f.DroppedFiles)
		}
		w.remove(w.task("b"))
		if f = ss.next(); !slices.Equal(f.DroppedFiles, []string{"s2"}) || len(f.Files) > 0 {
			t.Errorf("without the second task %v, dropped %v", f.Files, f.DroppedFiles)
		}
		// The end of a task, which the node itself reports, is enough.
		if err := report(w.dial(srv, "n1"), "n1", status("a", swarm.TaskStateFailed, 1)); err != nil {
			t.Fatal(err)
		}
		if f = ss.next(); !slices.Equal(f.DroppedFiles, []string{"c1", "s1"}) || len(f.Tasks) > 0 {
			t.Errorf("after the end of the last task: dropped %v, tasks %v", f.DroppedFiles, ids(f.Tasks))
		}
		w.change("w", func(t *cluster.Task) { t.Status.State = swarm.TaskStateAssigned })
		if f = ss.next(); !slices.Equal(fileIDs(f.Files), []string{"s3"}) {
			t.Errorf("after the assignment %v", f.Files)
		}
		w.change("w", func(t *cluster.Task) { t.DesiredState = swarm.TaskStateShutdown })
		if f = ss.next(); !slices.Equal(f.DroppedFiles, []string{"s3"}) {
			t.Errorf("after the stop dropped %v", f.DroppedFiles)
		}
	})
}

// TestASecretReachesNoOtherNode reads all that a node is sent while tasks with a secret come and go elsewhere.
func TestASecretReachesNoOtherNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		canary := []byte("canary-77aa01")
		w := newWorld(t, "m1", "n1", "n2")
		secret(w, "s1", string(canary))
		w.create(using(task("a", "n1", 0), []string{"s1"}, nil))
		srv := w.leader()
		other, own := mustOpen(t, w.dial(srv, "n2")), mustOpen(t, w.dial(srv, "n1"))
		w.create(using(task("b", "n1", 0), []string{"s1"}, nil), task("y", "n2", 0))
		w.change("b", func(t *cluster.Task) { t.DesiredState = swarm.TaskStateShutdown })
		w.update(func(tx *store.Tx) {
			s, _ := store.Get[*cluster.Secret](tx.Snapshot, "s1")
			s = s.Clone().(*cluster.Secret)
			s.Spec.Labels = map[string]string{"a": "b"}
			tx.Write(store.PutSpec(s))
		})
		time.Sleep(10 * time.Second)
		count := func(s *stream) (n int) {
			for {
				select {
				case f := <-s.frames:
					b, err := store.Marshal(f)
					if err != nil {
						t.Fatal(err)
					}
					n += bytes.Count(b, canary)
				default:
					return n
				}
			}
		}
		if n := count(other); n != 0 {
			t.Errorf("node n2 was sent the secret %d times", n)
		}
		if n := count(own); n != 1 {
			t.Errorf("node n1 was sent the secret %d times, want once", n)
		}
	})
}

// TestManyFilesGoWithSeveralFrames gives a node more than one frame may carry.
func TestManyFilesGoWithSeveralFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1")
		big := string(make([]byte, 1<<20))
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprintf("c%02d", i))
			config(w, want[i], big)
		}
		w.create(using(task("a", "n1", 0), nil, want))
		ss := mustOpen(t, w.dial(w.leader(), "n1"))
		first, second := ss.next(), ss.next()
		if !first.Complete || len(first.Files) != 32 || second.Complete || len(second.Files) != 8 {
			t.Errorf("%d and %d files", len(first.Files), len(second.Files))
		}
		if got := append(fileIDs(first.Files), fileIDs(second.Files)...); !slices.Equal(got, want) {
			t.Errorf("got %v", got)
		}
	})
}

// TestCredentialsGoWhereTheirTasksAre gives a service credentials and changes them.
func TestCredentialsGoWhereTheirTasksAre(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, "m1", "n1", "n2")
		early := task("a", "n1", 0)
		w.create(early, task("other", "n2", 0))
		w.update(func(tx *store.Tx) {
			o, _ := store.Get[*cluster.Task](tx.Snapshot, "other")
			o = o.Clone().(*cluster.Task)
			o.ServiceID = "another"
			tx.Write(store.PutBoth(o))
		})
		service := w.task("a").ServiceID
		srv := w.leader()
		ss, elsewhere := mustOpen(t, w.dial(srv, "n1")), mustOpen(t, w.dial(srv, "n2"))
		if f := ss.next(); len(f.Files) > 0 {
			t.Errorf("a service without credentials has %v", f.Files)
		}
		elsewhere.next()
		auth := func(f *protocol.Frame) string {
			t.Helper()
			if len(f.Files) != 1 || f.Files[0].ID != service {
				t.Fatalf("the frame has %v", f.Files)
			}
			all, err := f.Files[0].Credentials()
			if err != nil {
				t.Fatal(err)
			}
			return all["docker.io/library/hello"]
		}
		w.create(&cluster.Credentials{ID: service, Auth: map[string]string{"docker.io/library/hello": "canary-1"}})
		if got := auth(ss.next()); got != "canary-1" {
			t.Errorf("new credentials are %q", got)
		}
		w.update(func(tx *store.Tx) {
			c, _ := store.Get[*cluster.Credentials](tx.Snapshot, service)
			c = c.Clone().(*cluster.Credentials)
			c.Auth["docker.io/library/hello"] = "canary-2"
			tx.Write(store.PutSpec(c))
		})
		if got := auth(ss.next()); got != "canary-2" {
			t.Errorf("changed credentials are %q", got)
		}
		// A second task brings nothing that is there already, and another session begins with what there is.
		w.create(task("b", "n1", 0))
		if f := ss.next(); len(f.Files) > 0 {
			t.Errorf("with a second task %v", f.Files)
		}
		if got := auth(mustOpen(t, w.dial(srv, "n1")).next()); got != "canary-2" {
			t.Errorf("a new session has %q", got)
		}
		time.Sleep(10 * time.Second)
		for {
			select {
			case f := <-elsewhere.frames:
				if len(f.Files) > 0 {
					t.Errorf("a node without a task of the service was sent %v", f.Files)
				}
				continue
			default:
			}
			break
		}
	})
}
