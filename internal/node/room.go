package node

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/container"
	imagetypes "github.com/moby/moby/api/types/image"

	"shoal.dev/shoal/internal/doctor"
	"shoal.dev/shoal/internal/engine"
)

const (
	// roomEvery is how often the disk and the images are looked at.
	roomEvery = time.Minute
	// imageIdle is how long no container may have used an image before it is removed for room.
	imageIdle = 24 * time.Hour
	// diskRelief is how many percent of the disk must be free again before a full node takes tasks, so that it does not
	// change its mind with every file.
	diskRelief = 5
)

// room watches the disk of a member of a swarm. Above cleanup percent it removes images that no container has used for
// [imageIdle] while it has looked, the longest unused first; above full percent the node takes no tasks, until it is
// [diskRelief] percent below. What runs is left alone.
type room struct {
	cleanup, full int // percent; 0: never
	engine        interface {
		List(ctx context.Context, o engine.ListOptions) ([]container.Summary, error)
		Images(ctx context.Context, o engine.ImageListOptions) ([]imagetypes.Summary, error)
		RemoveImage(ctx context.Context, ref string, force bool) ([]imagetypes.DeleteResponse, error)
	}
	used func() (percent int, err error) // of the disk
	now  func() time.Time
	log  *slog.Logger

	refused atomic.Int64         // the percentage with which the node was found full; 0: it is not
	idle    map[string]time.Time // by ID, the images that are not used, since when
}

func newRoom(n *Node) *room {
	return &room{cleanup: n.cfg.DiskCleanup, full: n.cfg.DiskFull, engine: n.engine, used: func() (int, error) { return diskUsed(n.cfg.DataRoot) }, now: time.Now, log: n.log}
}

// diskUsed is how much of the disk under a folder is used, in percent of what others than root may use, rounded up as by df.
func diskUsed(dir string) (int, error) {
	d, err := doctor.DiskOf(dir)
	return d.Used, err
}

// run looks again and again until ctx ends.
func (r *room) run(ctx context.Context) error {
	tick := time.NewTicker(roomEvery)
	defer tick.Stop()
	for {
		if err := r.look(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("making room on the disk", "error", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// diskFull is the percentage of the disk that was used when the node was found full; 0: it takes tasks.
func (r *room) diskFull() int { return int(r.refused.Load()) }

func (r *room) look(ctx context.Context) error {
	used, err := r.used()
	if err != nil {
		return err
	}
	err = r.clean(ctx, used)
	if again, e := r.used(); e == nil {
		used = again // what was removed counts
	}
	was := r.diskFull()
	switch {
	case r.full > 0 && used > r.full && was == 0:
		r.refused.Store(int64(used))
		r.log.Warn("the disk is nearly full: the node takes no new tasks", "used", used, "limit", r.full)
	case was > 0 && (r.full == 0 || used <= r.full-diskRelief):
		r.refused.Store(0)
		r.log.Info("the disk has room: the node takes tasks again", "used", used)
	}
	return err
}

// clean notes which images are not used and, if the disk is that full, removes those that have not been for long.
func (r *room) clean(ctx context.Context, used int) error {
	containers, err := r.engine.List(ctx, engine.ListOptions{All: true})
	if err != nil {
		return err
	}
	inUse := map[string]bool{}
	for _, c := range containers {
		inUse[c.ImageID] = true
	}
	images, err := r.engine.Images(ctx, engine.ImageListOptions{})
	if err != nil {
		return err
	}
	idle := map[string]time.Time{}
	var old []imagetypes.Summary
	for _, i := range images {
		if inUse[i.ID] {
			continue
		}
		since, ok := r.idle[i.ID]
		if !ok {
			since = r.now()
		}
		idle[i.ID] = since
		if r.now().Sub(since) >= imageIdle {
			old = append(old, i)
		}
	}
	r.idle = idle
	if r.cleanup == 0 {
		return nil
	}
	slices.SortFunc(old, func(a, b imagetypes.Summary) int {
		return cmp.Or(idle[a.ID].Compare(idle[b.ID]), cmp.Compare(a.ID, b.ID))
	})
	for _, i := range old {
		if used <= r.cleanup {
			return nil
		}
		if err := r.remove(ctx, i); err != nil {
			// A container may have begun to use it; the next one may still go.
			r.log.Warn("removing an image that nobody uses", "image", i.ID, "error", err)
			continue
		}
		r.log.Info("removed an image that nobody uses: the disk is nearly full", "image", i.ID, "names", i.RepoTags, "used", used)
		if used, err = r.used(); err != nil {
			return err
		}
	}
	return nil
}

// remove removes an image with all its names. Without force, so that a container that uses it since keeps it.
func (r *room) remove(ctx context.Context, i imagetypes.Summary) error {
	refs := i.RepoTags
	if len(refs) == 0 {
		refs = []string{i.ID}
	}
	for _, ref := range refs {
		if _, err := r.engine.RemoveImage(ctx, ref, false); err != nil {
			return err
		}
	}
	return nil
}
