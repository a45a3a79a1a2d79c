package enginetest

import (
	"slices"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/volume"

	"shoal.dev/shoal/internal/engine"
)

func (s *suite) volume(r volume.CreateRequest) string {
	s.Helper()
	v, err := s.Engine.CreateVolume(s.ctx, r)
	if err != nil {
		s.Fatalf("create volume: %v", err)
	}
	s.Cleanup(func() { _ = s.Engine.RemoveVolume(s.Context(), v.Name, true) })
	return v.Name
}

func (s *suite) volumes(filters map[string][]string) []string {
	s.Helper()
	list, err := s.Engine.Volumes(s.ctx, filters)
	if err != nil {
		s.Fatalf("volumes %v: %v", filters, err)
	}
	names := []string{}
	for _, v := range list {
		names = append(names, v.Name)
	}
	return names
}

func volumes(s *suite) {
	s.volume(volume.CreateRequest{Name: "v-one", Labels: map[string]string{"of": "v", "tier": "db"}})
	s.volume(volume.CreateRequest{Name: "v-two", Labels: map[string]string{"of": "v"}, Driver: "local"})
	v, err := s.Engine.CreateVolume(s.ctx, volume.CreateRequest{Name: "v-one", Labels: map[string]string{"new": "x"}})
	if err != nil || v.Labels["tier"] != "db" || v.Labels["new"] != "" {
		s.Errorf("created again: %+v, %v", v, err)
	}
	v, err = s.Engine.InspectVolume(s.ctx, "v-one")
	if err != nil || v.Driver != "local" || v.Scope != "local" || v.Mountpoint == "" || v.CreatedAt == "" {
		s.Errorf("inspect: %+v, %v", v, err)
	}
	for _, test := range []struct {
		filters map[string][]string
		want    []string
	}{
		{map[string][]string{"label": {"of=v"}}, []string{"v-one", "v-two"}},
		{map[string][]string{"label": {"of=v", "tier"}}, []string{"v-one"}},
		{map[string][]string{"name": {"v-t"}}, []string{"v-two"}},
		{map[string][]string{"name": {"v-t", "one"}, "label": {"of"}}, []string{"v-one", "v-two"}},
		{map[string][]string{"label": {"of"}, "driver": {"local"}, "dangling": {"true"}}, []string{"v-one", "v-two"}},
		{map[string][]string{"label": {"of"}, "dangling": {"false"}}, []string{}},
		{map[string][]string{"label": {"of"}, "driver": {"nfs"}}, []string{}},
	} {
		s.same("volumes", s.volumes(test.filters), test.want)
	}
	if err := s.Engine.RemoveVolume(s.ctx, "v-one", false); err != nil {
		s.Error(err)
	}
	_, err = s.Engine.InspectVolume(s.ctx, "v-one")
	s.refused(err, errdefs.IsNotFound, "get v-one: no such volume")
	s.refused(s.Engine.RemoveVolume(s.ctx, "v-one", false), errdefs.IsNotFound, "get v-one: no such volume")
	if err := s.Engine.RemoveVolume(s.ctx, "v-one", true); err != nil {
		s.Errorf("forced removal of none: %v", err)
	}
}

// volumeOf is the name of the volume that a container has at a place.
func (s *suite) volumeOf(id, dest string) container.MountPoint {
	s.Helper()
	for _, m := range s.inspect(id).Mounts {
		if m.Destination == dest {
			return m
		}
	}
	s.Fatalf("nothing is mounted at %s", dest)
	return container.MountPoint{}
}

func volumesOfContainers(s *suite) {
	s.Cleanup(func() { _ = s.Engine.RemoveVolume(s.Context(), "vc-named", true) })
	id := s.create(engine.Spec{Config: &container.Config{Volumes: map[string]struct{}{"/anon": {}, "/named": {}}}, HostConfig: &container.HostConfig{
		Binds: []string{"vc-named:/named:ro"},
	}}, "sleep")
	named, anon := s.volumeOf(id, "/named"), s.volumeOf(id, "/anon")
	s.same("named", []any{named.Type, named.Name, named.Driver, named.RW}, []any{mount.TypeVolume, "vc-named", "local", false})
	s.same("anonymous", []any{anon.Type, len(anon.Name), anon.Driver, anon.RW}, []any{mount.TypeVolume, 64, "local", true})
	if v, err := s.Engine.InspectVolume(s.ctx, anon.Name); err != nil || v.Mountpoint != anon.Source {
		s.Errorf("%+v, %v; mounted %s", v, err, anon.Source)
	}
	s.start(id)
	for _, force := range []bool{false, true} {
		s.refused(s.Engine.RemoveVolume(s.ctx, "vc-named", force), errdefs.IsConflict, "remove vc-named: volume is in use - ["+id+"]")
	}
	s.same("volume filter", s.list(true, map[string][]string{"volume": {"vc-named"}}), []string{s.inspect(id).Name[1:]})
	if err := s.Engine.Kill(s.ctx, id, ""); err != nil {
		s.Fatal(err)
	}
	s.wait(id)
	s.refused(s.Engine.RemoveVolume(s.ctx, "vc-named", false), errdefs.IsConflict, "volume is in use") // it may start again
	if err := s.Engine.Remove(s.ctx, id, false); err != nil {
		s.Fatal(err)
	}
	s.same("after rm", s.volumes(map[string][]string{"name": {"^" + anon.Name + "$", "^vc-named$"}}), sorted(anon.Name, "vc-named"))
	if err := s.Engine.RemoveVolume(s.ctx, anon.Name, false); err != nil {
		s.Error(err)
	}

	for _, auto := range []bool{false, true} {
		id = s.create(engine.Spec{Config: &container.Config{Volumes: map[string]struct{}{"/anon": {}}},
			HostConfig: &container.HostConfig{AutoRemove: auto, Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "vc-named", Target: "/named"}}}}, "exit 0")
		anon = s.volumeOf(id, "/anon")
		removed, err := s.Engine.Wait(s.ctx, id, container.WaitConditionRemoved)
		if err != nil {
			s.Fatal(err)
		}
		if auto {
			s.start(id)
		} else if err := s.Engine.Purge(s.ctx, id, false); err != nil {
			s.Fatal(err)
		}
		s.result(removed)
		s.same("after rm -v", s.volumes(map[string][]string{"name": {"^" + anon.Name + "$", "^vc-named$"}}), []string{"vc-named"})
	}

	// A container that cannot be made leaves no volume.
	before := len(s.volumes(nil))
	_, _, err := s.Engine.Create(s.ctx, engine.Spec{Config: &container.Config{Image: s.Image, Cmd: []string{"x"}, Volumes: map[string]struct{}{"/a": {}}},
		HostConfig: &container.HostConfig{NetworkMode: "none", Mounts: []mount.Mount{
			{Type: mount.TypeVolume, Target: "/b"},
			{Type: mount.TypeVolume, Source: "vc-new", Target: "/c", VolumeOptions: &mount.VolumeOptions{DriverConfig: &mount.Driver{Options: map[string]string{"colour": "red"}}}},
		}}})
	s.refused(err, errdefs.IsInvalidArgument, `create vc-new: invalid option: "colour"`)
	s.same("volumes", len(s.volumes(nil)), before)
}

func sorted(names ...string) []string { return slices.Sorted(slices.Values(names)) }

func volumesFrom(s *suite) {
	first := s.create(engine.Spec{Config: &container.Config{Volumes: map[string]struct{}{"/a": {}, "/b": {}}}, HostConfig: &container.HostConfig{
		Binds: []string{"/tmp:/t:ro"}}}, "sleep")
	id := s.create(engine.Spec{Config: &container.Config{Volumes: map[string]struct{}{"/a": {}}}, HostConfig: &container.HostConfig{
		VolumesFrom: []string{first + ":ro"}, Mounts: []mount.Mount{{Type: mount.TypeVolume, Target: "/b"}}}}, "sleep")
	a, b, c := s.volumeOf(first, "/a"), s.volumeOf(id, "/a"), s.volumeOf(id, "/t")
	s.same("volume", []any{b.Name, b.RW, c.Source, c.RW}, []any{a.Name, false, "/tmp", false})
	if s.volumeOf(id, "/b").Name == s.volumeOf(first, "/b").Name {
		s.Error("the container's own mount does not win")
	}
	for _, c := range []string{first, id} {
		if err := s.Engine.Purge(s.ctx, c, true); err != nil {
			s.Fatal(err)
		}
		_, err := s.Engine.InspectVolume(s.ctx, a.Name)
		if c == first && err != nil {
			s.Errorf("a volume went that is in use: %v", err)
		} else if c == id && !errdefs.IsNotFound(err) {
			s.Errorf("a volume stays that nothing uses: %v", err)
		}
	}
	_, _, err := s.Engine.Create(s.ctx, engine.Spec{Config: &container.Config{Image: s.Image, Cmd: []string{"x"}},
		HostConfig: &container.HostConfig{NetworkMode: "none", VolumesFrom: []string{"nobody"}}})
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")
}

func volumesPrune(s *suite) {
	label := map[string]string{"of": "prune"}
	only := func(more map[string][]string) map[string][]string {
		f := map[string][]string{"label": {"of=prune"}}
		for k, v := range more {
			f[k] = v
		}
		return f
	}
	s.volume(volume.CreateRequest{Name: "vp-used", Labels: label})
	s.volume(volume.CreateRequest{Name: "vp-idle", Labels: label})
	s.volume(volume.CreateRequest{Name: "vp-kept", Labels: map[string]string{"of": "prune", "keep": "yes"}})
	anon := s.volume(volume.CreateRequest{Labels: label})
	s.create(engine.Spec{HostConfig: &container.HostConfig{Binds: []string{"vp-used:/x"}}}, "sleep")
	for _, test := range []struct {
		filters map[string][]string
		want    []string
	}{
		{nil, []string{anon}},
		{nil, []string{}},
		{map[string][]string{"all": {"true"}, "label!": {"keep=yes"}}, []string{"vp-idle"}},
		{map[string][]string{"all": {"true"}}, []string{"vp-kept"}},
	} {
		r, err := s.Engine.PruneVolumes(s.ctx, only(test.filters))
		if err != nil {
			s.Fatal(err)
		}
		s.same("pruned", r.VolumesDeleted, test.want)
	}
	_, err := s.Engine.PruneVolumes(s.ctx, map[string][]string{"until": {"1h"}})
	s.refused(err, errdefs.IsInvalidArgument, "invalid filter 'until'")
}

func volumesBadInput(s *suite) {
	for _, test := range []struct {
		r     volume.CreateRequest
		class func(error) bool
		words string
	}{
		{volume.CreateRequest{Name: "x"}, errdefs.IsInvalidArgument, "create x: volume name is too short, names should be at least two alphanumeric characters"},
		{volume.CreateRequest{Name: "../x"}, errdefs.IsInvalidArgument, `create ../x: "../x" includes invalid characters for a local volume name`},
		{volume.CreateRequest{Name: "bad", Driver: "rex"}, errdefs.IsNotFound, `create bad: error looking up volume plugin rex: plugin "rex" not found`},
		{volume.CreateRequest{Name: "bad", DriverOpts: map[string]string{"type": "tmpfs"}}, errdefs.IsInvalidArgument, `create bad: missing required option: "device"`},
		{volume.CreateRequest{Name: "bad", DriverOpts: map[string]string{"o": "ro", "device": "x"}}, errdefs.IsInvalidArgument, `create bad: missing required option: "type"`},
		{volume.CreateRequest{Name: "bad", DriverOpts: map[string]string{"size": "1g"}}, errdefs.IsInvalidArgument, "quota size requested but no quota support"},
		{volume.CreateRequest{Name: "bad", ClusterVolumeSpec: &volume.ClusterVolumeSpec{}}, errdefs.IsNotImplemented, "cluster volumes are not supported"},
	} {
		_, err := s.Engine.CreateVolume(s.ctx, test.r)
		s.refused(err, test.class, test.words)
	}
	_, err := s.Engine.Volumes(s.ctx, map[string][]string{"colour": {"red"}})
	s.refused(err, errdefs.IsInvalidArgument, "invalid filter 'colour'")
	_, err = s.Engine.Volumes(s.ctx, map[string][]string{"dangling": {"perhaps"}})
	s.refused(err, errdefs.IsInvalidArgument, "invalid filter 'dangling=[perhaps]'")
	for _, test := range []struct {
		h     container.HostConfig
		class func(error) bool
		words string
	}{
		{container.HostConfig{Binds: []string{"a/b:/x"}}, errdefs.IsInvalidArgument, `create a/b: "a/b" includes invalid characters for a local volume name`},
		{container.HostConfig{Binds: []string{"data:x"}}, errdefs.IsInvalidArgument, "mount path must be absolute"},
		{container.HostConfig{Binds: []string{"data:/x:rshared"}}, errdefs.IsInvalidArgument, "invalid mode: rshared"},
		{container.HostConfig{Binds: []string{"data:/x", "/tmp:/x/"}}, errdefs.IsInvalidArgument, "Duplicate mount point: /x"},
		{container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "data", Target: "/x", VolumeOptions: &mount.VolumeOptions{Subpath: "../y"}}}}, errdefs.IsInvalidArgument, "subpath must be a relative path within the volume"},
		{container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeVolume, Source: "data", Target: "/x", BindOptions: &mount.BindOptions{}}}}, errdefs.IsInvalidArgument, "field BindOptions must not be specified"},
		{container.HostConfig{Tmpfs: map[string]string{"/": ""}}, errdefs.IsInvalidArgument, "invalid specification: destination can't be '/'"},
		{container.HostConfig{Tmpfs: map[string]string{"x": ""}}, errdefs.IsInvalidArgument, "invalid mount path: 'x' mount path must be absolute"},
		{container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeTmpfs, Target: "/x", TmpfsOptions: &mount.TmpfsOptions{Options: [][]string{{"suid"}}}}}}, errdefs.IsInvalidArgument, `invalid mount config for type "tmpfs": invalid option: suid`},
		{container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/tmp", Target: "/x", BindOptions: &mount.BindOptions{Propagation: "rpublic"}}}}, errdefs.IsInvalidArgument, `invalid mount config for type "bind": invalid propagation mode: rpublic`},
		{container.HostConfig{Mounts: []mount.Mount{{Type: mount.TypeBind, Source: "/tmp", Target: "/x", BindOptions: &mount.BindOptions{ReadOnlyNonRecursive: true, ReadOnlyForceRecursive: true}}}}, errdefs.IsInvalidArgument, "mount options conflict"},
		{container.HostConfig{VolumeDriver: "rex"}, errdefs.IsNotFound, `plugin "rex" not found`},
	} {
		test.h.NetworkMode = "none"
		_, _, err := s.Engine.Create(s.ctx, engine.Spec{Config: &container.Config{Image: s.Image, Cmd: []string{"x"}}, HostConfig: &test.h})
		s.refused(err, test.class, test.words)
	}
}
