package containerd

import (
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"shoal.dev/shoal/internal/engine/ledger"
)

// initInside is where a container finds its first process if it asked for one; Docker's.
const initInside = "/sbin/docker-init"

// addInit puts a first process before the container's command if it is to have one. A container without a PID
// namespace of its own has a first process already.
func (e *Engine) addInit(c *ledger.Container, s *specs.Spec) error {
	h := c.HostConfig
	if want := h.Init; !h.PidMode.IsPrivate() || want == nil && !e.cfg.Init || want != nil && !*want {
		return nil
	}
	if st, err := os.Stat(e.cfg.InitPath); !filepath.IsAbs(e.cfg.InitPath) || err != nil || !st.Mode().IsRegular() || st.Mode()&0o111 == 0 {
		return ledger.Errorf(errdefs.ErrInternal, "the init process %q, which --init needs, is not an executable file on this host: install shoal-init there or set \"init-path\"", e.cfg.InitPath)
	}
	s.Process.Args = slices.Concat([]string{initInside, "--"}, s.Process.Args)
	// After all others: a volume at /sbin must not hide it.
	s.Mounts = append(s.Mounts, specs.Mount{Destination: initInside, Type: "bind", Source: e.cfg.InitPath, Options: []string{"bind", "rprivate", "ro"}})
	return nil
}
