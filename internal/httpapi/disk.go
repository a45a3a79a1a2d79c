package httpapi

import (
	"net/http"
	"strconv"

	"github.com/moby/moby/api/types/build"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/system"
	"github.com/moby/moby/api/types/volume"

	"shoal.dev/shoal/internal/engine"
)

// diskUsage is the answer to GET /system/df in both of its forms: that of API 1.52, and the lists that stood beside
// each other before.
type diskUsage struct {
	system.DiskUsage
	LayersSize *int64               `json:",omitempty"`
	Images     *[]image.Summary     `json:",omitempty"`
	Containers *[]container.Summary `json:",omitempty"`
	Volumes    *[]volume.Volume     `json:",omitempty"`
	BuildCache *[]build.CacheRecord `json:",omitempty"`
}

func (a *api) diskUsage(c *call) error {
	if err := need(a.Disk != nil, "the sizes of objects"); err != nil {
		return err
	}
	o, builds := engine.DiskUsageOptions{Containers: true, Images: true, Volumes: true}, true
	if types, ok := c.query["type"]; ok && c.since(42) {
		o, builds = engine.DiskUsageOptions{}, false
		for _, t := range types {
			switch system.DiskUsageObject(t) {
			case system.ContainerObject:
				o.Containers = true
			case system.ImageObject:
				o.Images = true
			case system.VolumeObject:
				o.Volumes = true
			case system.BuildCacheObject:
				builds = true
			default:
				return invalid("unknown object type: %s", t)
			}
		}
	}
	verbose, old := true, true
	if v := c.query.Get("verbose"); v != "" && c.since(52) {
		var err error
		if verbose, err = strconv.ParseBool(v); err != nil {
			return invalid("invalid value for verbose: %s", v)
		}
		old = false
	}
	u, err := a.Disk.DiskUsage(c.Context(), o)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, shownUsage(*u, builds, verbose, old, c.since(52)))
}

// shownUsage puts a usage into the form that a client reads. It changes its own copy only.
func shownUsage(u system.DiskUsage, builds, verbose, old, sums bool) *diskUsage {
	r := &diskUsage{}
	items := verbose && !old
	if i := u.ImageUsage; i != nil {
		sum := *i
		for n := range sum.Items {
			sum.Items[n].Manifests = nil
		}
		if old {
			all := list(sum.Items)
			r.Images, r.LayersSize = &all, &sum.TotalSize
		}
		if !items {
			sum.Items = nil
		}
		r.ImageUsage = &sum
	}
	if i := u.ContainerUsage; i != nil {
		sum := *i
		if old {
			all := list(sum.Items)
			r.Containers = &all
		}
		if !items {
			sum.Items = nil
		}
		r.ContainerUsage = &sum
	}
	if i := u.VolumeUsage; i != nil {
		sum := *i
		if old {
			all := list(sum.Items)
			r.Volumes = &all
		}
		if !items {
			sum.Items = nil
		}
		r.VolumeUsage = &sum
	}
	if builds {
		r.BuildCacheUsage = &build.DiskUsage{}
		if old {
			r.BuildCache = &[]build.CacheRecord{}
		}
	}
	if !sums {
		r.DiskUsage = system.DiskUsage{}
	}
	return r
}
