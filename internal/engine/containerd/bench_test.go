package containerd

import (
	"testing"

	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// BenchmarkContainer makes, starts, kills and removes a container. To see what shims and runc cost too, run the test in
// a cgroup of its own and read its CPU time.
func BenchmarkContainer(b *testing.B) {
	l := real(b)
	spec := engine.Spec{Config: &container.Config{Image: "busybox:test", Cmd: []string{"sleep", "1000"}},
		HostConfig: &container.HostConfig{NetworkMode: "none"}}
	for b.Loop() {
		id, _, err := l.engine.Create(b.Context(), spec)
		if err != nil {
			b.Fatal(err)
		}
		if err := l.engine.Start(b.Context(), id); err != nil {
			b.Fatal(err)
		}
		if err := l.engine.Remove(b.Context(), id, true); err != nil {
			b.Fatal(err)
		}
	}
}
