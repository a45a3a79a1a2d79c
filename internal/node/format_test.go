package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/consensus"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

// What a manager has on its disk is kept here as every version wrote it: testdata/format-N, which this test loads and
// never changes. A version that writes another format adds a folder:
//
//	go test ./internal/node -run TestEveryFormatLoads -format.write format-2
var writeFormat = flag.String("format.write", "", "the name of a folder in testdata to write with what a manager has on its disk")

// specimens are a record of every kind but those that a swarm begins with, with values that encodings like to lose.
func specimens() []cluster.Object {
	at := time.Date(2026, 5, 1, 12, 0, 0, 123456789, time.UTC)
	zero, interval := uint64(0), 1500*time.Millisecond
	s := &cluster.Service{}
	s.ID, s.Spec.Name, s.Spec.Labels = "service1", "web", map[string]string{"a": "b", "empty": ""}
	s.Spec.Mode.Replicated = &swarm.ReplicatedService{Replicas: &zero}
	s.Spec.TaskTemplate.ContainerSpec = &swarm.ContainerSpec{Image: "hello:1", Env: []string{"A=b"}, StopGracePeriod: &interval,
		Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "v", Target: "/v"}}}
	s.Spec.UpdateConfig = &swarm.UpdateConfig{Parallelism: 0, MaxFailureRatio: 0.25}
	s.Endpoint.Ports = []swarm.PortConfig{{Protocol: network.TCP, TargetPort: 80, PublishedPort: 8080, PublishMode: swarm.PortConfigPublishModeIngress}}
	s.UpdateStatus = &swarm.UpdateStatus{State: swarm.UpdateStateCompleted, StartedAt: &at, CompletedAt: &at}
	global := &cluster.Service{}
	global.ID, global.Spec.Name, global.Spec.Mode.Global = "service2", "agent", &swarm.GlobalService{}
	k := &cluster.Task{ServiceName: "web", SpecVersion: 7, StartAt: at, Released: true, Attempt: 3, RunningAt: at, EndedAt: at,
		HostPorts: []swarm.PortConfig{{TargetPort: 53}}}
	k.ID, k.ServiceID, k.Slot, k.NodeID, k.DesiredState = "task1", "service1", 1, "w1", swarm.TaskStateRunning
	k.Status = swarm.TaskStatus{Timestamp: at, State: swarm.TaskStateRunning, Message: "started", ContainerStatus: &swarm.ContainerStatus{ContainerID: "c", PID: 9}}
	k.NetworksAttachments = []swarm.NetworkAttachment{{Addresses: []netip.Prefix{netip.MustParsePrefix("10.0.1.5/24")}}}
	n := &cluster.Network{}
	n.ID, n.Spec.Name, n.DriverState.Options = "network1", "backend", map[string]string{"vni": "4097"}
	n.IPAMOptions = &swarm.IPAMOptions{Configs: []swarm.IPAMConfig{{Subnet: netip.MustParsePrefix("10.0.1.0/24"), Gateway: netip.MustParseAddr("10.0.1.1")}}}
	c := &cluster.Claim{ID: cluster.ClaimRemoved("gone"), Owner: "gone", OwnerName: "node9", ReleasedAt: 12}
	secret := &cluster.Secret{}
	secret.ID, secret.Spec.Name = "secret1", "password"
	config := &cluster.Config{}
	config.ID, config.Spec.Name, config.Spec.Data = "config1", "settings", []byte{0, 1, 0xff, '\n'}
	return []cluster.Object{s, global, k, n, c, secret, &cluster.SecretData{ID: "secret1", Data: []byte("of no use to anybody\x00\xff")}, config,
		&cluster.Credentials{ID: "service1", Auth: map[string]string{"docker.io/library/hello": "e30="}},
		&cluster.UnlockKey{ID: cluster.SingletonID}}
}

// writeFolder writes what a manager has on its disk: half of the records in a snapshot, half in the log behind it.
func writeFolder(t *testing.T, dir string) {
	t.Helper()
	m := foundSwarm(t)
	all := specimens()
	write := func(s *store.Store, objects []cluster.Object) {
		t.Helper()
		if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
			for _, o := range objects {
				tx.Write(store.Create(o.Clone()))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	write(m.store, all[:len(all)/2])
	var backup bytes.Buffer
	if err := m.store.Snapshot().Backup(&backup); err != nil {
		t.Fatal(err)
	}
	m.stop()
	records, err := store.ReadBackup(&backup)
	if err != nil {
		t.Fatal(err)
	}
	st := *m.st
	st.Managers = []swarm.Peer{{NodeID: st.NodeID, Addr: st.AdvertiseAddr}}
	if err := errors.Join(st.save(dir), pki.SaveIdentity(dir, m.id, nil), consensus.Seed(consensus.Config{
		Dir: filepath.Join(dir, "raft"), NodeID: st.NodeID, Addr: st.AdvertiseAddr, Key: st.RaftKey, Log: m.n.log,
	}, records)); err != nil {
		t.Fatal(err)
	}
	again := openTestManager(t, dir, &st, m.id)
	if err := again.waitToLead(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(again.store, all[len(all)/2:])
	// A rotation of the root is under way.
	if _, err := again.store.Update(t.Context(), func(tx *store.Tx) error {
		ca, _ := store.Get[*cluster.Authority](tx.Snapshot, cluster.SingletonID)
		ca = ca.Clone().(*cluster.Authority)
		ca.Next, err = pki.NewNext(ca, time.Now())
		tx.Write(store.PutSpec(ca))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	text := asText(t, again.store.Snapshot())
	have := map[cluster.Kind]bool{}
	each(again.store.Snapshot(), func(o cluster.Object) { have[o.Kind()] = true })
	for _, k := range cluster.Kinds() {
		if !have[k] {
			t.Fatalf("there is no %s: add one to specimens", k)
		}
	}
	again.stop()
	trim(t, filepath.Join(dir, "raft", "log.db"))
	if err := os.WriteFile(filepath.Join(dir, "records.json"), text, 0o644); err != nil {
		t.Fatal(err)
	}
}

// trim cuts off the pages that a log's file is longer than what is in it: the file grows by 16 MB at a time.
func trim(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const page = 4096
	size := (len(bytes.TrimRight(b, "\x00")) + page) / page * page
	if err := os.WriteFile(path, b[:size], 0o600); err != nil {
		t.Fatal(err)
	}
}

// asText is every record of a snapshot, in JSON.
func asText(t *testing.T, snap *store.Snapshot) []byte {
	t.Helper()
	out := map[string]any{}
	add := func(o cluster.Object) { out[string(o.Kind())+" "+o.Key()] = o }
	each(snap, add)
	if len(out) == 0 {
		t.Fatal("there are no records")
	}
	text, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return append(text, '\n')
}

func each(snap *store.Snapshot, add func(cluster.Object)) {
	addAll[*cluster.Swarm](snap, add)
	addAll[*cluster.Authority](snap, add)
	addAll[*cluster.Node](snap, add)
	addAll[*cluster.Service](snap, add)
	addAll[*cluster.Task](snap, add)
	addAll[*cluster.Network](snap, add)
	addAll[*cluster.Claim](snap, add)
	addAll[*cluster.Secret](snap, add)
	addAll[*cluster.SecretData](snap, add)
	addAll[*cluster.Config](snap, add)
	addAll[*cluster.Credentials](snap, add)
	addAll[*cluster.UnlockKey](snap, add)
}

func addAll[T cluster.Object](snap *store.Snapshot, add func(cluster.Object)) {
	for o := range store.List[T](snap) {
		add(o)
	}
}

// takeUp copies a folder and starts a manager on it, as a daemon does.
func takeUp(t *testing.T, from string, damage func(dir string)) (dir string, m *testManager, err error) {
	t.Helper()
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			err = os.Chmod(path, 0o600) // git knows no modes but one bit
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if damage != nil {
		damage(dir)
	}
	st, err := loadState(dir)
	if err != nil {
		return dir, nil, err
	}
	id, err := pki.LoadIdentity(dir, st.RaftKey)
	if err != nil {
		return dir, nil, err
	}
	n := &Node{log: slog.New(slog.DiscardHandler), control: control.New(nil)}
	opened, err := n.openManager(dir, st, pki.NewHolder(id))
	if err != nil {
		return dir, nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		go func() { _ = opened.server.Run(ctx) }()
		_ = opened.cons.Run(ctx)
		opened.peers.close()
	}()
	tm := &testManager{opened, n, st, dir, id, func() { cancel(); <-done }}
	t.Cleanup(tm.stop)
	return dir, tm, nil
}

func TestEveryFormatLoads(t *testing.T) {
	if *writeFormat != "" {
		dir := filepath.Join("testdata", *writeFormat)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		writeFolder(t, dir)
	}
	folders, err := filepath.Glob("testdata/format-*")
	if err != nil || len(folders) == 0 {
		t.Fatalf("%d folders, %v", len(folders), err)
	}
	for _, from := range folders {
		t.Run(filepath.Base(from), func(t *testing.T) {
			_, m, err := takeUp(t, from, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := m.waitToLead(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := m.catchUp(t.Context()); err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(filepath.Join(from, "records.json"))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(asText(t, m.store.Snapshot())), "\n")); d != "" {
				t.Errorf("records are not as they were:\n%s", d)
			}
			// It is a swarm that goes on: its certificates are made, and changes taken.
			if _, err := m.reissue(renewRequest{NodeID: "w1", CSR: request(t)}); err != nil {
				t.Error(err)
			}
			if err := pki.ValidAt(m.peers.identity.Get(), time.Now()); err != nil {
				t.Error(err)
			}
		})
		t.Run(filepath.Base(from)+" damaged", func(t *testing.T) { damaged(t, from) })
	}
}

// damaged cuts off and changes each file in turn: the error says so, and the damage is left for a look.
func damaged(t *testing.T, from string) {
	var files []string
	if err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && d.Name() != "records.json" {
			rel, _ := filepath.Rel(from, path)
			files = append(files, rel)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if len(files) < 5 { // state.json, node.pem, root.pem, the log, a snapshot
		t.Fatalf("only %v", files)
	}
	for _, file := range files {
		for name, change := range map[string]func([]byte) []byte{
			"cut off": func(b []byte) []byte { return b[:len(b)/2] },
			"empty":   func([]byte) []byte { return nil },
			"zeros":   func(b []byte) []byte { return append(b[:len(b)/2:len(b)/2], make([]byte, len(b)-len(b)/2)...) },
		} {
			t.Run(file+" "+name, func(t *testing.T) {
				var before []byte
				dir, m, err := takeUp(t, from, func(dir string) {
					path := filepath.Join(dir, file)
					b, err := os.ReadFile(path)
					if err != nil {
						t.Fatal(err)
					}
					before = change(b)
					if err := os.WriteFile(path, before, 0o600); err != nil {
						t.Fatal(err)
					}
				})
				if err == nil {
					m.stop()
					t.Fatal("it was taken up")
				}
				if !strings.Contains(err.Error(), dir) {
					t.Errorf("the error does not say where the damage is: %v", err)
				}
				if len(before) == 0 && filepath.Base(file) == "log.db" {
					return // made anew, and refused as long as there is a snapshot
				}
				if after, err := os.ReadFile(filepath.Join(dir, file)); err != nil || !bytes.Equal(before, after) {
					t.Errorf("the file was changed: %v", err)
				}
			})
		}
	}
}
