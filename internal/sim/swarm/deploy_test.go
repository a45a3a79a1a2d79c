//go:build !race

package swarm

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/moby/moby/api/types/swarm"

	"shoal.dev/shoal/internal/cluster"
	"shoal.dev/shoal/internal/store"
)

// deploy sends a manager what `stack deploy` does for a config whose file may have changed and for services that use it. It
// ends at the first refusal, as the client does.
func deploy(ctx context.Context, h *host, services []swarm.ServiceSpec, page string) error {
	send := func(path string, body any) error {
		a, err := h.ask(ctx, http.MethodPost, path, body)
		if err == nil && a.status >= http.StatusMultipleChoices {
			err = fmt.Errorf("%s: %d %s", path, a.status, a.message())
		}
		return err
	}
	stack := map[string]string{cluster.LabelStack: "shop"}
	spec := swarm.ConfigSpec{Annotations: swarm.Annotations{Name: "shop_page", Labels: stack}, Data: []byte(page)}
	var c swarm.Config
	var err error
	if h.get(ctx, "/configs/shop_page", &c) == nil {
		err = send(fmt.Sprintf("/configs/%s/update?version=%d", c.ID, c.Version.Index), spec)
	} else {
		err = send("/configs/create", spec)
	}
	if err != nil {
		return err
	}
	if err := h.get(ctx, "/configs/shop_page", &c); err != nil {
		return err
	}
	for _, s := range services {
		s.Labels = stack
		s.TaskTemplate.ContainerSpec.Configs = []*swarm.ConfigReference{{ConfigID: c.ID, ConfigName: "shop_page", File: &swarm.ConfigReferenceFileTarget{Name: "/page"}}}
		var have swarm.Service
		path := "/services/create"
		if h.get(ctx, "/services/"+s.Name, &have) == nil {
			path = fmt.Sprintf("/services/%s/update?version=%d", have.ID, have.Version.Index)
		}
		if err := send(path, s); err != nil {
			return err
		}
	}
	return nil
}

// The leader dies at one write or another of a stack's deploy: the client is told, and the same deploy again completes it,
// with one new version of the file that has changed.
func TestTheLeaderDiesInADeploy(t *testing.T) {
	every := int64(1)
	if testing.Short() {
		every = 3
	}
	for write := int64(1); write <= 7; write += every {
		scenario(t, 3, 1, func(t *testing.T, w *world) {
			services := []swarm.ServiceSpec{(&load{w: w}).spec("shop_a", "x", 2), (&load{w: w}).spec("shop_b", "x", 2)}
			again := func(page string) {
				t.Helper()
				var err error
				for began := time.Now(); time.Since(began) < time.Minute; pass(100 * time.Millisecond) {
					for _, h := range w.up() {
						if err = deploy(t.Context(), h, services, page); err == nil {
							return
						}
					}
				}
				t.Fatalf("the deploy never completes: %v", err)
			}
			again("one")
			w.mustSettle(t)
			leader := w.mustLead(t)
			leader.crashAt.Store(write)
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			err := deploy(ctx, leader, services, "two")
			cancel()
			leader.crashAt.Store(0)
			leader.crash(false)
			leader.start()
			again("two")
			w.mustSettle(t)
			page, ok := w.snapshot().ConfigByName("shop_page")
			if !ok || page.NumberOf() != 2 || string(page.Spec.Data) != "two" || w.users(page.ID) != len(services) {
				t.Errorf("write %d, %v: %+v, used by %d", write, err, page, w.users(page.ID))
			}
			n := 0
			for range store.List[*cluster.Service](w.snapshot()) {
				n++
			}
			if n != len(services) {
				t.Errorf("write %d: %d services", write, n)
			}
		})
	}
}
