package doctor

import (
	"context"
	"fmt"
	"time"
)

func (h *Host) clock(_ context.Context, f *Facts) []Finding {
	const check, remedy = "clock", "timedatectl set-ntp true"
	var worst *Clock
	for i, c := range f.Clocks {
		if worst == nil || c.Offset.Abs() > worst.Offset.Abs() {
			worst = &f.Clocks[i]
		}
	}
	against := "no manager to compare with"
	if worst != nil {
		against = fmt.Sprintf("%s off that of %s", worst.Offset.Abs().Round(time.Millisecond), worst.Of)
		if worst.Offset.Abs() > f.MaxOffset {
			return one(check, Failure, remedy, "%s, more than %s: certificates and the order of logs suffer", against, f.MaxOffset)
		}
	}
	switch ok, err := h.Synced(); {
	case err != nil:
		return one(check, Warning, "timedatectl", "the kernel does not say whether anybody keeps it: %s; %s", err, against)
	case !ok:
		return one(check, Warning, remedy, "nobody keeps it right, says the kernel; %s", against)
	}
	return one(check, OK, "", "kept right; %s", against)
}

// inodesHigh is from which part of a disk's inodes on, in percent, it is said that they run out.
const inodesHigh = 90

func (h *Host) disk(_ context.Context, f *Facts) []Finding {
	const check = "disk"
	d, err := h.Disk(f.DataRoot)
	if err != nil {
		if !f.Running { // there is nothing yet
			if d, err = h.Disk("/"); err == nil {
				return h.room(f, d, "/, where "+f.DataRoot+" will be,")
			}
		}
		return one(check, Failure, "mkdir -p "+f.DataRoot, "%s cannot be looked at: %s", f.DataRoot, err)
	}
	return h.room(f, d, f.DataRoot)
}

func (h *Host) room(f *Facts, d Disk, where string) []Finding {
	const check, prune = "disk", "shoal system prune --all"
	const gb = 1e9
	state := fmt.Sprintf("%s: %.1f of %.1f GB free, %d %% used", where, float64(d.Free)/gb, float64(d.Blocks)/gb, d.Used)
	switch {
	case f.Full > 0 && d.Used > f.Full:
		return one(check, Failure, prune, "%s; above %d %% the node takes no new tasks, until it is at %d %%", state, f.Full, f.Full-f.Relief)
	case d.UsedInodes > inodesHigh:
		return one(check, Failure, prune, "%s; %d %% of its inodes are used, and without one no file can be made", state, d.UsedInodes)
	case f.Full > 0 && d.Used > f.Full-f.Relief:
		return one(check, Warning, prune, "%s; above %d %% the node takes no new tasks", state, f.Full)
	case f.Cleanup > 0 && d.Used > f.Cleanup:
		return one(check, Warning, prune, "%s; above %d %% images that no container has used for a day are removed", state, f.Cleanup)
	}
	return one(check, OK, "", "%s", state)
}
