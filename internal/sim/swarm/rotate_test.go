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

// users are how many services have the secret.
func (w *world) users(secret string) (n int) {
	for s := range store.List[*cluster.Service](w.snapshot()) {
		for id := range cluster.FileIDs(&s.Spec.TaskTemplate) {
			if id == secret {
				n++
			}
		}
	}
	return n
}

// The leader dies at one write or another of a rotation: all of it is there or nothing, it can be repeated, and there is
// one new version however often that is done.
func TestTheLeaderDiesInARotation(t *testing.T) {
	every := int64(1)
	if testing.Short() {
		every = 2
	}
	for write := int64(1); write <= 4; write += every {
		scenario(t, 3, 1, func(t *testing.T, w *world) {
			const services = 3
			w.request(t, http.MethodPost, "/secrets/create", swarm.SecretSpec{Annotations: swarm.Annotations{Name: "pass"}, Data: []byte("one")})
			first, ok := w.snapshot().SecretByName("pass")
			if !ok {
				t.Fatal("there is no secret")
			}
			for i := range services {
				spec := (&load{w: w}).spec(fmt.Sprint("web", i), "x", 2)
				spec.TaskTemplate.ContainerSpec.Secrets = []*swarm.SecretReference{{SecretID: first.ID, SecretName: "pass", File: &swarm.SecretReferenceFileTarget{Name: "pass"}}}
				w.request(t, http.MethodPost, "/services/create", spec)
			}
			w.mustSettle(t)

			leader := w.mustLead(t)
			leader.crashAt.Store(write)
			rotation := struct{ Data []byte }{[]byte("two")}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			_, err := leader.ask(ctx, http.MethodPost, "/shoal/v1/secrets/pass/rotate", rotation)
			cancel()
			leader.crashAt.Store(0)
			leader.crash(false)
			leader.start()
			w.mustSettle(t)
			now, _ := w.snapshot().SecretByName("pass")
			if got := w.users(now.ID); got != services {
				t.Errorf("write %d, %v: %d services have the secret that has the name", write, err, got)
			}
			w.request(t, http.MethodPost, "/shoal/v1/secrets/pass/rotate", rotation)
			w.mustSettle(t)
			now, _ = w.snapshot().SecretByName("pass")
			if now.ID == first.ID || now.Number != 2 || w.users(now.ID) != services {
				t.Errorf("write %d: version %d, %d services have it", write, now.Number, w.users(now.ID))
			}
			for s := range store.List[*cluster.Service](w.snapshot()) {
				if s.PreviousSpec == nil || s.PreviousSpec.TaskTemplate.ContainerSpec.Secrets[0].SecretID != first.ID {
					t.Errorf("write %d: %s cannot go back", write, s.Spec.Name)
				}
			}
		})
	}
}
