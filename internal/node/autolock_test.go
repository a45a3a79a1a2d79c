package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// restart reads what the disk has as a daemon does that starts: with the key if it is locked, and opens the log.
func restart(t *testing.T, dir string, key []byte) (*state, *pki.Identity, error) {
	t.Helper()
	st, err := loadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if st.isLocked() {
		if len(st.RaftKey) > 0 {
			t.Error("the state has the key of the log in the clear beside the sealed one")
		}
		if st, err = st.unlock(key); err != nil {
			return nil, nil, err
		}
	}
	id, err := pki.LoadIdentity(dir, st.RaftKey)
	if err != nil {
		return nil, nil, err
	}
	return st, id, consensus.Recover(t.Context(), consensus.Config{
		Dir: filepath.Join(dir, "raft"), NodeID: st.NodeID, Addr: st.AdvertiseAddr, Key: st.RaftKey, Log: slog.New(slog.DiscardHandler),
	}, func(_ context.Context, s *store.Store) error {
		if _, ok := store.Get[*cluster.Task](s.Snapshot(), "task-w1"); !ok {
			return errors.New("the log has lost a record")
		}
		return nil
	})
}

// files are the contents of all files below a folder.
func files(t *testing.T, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		out[path] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestACrashInTheMiddleOfALockLosesNothing cuts every change of the unlock key off before, between and after its writes,
// each of them also torn, and starts anew with what a user has then: the old key or the new one.
func TestACrashInTheMiddleOfALockLosesNothing(t *testing.T) {
	k1, k2 := pki.NewUnlockKey(), pki.NewUnlockKey()
	for _, c := range []struct {
		name     string
		from, to []byte
	}{{"on", nil, k1}, {"rotated", k1, k2}, {"off", k1, nil}} {
		for cut := range 3 {
			for _, torn := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, after %d writes, torn %v", c.name, cut, torn), func(t *testing.T) {
					m := foundSwarm(t)
					m.stop()
					st := *m.st
					st.UnlockKey, st.LockVersion = c.from, 7
					if err := st.write(m.dir, m.id); err != nil {
						t.Fatal(err)
					}
					next := st
					next.UnlockKey, next.LockVersion = c.to, 8
					steps := next.writes(m.dir, m.id)
					if len(steps) != 2 {
						t.Fatalf("%d steps: this test wants to cut all of them", len(steps))
					}
					for _, step := range steps[:cut] {
						if err := step(); err != nil {
							t.Fatal(err)
						}
					}
					if torn { // what a crash leaves of a write that it cut off
						for _, name := range []string{"state.json.new", ".node.pem.123"} {
							if err := os.WriteFile(filepath.Join(m.dir, name), []byte(`{"RaftK`), 0o600); err != nil {
								t.Fatal(err)
							}
						}
					}
					key := c.from
					if got, err := loadState(m.dir); err != nil {
						t.Fatal(err)
					} else if got.LockVersion == 8 {
						key = c.to
					}
					got, id, err := restart(t, m.dir, key)
					if err != nil {
						t.Fatal(err)
					}
					if id.NodeID != "m1" || !bytes.Equal(got.RaftKey, m.st.RaftKey) || !bytes.Equal(got.UnlockKey, key) {
						t.Errorf("the node came back as %+v", got)
					}
					// What was cut off is done again, and then the old key is worth nothing.
					got.UnlockKey, got.LockVersion = c.to, 8
					if err := got.write(m.dir, id); err != nil {
						t.Fatal(err)
					}
					if _, _, err := restart(t, m.dir, c.to); err != nil {
						t.Fatal(err)
					}
					if _, err := os.Stat(filepath.Join(m.dir, ".node.pem.123")); !errors.Is(err, fs.ErrNotExist) {
						t.Errorf("what the crash left is still there: %v", err)
					}
					if len(c.to) > 0 {
						before := files(t, m.dir)
						if _, _, err := restart(t, m.dir, k1[:31]); !errors.Is(err, pki.ErrSeal) {
							t.Errorf("a wrong key: %v", err)
						}
						if !maps.Equal(before, files(t, m.dir)) {
							t.Error("a wrong key changed the disk")
						}
					}
				})
			}
		}
	}
}

// TestALockedDiskHasNoKey looks for the key of the log and for the private key in every file of a locked manager.
func TestALockedDiskHasNoKey(t *testing.T) {
	m := foundSwarm(t)
	me := &member{st: *m.st, dir: m.dir, identity: pki.NewHolder(m.id), manager: m.manager}
	if err := me.st.write(m.dir, m.id); err != nil {
		t.Fatal(err)
	}
	if sealed, err := me.relock(); sealed || err != nil {
		t.Fatalf("without a key: %v, %v", sealed, err)
	}
	set := func(change func(*cluster.UnlockKey)) {
		t.Helper()
		if _, err := m.store.Update(t.Context(), func(tx *store.Tx) error {
			k, ok := store.Get[*cluster.UnlockKey](tx.Snapshot, cluster.SingletonID)
			if !ok {
				k = &cluster.UnlockKey{ID: cluster.SingletonID}
				change(k)
				tx.Write(store.Create(k))
				return nil
			}
			k = k.Clone().(*cluster.UnlockKey)
			change(k)
			tx.Write(store.PutSpec(k))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	key := pki.NewUnlockKey()
	set(func(k *cluster.UnlockKey) { k.Bytes = key })
	if sealed, err := me.relock(); !sealed || err != nil {
		t.Fatalf("locked: %v, %v", sealed, err)
	}
	raftKey, err := json.Marshal(m.st.RaftKey)
	if err != nil {
		t.Fatal(err)
	}
	unlockKey, err := json.Marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range files(t, m.dir) {
		for what, secret := range map[string]string{
			"the log's key": strings.Trim(string(raftKey), `"`), "the unlock key": strings.Trim(string(unlockKey), `"`),
			"the unlock key's bytes": string(key), "a private key": "BEGIN PRIVATE KEY",
		} {
			if strings.Contains(data, secret) {
				t.Errorf("%s has %s", name, what)
			}
		}
	}
	// A certificate that is renewed and a list of managers that changes stay sealed.
	if err := me.keepIdentity(m.id); err != nil {
		t.Fatal(err)
	}
	me.saveManagers(m.n)([]swarm.Peer{{NodeID: "m2", Addr: "198.51.100.2:2377"}})
	st, err := loadState(m.dir)
	if err != nil || !st.isLocked() || len(st.RaftKey) > 0 || len(st.Managers) != 1 || len(st.UnlockKey) > 0 {
		t.Fatalf("%+v, %v", st, err)
	}
	if _, err := pki.LoadIdentity(m.dir, nil); !errors.Is(err, pki.ErrSeal) {
		t.Errorf("the renewed private key is readable: %v", err)
	}
	// A key that the disk has had already, as a log that is read again shows it, changes nothing.
	newer := me.st.LockVersion
	me.st.LockVersion = newer + 5
	set(func(k *cluster.UnlockKey) { k.Bytes = pki.NewUnlockKey() })
	for me.manager.store.Snapshot().Index() <= newer+5 {
		if sealed, err := me.relock(); sealed || err != nil || !bytes.Equal(me.st.UnlockKey, key) {
			t.Fatalf("an old key was taken up: %v, %v", sealed, err)
		}
		set(func(k *cluster.UnlockKey) {})
	}
	// Switched off.
	set(func(k *cluster.UnlockKey) { k.Bytes = nil })
	if sealed, err := me.relock(); sealed || err != nil {
		t.Fatalf("unlocked: %v, %v", sealed, err)
	}
	if st, err = loadState(m.dir); err != nil || st.isLocked() || !bytes.Equal(st.RaftKey, m.st.RaftKey) {
		t.Errorf("%+v, %v", st, err)
	}
	if _, err := pki.LoadIdentity(m.dir, nil); err != nil {
		t.Error(err)
	}
}

// TestADemotedManagerForgetsTheLock looks at each step of the way from a locked manager to a worker and back.
func TestADemotedManagerForgetsTheLock(t *testing.T) {
	m := foundSwarm(t)
	m.stop()
	st := *m.st
	st.UnlockKey, st.LockVersion = pki.NewUnlockKey(), 7
	if err := st.write(m.dir, m.id); err != nil {
		t.Fatal(err)
	}
	worker := st
	worker.Role, worker.RaftKey, worker.Lock = swarm.NodeRoleWorker, nil, Lock{}
	if err := worker.writes(m.dir, m.id)[0](); err != nil { // the crash comes after the first write
		t.Fatal(err)
	}
	if _, _, err := restart(t, m.dir, st.UnlockKey); err != nil {
		t.Errorf("cut off in the middle: %v", err)
	}
	if err := st.becomes(swarm.NodeRoleWorker, m.dir, m.id); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(m.dir)
	if err != nil || got.isLocked() || got.Role != swarm.NodeRoleWorker || got.LockVersion != 0 || len(got.RaftKey) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := pki.LoadIdentity(m.dir, nil); err != nil {
		t.Errorf("a worker cannot read its own key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(m.dir, "raft")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the log is still there: %v", err)
	}
	if err := st.becomes(swarm.NodeRoleManager, m.dir, m.id); err != nil {
		t.Fatal(err)
	}
	if got, err := loadState(m.dir); err != nil || got.isLocked() || len(got.RaftKey) != 32 || bytes.Equal(got.RaftKey, m.st.RaftKey) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestALockedNodeAnswersNothingOfTheSwarm(t *testing.T) {
	m := foundSwarm(t)
	m.stop()
	n := &Node{log: m.n.log, control: control.New(nil), cfg: Config{DataRoot: filepath.Dir(m.dir)}}
	st := *m.st
	st.UnlockKey = pki.NewUnlockKey()
	st.Managers = []swarm.Peer{{NodeID: "m2", Addr: "198.51.100.2:2377"}}
	if err := st.write(m.dir, m.id); err != nil {
		t.Fatal(err)
	}
	locked, err := loadState(m.dir)
	if err != nil {
		t.Fatal(err)
	}
	n.comeUpLocked(locked)
	const words = `Swarm is encrypted and needs to be unlocked before it can be used. Please use "docker swarm unlock" to unlock it.`
	_, swarmErr := n.control.Swarm(t.Context())
	_, keyErr := n.control.UnlockKey(t.Context())
	_, healthErr := n.Health(t.Context())
	_, cutErr := n.Init(t.Context(), swarm.InitRequest{ForceNewCluster: true})
	for name, err := range map[string]error{
		"inspect": swarmErr, "key": keyErr, "health": healthErr, "force-new-cluster": cutErr,
		"backup": n.Backup(t.Context(), &bytes.Buffer{}), "update": n.control.UpdateSwarm(t.Context(), 1, swarm.Spec{}, control.RotateFlags{}),
	} {
		if err == nil || err.Error() != words || !errdefs.IsUnavailable(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := n.Init(t.Context(), swarm.InitRequest{}); err == nil || err.Error() != alreadyInSwarm {
		t.Errorf("init: %v", err)
	}
	if err := n.Leave(t.Context(), false); err == nil || !strings.Contains(err.Error(), "Swarm is encrypted and locked. Please unlock it first") {
		t.Errorf("leave: %v", err)
	}
	if i := n.swarmInfo(); i.LocalNodeState != swarm.LocalNodeStateLocked || i.ControlAvailable || i.Error != words || i.NodeID != "m1" || len(i.RemoteManagers) != 1 {
		t.Errorf("info: %+v", i)
	}
	before := files(t, m.dir)
	if err := n.Unlock(t.Context(), swarm.UnlockRequest{UnlockKey: "x"}); err == nil || err.Error() != "invalid key string" || !errdefs.IsInvalidArgument(err) {
		t.Errorf("no key: %v", err)
	}
	wrong := pki.FormatUnlockKey(pki.NewUnlockKey())
	if err := n.Unlock(t.Context(), swarm.UnlockRequest{UnlockKey: wrong}); err == nil || err.Error() != "swarm could not be unlocked: invalid key provided" || !errdefs.IsUnauthorized(err) {
		t.Errorf("the wrong key: %v", err)
	}
	if !maps.Equal(before, files(t, m.dir)) || n.locked.Load() == nil {
		t.Error("a wrong key changed something")
	}
	n.locked.Store(nil)
	if err := n.Unlock(t.Context(), swarm.UnlockRequest{}); err == nil || err.Error() != control.NotInSwarm {
		t.Errorf("in no swarm: %v", err)
	}
}
