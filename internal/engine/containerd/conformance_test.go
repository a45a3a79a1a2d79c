package containerd

import (
	"testing"

	"shoal.dev/shoal/internal/engine/enginetest"
)

func TestConformance(t *testing.T) {
	l := real(t)
	img, err := busybox("remote")
	if err != nil {
		t.Fatal(err)
	}
	remote := l.push(t, "team/busybox:1", img)
	enginetest.Run(t, func(t *testing.T) enginetest.Fixture {
		return enginetest.Fixture{Engine: l.engine, Image: "busybox:test", Remote: remote, Command: script}
	})
}
