package containerd

import (
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	mounttypes "github.com/moby/moby/api/types/mount"
	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine/ledger"
)

// bindOptions are the options of a mount of a folder of the host. A read-only one is so with all that is mounted in
// it, where the kernel and the runtime can do that, as in Docker.
func (e *Engine) bindOptions(c *ledger.Container, m container.MountPoint) ([]string, error) {
	var o mounttypes.BindOptions
	for _, asked := range c.HostConfig.Mounts {
		if asked.BindOptions != nil && filepath.Clean(asked.Target) == m.Destination {
			o = *asked.BindOptions
		}
	}
	list := []string{"rbind"}
	if o.NonRecursive {
		list = []string{"bind"}
	}
	if m.Propagation != "" {
		list = append(list, string(m.Propagation))
	}
	if m.RW {
		return append(list, "rw"), nil
	}
	if o.ReadOnlyNonRecursive && o.ReadOnlyForceRecursive {
		return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "mount options conflict: ReadOnlyNonRecursive && ReadOnlyForceRecursive")
	}
	if o.ReadOnlyNonRecursive {
		return append(list, "ro"), nil
	}
	if err := e.recursiveReadOnly(); err != nil {
		if o.ReadOnlyForceRecursive {
			return nil, err
		}
		return append(list, "ro"), nil
	}
	return append(list, "rro"), nil
}

// recursiveReadOnly says why a mount cannot be made read-only with what is mounted in it; nil if it can.
func (e *Engine) recursiveReadOnly() error {
	e.rro.once.Do(func() {
		// Linux has it since 5.12. An impossible descriptor tells without doing anything.
		if err := unix.MountSetattr(-1, "x", 0, &unix.MountAttr{}); errors.Is(err, unix.ENOSYS) {
			e.rro.err = ledger.Errorf(errdefs.ErrNotImplemented, "recursive read-only mounts need Linux 5.12")
			return
		}
		var can struct {
			MountOptions []string `json:"mountOptions"`
		}
		out, err := exec.Command(e.cfg.Runtime, "features").Output()
		if err == nil {
			err = json.Unmarshal(out, &can)
		}
		if err != nil || !slices.Contains(can.MountOptions, "rro") {
			e.rro.err = ledger.Errorf(errdefs.ErrNotImplemented, "the runtime %s does not support recursive read-only mounts", e.cfg.Runtime)
		}
	})
	return e.rro.err
}

// rootPropagation is how the container's root must be joined to the host's mounts so that its binds can be; "" for the
// runtime's own way. It refuses a bind of what the host itself does not share.
func rootPropagation(c *ledger.Container) (string, error) {
	root := ""
	for _, m := range c.Mounts {
		if m.Type != mounttypes.TypeBind {
			continue
		}
		p := strings.TrimPrefix(string(m.Propagation), "r")
		var needs []string
		switch p {
		case "shared":
			needs = []string{"shared:"}
		case "slave":
			needs = []string{"shared:", "master:"}
		default:
			continue
		}
		real, err := filepath.EvalSymlinks(m.Source)
		if err != nil {
			return "", ledger.Errorf(errdefs.ErrInvalidArgument, "%s", err)
		}
		info, err := mount.Lookup(real)
		if err != nil {
			return "", fmt.Errorf("look for the mount of %s: %w", m.Source, err)
		}
		is := func(o string) bool {
			return slices.ContainsFunc(needs, func(n string) bool { return strings.HasPrefix(o, n) })
		}
		if !slices.ContainsFunc(strings.Fields(info.Optional), is) {
			what := map[string]string{"shared": "a shared", "slave": "a shared or slave"}[p]
			return "", ledger.Errorf(errdefs.ErrInvalidArgument, "path %s is mounted on %s but it is not %s mount", m.Source, info.Mountpoint, what)
		}
		if p == "shared" {
			root = "shared"
		} else if root == "" {
			root = "rslave"
		}
	}
	return root, nil
}
