package containerd

import (
	"context"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// stored counts the bytes of blobs and of snapshots on the disk.
func (l *lab) stored(t *testing.T) (sum int64) {
	t.Helper()
	for _, plugin := range []string{"io.containerd.content.v1.content", "io.containerd.snapshotter.v1.overlayfs"} {
		_ = filepath.WalkDir(filepath.Join(l.dir, "root", "containerd", plugin), func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && d.Name() != "metadata.db" {
				if i, err := d.Info(); err == nil {
					sum += i.Size()
				}
			}
			return nil
		})
	}
	return sum
}

// What an image took is free on the disk when its removal, or a prune, returns.
func TestRemovalFreesTheDisk(t *testing.T) {
	l := real(t)
	ctx := t.Context()
	for name, remove := range map[string]func(ref string) error{
		"rmi": func(ref string) error { _, err := l.engine.RemoveImage(ctx, ref, false); return err },
		"prune": func(ref string) error {
			if err := l.engine.TagImage(ctx, "busybox:test", ref); err != nil { // it loses its name
				return err
			}
			if _, err := l.engine.RemoveImage(ctx, ref, false); err != nil {
				return err
			}
			_, err := l.engine.PruneImages(ctx, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			img, err := busybox("gc " + name)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.engine.collect(l.engine.scope(ctx)); err != nil {
				t.Fatal(err)
			}
			before := l.stored(t)
			ref := l.push(t, "gc/"+name+":1", img)
			if err := l.engine.Pull(ctx, ref, engine.PullOptions{}, nil); err != nil {
				t.Fatal(err)
			}
			if got := l.stored(t); got <= before {
				t.Fatalf("a pull took %d bytes", got-before)
			}
			if err := remove(ref); err != nil {
				t.Fatal(err)
			}
			if got := l.stored(t); got > before {
				t.Errorf("%d bytes are still taken", got-before)
			}
		})
	}
}

// Pulls, removals and creations of one image at once: each does its work or is refused, and a container that was made
// has its files.
func TestPullRemoveCreateAtOnce(t *testing.T) {
	l := real(t)
	ctx := t.Context()
	img, err := busybox("race")
	if err != nil {
		t.Fatal(err)
	}
	ref := l.push(t, "race/a:1", img)
	var wg sync.WaitGroup
	made := make(chan string, 100)
	for range 6 {
		wg.Go(func() {
			if err := l.engine.Pull(ctx, ref, engine.PullOptions{}, nil); err != nil {
				t.Errorf("pull: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := l.engine.RemoveImage(ctx, ref, false); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
				t.Errorf("remove: %v", err)
			}
		})
		wg.Go(func() {
			id, _, err := l.engine.Create(ctx, engine.Spec{Config: &container.Config{Image: ref, Cmd: []string{"true"}}, HostConfig: &container.HostConfig{NetworkMode: "none"}})
			if err == nil {
				made <- id
			} else if !errdefs.IsNotFound(err) {
				t.Errorf("create: %v", err)
			}
		})
	}
	wg.Wait()
	close(made)
	for id := range made {
		if err := l.engine.Start(ctx, id); err != nil {
			t.Errorf("start: %v", err)
		}
		if err := l.engine.Remove(context.WithoutCancel(ctx), id, true); err != nil {
			t.Error(err)
		}
	}
	_, _ = l.engine.RemoveImage(ctx, ref, true)
}
