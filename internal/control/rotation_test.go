package control_test

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
	"shoal.dev/shoal/internal/pki"
	"shoal.dev/shoal/internal/store"
)

func TestRotatingTheAuthority(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	ca, err := pki.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Update(t.Context(), func(tx *store.Tx) error {
		tx.Write(store.Create(ca.Clone()))
		sw := tx.Swarm().Clone().(*cluster.Swarm)
		sw.TLSInfo, err = pki.TLSInfo(ca)
		tx.Write(store.PutBoth(sw))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	update := func(change func(*swarm.CAConfig)) error {
		t.Helper()
		sw, err := c.Swarm(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		change(&sw.Spec.CAConfig)
		return c.UpdateSwarm(t.Context(), sw.Version.Index, sw.Spec, control.RotateFlags{})
	}
	next := func() *cluster.NextRoot {
		t.Helper()
		a, _ := store.Get[*cluster.Authority](s.Snapshot(), cluster.SingletonID)
		sw, err := c.Swarm(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want, err := pki.TLSInfo(a)
		if err != nil {
			t.Fatal(err)
		}
		if sw.TLSInfo.TrustRoot != string(ca.Cert) || string(sw.TLSInfo.CertIssuerPublicKey) != string(want.CertIssuerPublicKey) || sw.RootRotationInProgress != (a.Next != nil) {
			t.Errorf("shown: %+v", sw.ClusterInfo)
		}
		if sw.Spec.CAConfig.SigningCACert != "" || s.Snapshot().Swarm().Spec.CAConfig.SigningCAKey != "" {
			t.Error("the order stayed in the settings")
		}
		return a.Next
	}
	if err := update(func(c *swarm.CAConfig) { c.NodeCertExpiry = 2 * time.Hour }); err != nil || next() != nil {
		t.Errorf("another setting began a rotation: %v", err)
	}
	if err := update(func(c *swarm.CAConfig) { c.ForceRotate++ }); err != nil {
		t.Fatal(err)
	}
	first := next()
	if first == nil {
		t.Fatal("no rotation began")
	}
	if err := update(func(c *swarm.CAConfig) { c.NodeCertExpiry = 3 * time.Hour }); err != nil || string(next().Cert) != string(first.Cert) {
		t.Errorf("another setting changed the rotation: %v", err)
	}
	if err := update(func(c *swarm.CAConfig) { c.ForceRotate++ }); err != nil || string(next().Cert) == string(first.Cert) {
		t.Errorf("a second rotation did not take the place of the first: %v", err)
	}
	// Docker's way to take a rotation back: to the root that the swarm has.
	if err := update(func(c *swarm.CAConfig) { c.SigningCACert, c.SigningCAKey = string(ca.Cert), string(ca.PrivateKey) }); err != nil || next() != nil {
		t.Errorf("the rotation was not taken back: %v", err)
	}
	other, err := pki.NewAuthority(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := update(func(c *swarm.CAConfig) {
		c.SigningCACert, c.SigningCAKey = string(other.Cert), string(other.PrivateKey)
	}); err != nil || string(next().Cert) != string(other.Cert) {
		t.Errorf("a root that was brought is not the next: %v", err)
	}
	before := s.Index()
	err = update(func(c *swarm.CAConfig) { c.SigningCAKey = string(other.PrivateKey) })
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "the signing CA cert must also be provided") || strings.Contains(err.Error(), "PRIVATE") || s.Index() != before {
		t.Errorf("a key without a certificate: %v", err)
	}
	init := swarm.Spec{CAConfig: swarm.CAConfig{ForceRotate: 1}}
	if err := control.CheckSwarmSpec(init); err == nil {
		t.Error("a swarm cannot begin with a rotation")
	}
}
