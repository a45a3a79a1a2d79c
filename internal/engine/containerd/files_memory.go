package containerd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// The files that are given for a container (secrets, configs) are in a tmpfs of its own, STATE/f/ID, one a number. The
// container has a mount of each. Nothing of them is in the container's record but their targets.

func (e *Engine) filesRoot() string         { return filepath.Join(e.cfg.State, "f") }
func (e *Engine) filesDir(id string) string { return filepath.Join(e.filesRoot(), id) }
func (e *Engine) filePath(id string, i int) string {
	return filepath.Join(e.filesDir(id), strconv.Itoa(i))
}

// fileOverhead is what a tmpfs needs for a file beside its bytes, rounded up to pages: two.
const fileOverhead = 8 << 10

// placeFiles makes the container's tmpfs and writes the files into it.
func (e *Engine) placeFiles(c *ledger.Container, files []engine.File) error {
	if len(files) == 0 {
		return nil
	}
	dir := e.filesDir(c.ID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	size := 64 << 10
	for _, f := range files {
		size += len(f.Data) + fileOverhead
	}
	// Memory that is swapped out is on a disk: kernels from 6.4 on can keep a tmpfs from it.
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	options := fmt.Sprintf("mode=0700,size=%d", size)
	err := unix.Mount("tmpfs", dir, "tmpfs", flags, options+",noswap")
	if errors.Is(err, unix.EINVAL) {
		err = unix.Mount("tmpfs", dir, "tmpfs", flags, options)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("mounting memory for the files of container %s: %w", c.ID[:12], err), os.Remove(dir))
	}
	for i, f := range files {
		path := e.filePath(c.ID, i)
		err := os.WriteFile(path, f.Data, 0o600)
		if err == nil {
			err = os.Chown(path, f.UID, f.GID)
		}
		if err == nil {
			err = os.Chmod(path, f.Mode.Perm())
		}
		if err != nil {
			return fmt.Errorf("placing %s in container %s: %w", f.Target, c.ID[:12], err)
		}
	}
	return nil
}

// checkFiles refuses to start a container whose files are gone.
func (e *Engine) checkFiles(c *ledger.Container) error {
	for i := range c.Files {
		if _, err := os.Lstat(e.filePath(c.ID, i)); err != nil {
			return ledger.FilesGone(c)
		}
	}
	return nil
}

// dropFiles removes the container's tmpfs. Its files are emptied before: what a mount that is kept elsewhere still holds
// is no secret any more.
func (e *Engine) dropFiles(c *ledger.Container) {
	if len(c.Files) == 0 {
		return
	}
	if err := e.dropFilesOf(c.ID); err != nil {
		e.cfg.Log.Warn("cannot remove the files that were given for a container", "container", c.ID, "error", err)
	}
}

func (e *Engine) dropFilesOf(id string) error {
	dir := e.filesDir(id)
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, f := range list {
		err = errors.Join(err, os.Truncate(filepath.Join(dir, f.Name()), 0))
	}
	// EINVAL: nothing is mounted there.
	if uerr := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); uerr != nil && !errors.Is(uerr, unix.EINVAL) {
		return errors.Join(err, fmt.Errorf("unmount %s: %w", dir, uerr))
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// sweepFiles removes the files of containers that are not there any more: a daemon died between the two.
func (e *Engine) sweepFiles(known map[string]bool) error {
	list, err := os.ReadDir(e.filesRoot())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, d := range list {
		if !known[d.Name()] {
			err = errors.Join(err, e.dropFilesOf(d.Name()))
		}
	}
	return err
}
