package ledger

import (
	"io/fs"
	"path"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/engine"
)

// CheckFiles refuses files that cannot be placed.
func CheckFiles(files []engine.File) error {
	taken := map[string]bool{}
	for _, f := range files {
		switch {
		case !path.IsAbs(f.Target) || path.Clean(f.Target) != f.Target || f.Target == "/":
			return Errorf(errdefs.ErrInvalidArgument, "invalid target %q of a file: it must be an absolute path", f.Target)
		case taken[f.Target]:
			return Errorf(errdefs.ErrInvalidArgument, "two files have the target %q", f.Target)
		case f.UID < 0 || f.GID < 0:
			return Errorf(errdefs.ErrInvalidArgument, "invalid owner %d:%d of the file %s", f.UID, f.GID, f.Target)
		case f.Mode&^fs.ModePerm != 0:
			return Errorf(errdefs.ErrInvalidArgument, "invalid mode %o of the file %s: only permissions may be given", uint32(f.Mode), f.Target)
		}
		taken[f.Target] = true
	}
	return nil
}

// FilesGone is the refusal to start a container whose files went with its first end, or with the machine's.
func FilesGone(c *Container) error {
	return Errorf(errdefs.ErrFailedPrecondition, "container %s cannot be started again: its secrets and configs were in memory only and are gone", c.Name)
}
