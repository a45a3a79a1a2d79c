package node

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"

	"shoal.dev/shoal/internal/engine"
)

// disk is an engine whose images take one percent of the disk each.
type disk struct {
	other  int // percent that others take
	images []imagetypes.Summary
	using  []string // IDs of the images of containers
	refuse string   // the image that cannot be removed
	gone   []string // what was removed, in order
}

func (d *disk) used() (int, error) { return d.other + len(d.images), nil }

func (d *disk) List(_ context.Context, o engine.ListOptions) ([]container.Summary, error) {
	if !o.All {
		return nil, errors.New("stopped containers use their images, too")
	}
	var out []container.Summary
	for _, id := range d.using {
		out = append(out, container.Summary{ImageID: id})
	}
	return out, nil
}

func (d *disk) Images(context.Context, engine.ImageListOptions) ([]imagetypes.Summary, error) {
	return slices.Clone(d.images), nil
}

func (d *disk) RemoveImage(_ context.Context, ref string, force bool) ([]imagetypes.DeleteResponse, error) {
	if force || ref == d.refuse {
		return nil, errors.New("conflict")
	}
	d.gone = append(d.gone, ref)
	d.images = slices.DeleteFunc(d.images, func(i imagetypes.Summary) bool {
		return i.ID == ref || len(i.RepoTags) == 1 && i.RepoTags[0] == ref
	})
	for i := range d.images {
		d.images[i].RepoTags = slices.DeleteFunc(slices.Clone(d.images[i].RepoTags), func(t string) bool { return t == ref })
	}
	return nil, nil
}

func TestRoom(t *testing.T) {
	d := &disk{other: 60, images: []imagetypes.Summary{
		{ID: "used", RepoTags: []string{"used:1"}}, {ID: "two", RepoTags: []string{"two:1", "two:2"}}, {ID: "one", RepoTags: []string{"one:1"}}, {ID: "untagged"},
	}}
	now := time.Now()
	r := &room{cleanup: 80, full: 90, engine: d, used: d.used, now: func() time.Time { return now }, log: slog.New(slog.DiscardHandler)}
	step := func(after time.Duration, other int, using []string, full int, gone ...string) {
		t.Helper()
		now, d.other, d.using, d.gone = now.Add(after), other, using, nil
		if err := r.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(d.gone, gone) || r.diskFull() != full {
			t.Errorf("removed %v, want %v; full: %d, want %d", d.gone, gone, r.diskFull(), full)
		}
	}
	used := []string{"used"}
	step(0, 60, append(used, "one"), 0)
	step(time.Hour, 85, used, 0)    // nothing is idle for long enough; "one" begins to be
	step(23*time.Hour, 78, used, 0, // 82 percent: one that is idle for longest, then another
		"two:1", "two:2", "untagged")
	step(time.Hour, 80, used, 0, "one:1")
	step(48*time.Hour, 85, used, 0) // what is used stays
	step(time.Hour, 90, used, 91)
	step(time.Hour, 95, used, 91) // what it was found full with
	step(time.Hour, 89, used, 91) // 90: not low enough
	step(time.Hour, 84, used, 0)
	step(time.Hour, 89, used, 0) // 90 is not above
	d.images = append(d.images, imagetypes.Summary{ID: "a", RepoTags: []string{"a:1"}}, imagetypes.Summary{ID: "b", RepoTags: []string{"b:1"}})
	d.refuse = "a:1"
	step(time.Hour, 70, nil, 0)
	step(25*time.Hour, 78, used, 0, "b:1") // a container has just begun to use one of them
	r.cleanup, r.full = 0, 0
	step(25*time.Hour, 97, used, 0) // neither is wanted
}

func TestDiskUsed(t *testing.T) {
	if used, err := diskUsed(t.TempDir()); err != nil || used < 0 || used > 100 {
		t.Errorf("%d%%, %v", used, err)
	}
	if _, err := diskUsed("/does/not/exist"); err == nil {
		t.Error("a folder that is not there has a disk")
	}
}
