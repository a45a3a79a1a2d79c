package store_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

func backedUp(t testing.TB) (*store.Store, []byte) {
	t.Helper()
	s := store.New()
	store.NewLocal(s)
	_, err := s.Update(t.Context(), func(tx *store.Tx) error {
		tx.Write(store.Create(&cluster.Swarm{Epoch: 3}))
		tx.Write(store.Create(&cluster.SecretData{ID: "s1", Data: []byte("canary")}))
		for _, id := range []string{"t1", "t2"} {
			k := &cluster.Task{}
			k.ID, k.DesiredState = id, swarm.TaskStateRunning
			tx.Write(store.Create(k))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := s.Snapshot().Backup(&b); err != nil {
		t.Fatal(err)
	}
	return s, b.Bytes()
}

func TestABackupComesBackWhole(t *testing.T) {
	s, b := backedUp(t)
	for name, r := range map[string]io.Reader{
		"at once": bytes.NewReader(b), "byte by byte": iotest.OneByteReader(bytes.NewReader(b)), "the end with the last bytes": iotest.DataErrReader(bytes.NewReader(b)),
	} {
		got, err := store.ReadBackup(r)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		var again bytes.Buffer
		if err := got.Snapshot().Backup(&again); err != nil || !bytes.Equal(again.Bytes(), b) || got.Index() != s.Index() {
			t.Errorf("%s: the records are others (%v)", name, err)
		}
	}
	broken := errors.New("the disk is full")
	if err := s.Snapshot().Backup(failing{broken}); !errors.Is(err, broken) {
		t.Errorf("a writer that fails: %v", err)
	}
	if _, err := store.ReadBackup(iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v", err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestABackupThatWasChangedIsRefused(t *testing.T) {
	_, b := backedUp(t)
	for n := range b {
		if _, err := store.ReadBackup(bytes.NewReader(b[:n])); !errors.Is(err, store.ErrNoBackup) {
			t.Fatalf("cut off after %d of %d bytes: %v", n, len(b), err)
		}
		changed := bytes.Clone(b)
		changed[n] ^= 0x41
		if _, err := store.ReadBackup(bytes.NewReader(changed)); !errors.Is(err, store.ErrNoBackup) {
			t.Fatalf("byte %d changed: %v", n, err)
		}
	}
	if _, err := store.ReadBackup(bytes.NewReader(append(bytes.Clone(b), 0))); !errors.Is(err, store.ErrNoBackup) {
		t.Errorf("a byte too many: %v", err)
	}
}

func FuzzReadBackup(f *testing.F) {
	_, b := backedUp(f)
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte("SHOALBK1"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, err := store.ReadBackup(bytes.NewReader(in)); err != nil && !errors.Is(err, store.ErrNoBackup) {
			t.Error(err)
		}
		// Without the digest in the way.
		_ = store.New().Restore(bytes.NewReader(in))
	})
}
