package control_test

import (
	"testing"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/control"
)

func TestDependencyCycles(t *testing.T) {
	c, s := newControl(t, fakeRegistry{})
	create := func(name, on string) error {
		sp := spec("shop_"+name, 1)
		sp.Labels = map[string]string{cluster.LabelStack: "shop", cluster.LabelDependsOn: on}
		_, err := c.CreateService(t.Context(), sp, "", false)
		return err
	}
	for name, on := range map[string]string{"a": "b:service_healthy", "b": "x,c"} { // of what is not there yet, too
		if err := create(name, on); err != nil {
			t.Fatal(err)
		}
	}
	before := s.Index()
	for _, tc := range []struct{ name, on, want string }{
		{"c", "a", "dependency cycle: shop_c -> shop_a -> shop_b -> shop_c"},
		{"d", "d", "dependency cycle: shop_d -> shop_d"},
		{"e", "a:happy", `invalid label shoal.depends-on=a:happy: the condition "happy" of service a is none of service_started, service_healthy, service_completed_successfully`},
	} {
		if err := create(tc.name, tc.on); !errdefs.IsInvalidArgument(err) || err.Error() != tc.want {
			t.Errorf("%s on %s: %v", tc.name, tc.on, err)
		}
	}
	b, _ := s.Snapshot().ServiceByName("shop_b")
	sp := b.Clone().(*cluster.Service).Spec
	sp.Labels[cluster.LabelDependsOn] = "a"
	if _, err := c.UpdateService(t.Context(), b.ID, b.Version.Index, sp, control.UpdateOptions{}); err == nil || err.Error() != "dependency cycle: shop_b -> shop_a -> shop_b" {
		t.Errorf("an update: %v", err)
	}
	if s.Index() != before {
		t.Error("what is refused changed the store")
	}
	if err := create("c", "x"); err != nil {
		t.Error(err)
	}
}
