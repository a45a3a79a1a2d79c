package volume

import (
	"context"
	"maps"
	"slices"

	"github.com/moby/moby/api/types/volume"
)

// Usage says how many bytes each volume takes and how many containers name it. A volume whose files are elsewhere has
// size -1, as with Docker. What no container names can be reclaimed.
func (s *Store) Usage(ctx context.Context) *volume.DiskUsage {
	s.mu.Lock()
	var all []*entry
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		all = append(all, s.byName[name])
	}
	s.mu.Unlock()
	u := &volume.DiskUsage{TotalCount: int64(len(all)), Items: []volume.Volume{}}
	for _, e := range all {
		if ctx.Err() != nil {
			break
		}
		v := s.show(e)
		s.mu.Lock()
		users := int64(len(e.users))
		s.mu.Unlock()
		size := int64(-1)
		if len(e.Options) == 0 {
			size = int64(s.size(e))
		}
		v.UsageData = &volume.UsageData{RefCount: users, Size: size}
		u.Items = append(u.Items, *v)
		if users > 0 {
			u.ActiveCount++
		}
		if size > 0 {
			if u.TotalSize += size; users == 0 {
				u.Reclaimable += size
			}
		}
	}
	return u
}
