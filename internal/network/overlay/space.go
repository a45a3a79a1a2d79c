package overlay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netlinkFamilies are the kinds of netlink socket that a handle has: links and routes, and conntrack.
var netlinkFamilies = []int{unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER}

// space is a network namespace. What a thread opens or starts belongs to the namespace that it is in at the time, so
// everything that is not a netlink handle goes through in.
type space struct{ ns netns.NsHandle }

// openSpace opens the namespace at path, or the process's own. That is its main thread's: the caller's thread may be
// elsewhere.
func openSpace(path string) (*space, error) {
	if path == "" {
		path = "/proc/self/ns/net"
	}
	ns, err := netns.GetFromPath(path)
	if err != nil {
		return nil, fmt.Errorf("open network namespace %s: %w", path, err)
	}
	return &space{ns}, nil
}

func (s *space) close() error { return s.ns.Close() }

// in runs fn on a thread of its own in the namespace. A thread that cannot be brought back ends.
func (s *space) in(fn func() error) error {
	return onThread(func() error {
		if err := netns.Set(s.ns); err != nil {
			return fmt.Errorf("enter network namespace: %w", err)
		}
		return fn()
	})
}

// onThread runs fn on a locked thread and returns the thread to its namespace.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // without an Unlock, the thread ends with the goroutine
		own, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		err = fn()
		if back := netns.Set(own); back == nil {
			runtime.UnlockOSThread()
		}
		_ = own.Close()
		done <- err
	}()
	return <-done
}

// makeSpace makes a network namespace, has setup run in it, and binds it to the file at path, which keeps it alive.
func makeSpace(path string, setup func() error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	_ = f.Close()
	return onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make network namespace: %w", err)
		}
		if err := setup(); err != nil {
			return err
		}
		if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind network namespace to %s: %w", path, err)
		}
		return nil
	})
}

// isSpace says whether a namespace is bound to the file at path.
func isSpace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// dropSpace removes the namespace from path. It lives on while processes are in it.
func dropSpace(path string) error {
	for isSpace(path) {
		if err := unix.Unmount(path, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unbind network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// setSysctl writes a setting of the namespace of the thread it is called on, and says whether it was different. The
// name has slashes.
func setSysctl(name, value string) (bool, error) {
	path := filepath.Join("/proc/sys", name)
	old, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	if strings.TrimSpace(string(old)) == value {
		return false, nil
	}
	return true, os.WriteFile(path, []byte(value), 0o644)
}
