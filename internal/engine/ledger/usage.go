package ledger

import (
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
)

// ContainerUsage sums up what containers have written. What those that are not active have can be reclaimed.
func ContainerUsage(list []container.Summary) *container.DiskUsage {
	u := &container.DiskUsage{TotalCount: int64(len(list)), Items: list}
	for i := range list {
		c := &list[i]
		u.TotalSize += c.SizeRw
		switch c.State {
		case container.StateRunning, container.StatePaused, container.StateRestarting:
			u.ActiveCount++
		default:
			u.Reclaimable += c.SizeRw
		}
	}
	return u
}

// ImageUsage sums up images that take total bytes together. What no container uses can be reclaimed.
func ImageUsage(list []image.Summary, total int64) *image.DiskUsage {
	u := &image.DiskUsage{TotalCount: int64(len(list)), TotalSize: total, Reclaimable: total, Items: list}
	for i := range list {
		if list[i].Containers > 0 {
			u.ActiveCount++
			u.Reclaimable -= list[i].Size - list[i].SharedSize
		}
	}
	u.Reclaimable = max(u.Reclaimable, 0)
	return u
}
