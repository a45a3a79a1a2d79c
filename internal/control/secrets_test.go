package control_test

import (
	"bytes"
	"testing"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// TestASecretsBytesAreInOneKindOfRecord looks for a secret in everything that is stored and answered.
func TestASecretsBytesAreInOneKindOfRecord(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	canary := []byte("canary-5b1e0c")
	id, err := c.CreateSecret(t.Context(), swarm.SecretSpec{Annotations: swarm.Annotations{Name: "pass"}, Data: canary})
	if err != nil {
		t.Fatal(err)
	}
	rec, _ := store.Get[*cluster.Secret](s.Snapshot(), id)
	b, err := store.Marshal(rec)
	if err != nil || bytes.Contains(b, canary) {
		t.Errorf("the record shows the bytes: %q, %v", b, err)
	}
	data, ok := store.Get[*cluster.SecretData](s.Snapshot(), id)
	if !ok || !bytes.Equal(data.Data, canary) {
		t.Fatal("the bytes are not kept")
	}
	got, err := c.Secret(t.Context(), "pass")
	if err != nil || got.Spec.Data != nil {
		t.Errorf("inspect has bytes: %v", err)
	}
}
