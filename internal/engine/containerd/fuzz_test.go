package containerd

import (
	"strings"
	"testing"

	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

func FuzzLogEntry(f *testing.F) {
	f.Add([]byte(`{"log":"x\n","stream":"stdout","time":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"log":`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := logReader{o: engine.LogOptions{Stdout: true, Stderr: true}, each: func(engine.LogLine) error { return nil }}
		if err := r.entry(b); err != nil {
			t.Errorf("%q: %v", b, err)
		}
	})
}

func FuzzResolvConf(f *testing.F) {
	f.Add("nameserver 127.0.0.53\nnameserver 10.0.0.1\nsearch a b\noptions x\n# c\n")
	f.Fuzz(func(t *testing.T, s string) {
		c := &ledger.Container{HostConfig: &container.HostConfig{NetworkMode: "bridge"}}
		if out := string(resolvConf(c, []byte(s))); strings.Contains(out, "nameserver 127.") {
			t.Errorf("%q became %q", s, out)
		}
	})
}
