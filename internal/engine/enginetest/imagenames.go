package enginetest

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/volume"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
)

// imported makes an image that is like no other.
func (s *suite) imported(name string, changes ...string) string {
	s.Helper()
	id, err := s.Engine.Import(s.ctx, s.archive(), engine.ImportOptions{Name: name, Changes: changes, Message: "made by " + s.Name()})
	if err != nil {
		s.Fatalf("import %s: %v", name, err)
	}
	s.Cleanup(func() { _, _ = s.Engine.RemoveImage(s.cleanUp(), id, true) })
	return id
}

// archive is a tar stream with one file, whose content is the test's name.
func (s *suite) archive() io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := s.Name()
	err := w.WriteHeader(&tar.Header{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))})
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		s.Fatal(err)
	}
	return &b
}

func (s *suite) tags(filters map[string][]string) []string {
	s.Helper()
	list, err := s.Engine.Images(s.ctx, engine.ImageListOptions{Filters: filters})
	if err != nil {
		s.Fatalf("images %v: %v", filters, err)
	}
	tags := []string{}
	for _, i := range list {
		tags = append(tags, i.RepoTags...)
	}
	slices.Sort(tags)
	return tags
}

func tagImage(s *suite) {
	a, b := s.imported("tag/a:1"), s.imported("tag/b:1", "ENV OTHER=1")
	for _, name := range []string{"tag/a:2", "tag/a:2", "tag/c"} {
		if err := s.Engine.TagImage(s.ctx, "tag/a:1", name); err != nil {
			s.Fatal(err)
		}
	}
	s.same("tags", s.image(a).RepoTags, []string{"tag/a:1", "tag/a:2", "tag/c:latest"})
	_, err := s.Engine.RemoveImage(s.ctx, a, false)
	s.refused(err, errdefs.IsConflict, "conflict: unable to delete "+a[7:19]+" (must be forced) - image is referenced in multiple repositories")

	// A name that moves leaves the image that had it without one.
	if err := s.Engine.TagImage(s.ctx, b, "tag/c:latest"); err != nil {
		s.Fatal(err)
	}
	s.same("tags of the other", s.image("tag/c").RepoTags, []string{"tag/b:1", "tag/c:latest"})
	if err := s.Engine.TagImage(s.ctx, a, "tag/b:1"); err != nil {
		s.Fatal(err)
	}
	if err := s.Engine.TagImage(s.ctx, a, "tag/c:latest"); err != nil {
		s.Fatal(err)
	}
	s.same("tags of what lost its names", s.image(b).RepoTags, []string{})
	s.same("removal of what has no name", s.removed(b), []string{"Deleted: " + b})
	s.same("removal of one name", s.removed("tag/c"), []string{"Untagged: tag/c:latest"})
	gone, err := s.Engine.RemoveImage(s.ctx, a, true)
	if err != nil {
		s.Fatal(err)
	}
	s.same("removal by force", removalLines(gone), []string{"Untagged: tag/a:1", "Untagged: tag/a:2", "Untagged: tag/b:1", "Deleted: " + a})

	for name, words := range map[string]string{
		"UPPER": "must be lowercase", "a@" + a: "cannot import digest reference", "": "invalid reference format",
		"sha256:1": "refusing to create an ambiguous tag using digest algorithm as name",
	} {
		s.refused(s.Engine.TagImage(s.ctx, s.Image, name), errdefs.IsInvalidArgument, words)
	}
	s.refused(s.Engine.TagImage(s.ctx, "missing:7", "a:1"), errdefs.IsNotFound, "No such image: missing:7")
}

func imageFilters(s *suite) {
	id := s.imported("filter/a:1", "LABEL colour=red")
	s.imported("filter/b:1", "LABEL colour=blue")
	s.imported("", "LABEL colour=none")
	if err := s.Engine.TagImage(s.ctx, id, "filter/a:2"); err != nil {
		s.Fatal(err)
	}
	for _, test := range []struct {
		filters map[string][]string
		want    []string
	}{
		{map[string][]string{"reference": {"filter/a"}}, []string{"filter/a:1", "filter/a:2"}},
		{map[string][]string{"reference": {"filter/a:2"}}, []string{"filter/a:2"}},
		{map[string][]string{"reference": {"filter/*:1"}}, []string{"filter/a:1", "filter/b:1"}},
		{map[string][]string{"reference": {"filter/a:2", "filter/b"}}, []string{"filter/a:2", "filter/b:1"}},
		{map[string][]string{"label": {"colour=blue"}}, []string{"filter/b:1"}},
		{map[string][]string{"label": {"colour"}, "label!": {"colour=blue"}}, []string{"filter/a:1", "filter/a:2"}},
		{map[string][]string{"label": {"colour=red", "colour=blue"}}, []string{}},
		{map[string][]string{"label": {"colour"}, "dangling": {"true"}}, []string{}},
		{map[string][]string{"label": {"colour"}, "since": {"filter/a:1"}}, []string{"filter/b:1"}},
		{map[string][]string{"label": {"colour"}, "before": {"filter/b:1"}}, []string{"filter/a:1", "filter/a:2"}},
		{map[string][]string{"label": {"colour"}, "until": {"1h"}}, []string{}},
		{map[string][]string{"label": {"colour=red"}, "until": {"0s"}}, []string{"filter/a:1", "filter/a:2"}},
	} {
		s.same("images", s.tags(test.filters), test.want)
	}
	list, err := s.Engine.Images(s.ctx, engine.ImageListOptions{Filters: map[string][]string{"dangling": {"1"}, "label": {"colour"}}})
	if err != nil || len(list) != 1 || list[0].Labels["colour"] != "none" {
		s.Errorf("images without a name: %+v, %v", list, err)
	}
	for filter, words := range map[string]string{"dangling=maybe": "invalid filter 'dangling=", "until=yesterdayish": "invalid filter 'until=", "reference=[": "invalid filter 'reference="} {
		key, value, _ := strings.Cut(filter, "=")
		_, err := s.Engine.Images(s.ctx, engine.ImageListOptions{Filters: map[string][]string{key: {value}}})
		s.refused(err, errdefs.IsInvalidArgument, words)
	}
	_, err = s.Engine.Images(s.ctx, engine.ImageListOptions{Filters: map[string][]string{"since": {"missing:7"}}})
	s.refused(err, errdefs.IsNotFound, "No such image: missing:7")
}

func imageHistory(s *suite) {
	id := s.imported("history:1")
	h, err := s.Engine.ImageHistory(s.ctx, "history:1", nil)
	if err != nil || len(h) != 1 || h[0].ID != id || h[0].Comment != "made by "+s.Name() || h[0].Size == 0 || h[0].Created == 0 {
		s.Errorf("history %+v, %v", h, err)
	} else {
		s.same("tags", h[0].Tags, []string{"history:1"})
	}
	_, err = s.Engine.ImageHistory(s.ctx, "missing:7", nil)
	s.refused(err, errdefs.IsNotFound, "No such image: missing:7")
}

func imagePlatforms(s *suite) {
	here := s.image(s.Image)
	own := &ocispec.Platform{OS: here.Os, Architecture: here.Architecture}
	if i, err := s.Engine.InspectImage(s.ctx, s.Image, own); err != nil || i.ID != here.ID || len(i.Manifests) != 1 || !i.Manifests[0].Available {
		s.Errorf("inspect for this host: %+v, %v", i, err)
	}
	const words = "image with reference %s was found but does not provide the specified platform (linux/s390x)"
	other := &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	want := strings.ReplaceAll(words, "%s", s.Image)
	_, err := s.Engine.InspectImage(s.ctx, s.Image, other)
	s.refused(err, errdefs.IsNotFound, want)
	_, err = s.Engine.ImageHistory(s.ctx, s.Image, other)
	s.refused(err, errdefs.IsNotFound, want)
	_, _, err = s.Engine.Create(s.ctx, engine.Spec{Platform: "linux/s390x", Config: &container.Config{Image: s.Image}, HostConfig: &container.HostConfig{NetworkMode: "none"}})
	s.refused(err, errdefs.IsNotFound, want)
	_, _, err = s.Engine.Create(s.ctx, engine.Spec{Platform: "a/b/c/d", Config: &container.Config{Image: s.Image}})
	s.refused(err, errdefs.IsInvalidArgument, `invalid platform "a/b/c/d"`)
	s.create(engine.Spec{Platform: here.Os + "/" + here.Architecture}, "sleep")
}

func pruneImages(s *suite) {
	used := s.imported("prune/used:1", "LABEL prune=yes", "ENV USED=1")
	if err := s.Engine.TagImage(s.ctx, used, "prune/used:2"); err != nil {
		s.Fatal(err)
	}
	id, _, err := s.Engine.Create(s.ctx, engine.Spec{Config: &container.Config{Image: "prune/used:1", Cmd: []string{"x"}}, HostConfig: &container.HostConfig{NetworkMode: "none"}})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = s.Engine.Remove(s.cleanUp(), id, true) })
	idle := s.imported("prune/idle:1", "LABEL prune=yes", "ENV IDLE=1")
	bare := s.imported("", "LABEL prune=yes", "ENV BARE=1")
	s.imported("prune/kept:1", "LABEL kept=yes")

	prune := func(filters map[string][]string) []string {
		s.Helper()
		r, err := s.Engine.PruneImages(s.ctx, filters)
		if err != nil {
			s.Fatal(err)
		}
		if (r.SpaceReclaimed > 0) != slices.ContainsFunc(removalLines(r.ImagesDeleted), func(l string) bool { return strings.HasPrefix(l, "Deleted: ") }) {
			s.Errorf("%d bytes reclaimed, removed %v", r.SpaceReclaimed, r.ImagesDeleted)
		}
		return removalLines(r.ImagesDeleted)
	}
	mine := func(more ...string) map[string][]string {
		f := map[string][]string{"label": {"prune=yes"}}
		for _, m := range more {
			k, v, _ := strings.Cut(m, "=")
			f[k] = append(f[k], v)
		}
		return f
	}
	s.same("nothing is that old", prune(mine("until=1h")), []string{})
	s.same("images without a name", prune(mine()), []string{"Deleted: " + bare})
	s.same("all but", prune(mine("dangling=false", "label!=prune")), []string{})
	s.same("all", prune(mine("dangling=false")), []string{"Untagged: prune/idle:1", "Deleted: " + idle, "Untagged: prune/used:2"})
	s.same("what a container uses", s.image(used).RepoTags, []string{"prune/used:1"})
	s.same("what has another label", s.tags(map[string][]string{"reference": {"prune/kept"}}), []string{"prune/kept:1"})
	for filter, words := range map[string]string{"dangling=maybe": "invalid filter 'dangling=", "until=x": "invalid filter 'until=", "reference=a": "invalid filter 'reference'"} {
		key, value, _ := strings.Cut(filter, "=")
		_, err := s.Engine.PruneImages(s.ctx, map[string][]string{key: {value}})
		s.refused(err, errdefs.IsInvalidArgument, words)
	}
}

func saveAndLoad(s *suite) {
	a, b := s.imported("save/a:1", "LABEL n=a"), s.imported("save/b:1", "LABEL n=b")
	var file bytes.Buffer
	s.refused(s.Engine.Save(s.ctx, []string{"save/a:1", "missing:7"}, nil, &file), errdefs.IsNotFound, "No such image: missing:7")
	if file.Len() > 0 {
		s.Errorf("%d bytes were written though an image is missing", file.Len())
	}
	if err := s.Engine.Save(s.ctx, []string{"save/a:1", "save/b:1"}, nil, &file); err != nil {
		s.Fatal(err)
	}
	for _, ref := range []string{"save/a:1", "save/b:1"} {
		s.removed(ref)
	}
	names, err := s.Engine.Load(s.ctx, &file)
	if err != nil {
		s.Fatal(err)
	}
	slices.Sort(names)
	s.same("loaded", names, []string{"save/a:1", "save/b:1"})
	s.same("IDs", []string{s.image("save/a:1").ID, s.image("save/b:1").ID}, []string{a, b})
	s.same("labels", s.image(a).Config.Labels, map[string]string{"n": "a"})
}

func importImage(s *suite) {
	id := s.imported("import/a:1", `CMD ["x", "y"]`, "ENV A=1", "USER fish", "LABEL l=1")
	i := s.image("import/a:1")
	s.same("ID", i.ID, id)
	s.same("message", i.Comment, "made by "+s.Name())
	s.same("settings", []any{i.Config.Cmd, i.Config.Env, i.Config.User, i.Config.Labels},
		[]any{[]string{"x", "y"}, []string{"A=1"}, "fish", map[string]string{"l": "1"}})
	before := len(s.tags(nil))
	for _, o := range []engine.ImportOptions{{Name: "UPPER"}, {Name: "import/x", Changes: []string{"RUN x"}}} {
		_, err := s.Engine.Import(s.ctx, s.archive(), o)
		s.refused(err, errdefs.IsInvalidArgument, "")
	}
	s.same("images after refusals", len(s.tags(nil)), before)
}

func push(s *suite) {
	repo := s.Remote[:strings.LastIndexByte(s.Remote, '/')] + "/pushed"
	id := s.imported(repo+":1", "LABEL p=1")
	var said []string
	say := func(m jsonstream.Message) { said = append(said, m.Status) }
	has := func(want string) {
		s.Helper()
		if !slices.ContainsFunc(said, func(m string) bool { return strings.HasPrefix(m, want) }) {
			s.Errorf("the push did not say %q: %q", want, said)
		}
	}
	if err := s.Engine.Push(s.ctx, repo+":1", engine.PushOptions{}, say); err != nil {
		s.Fatal(err)
	}
	has("The push refers to repository [" + repo + "]")
	has("Pushed")
	has("1: digest: " + id + " size: ")
	said = nil
	if err := s.Engine.TagImage(s.ctx, id, repo+":2"); err != nil {
		s.Fatal(err)
	}
	if err := s.Engine.Push(s.ctx, repo, engine.PushOptions{AllTags: true}, say); err != nil {
		s.Fatal(err)
	}
	has("Layer already exists")
	has("1: digest: " + id)
	has("2: digest: " + id)
	if _, err := s.Engine.RemoveImage(s.ctx, id, true); err != nil {
		s.Fatal(err)
	}
	if err := s.Engine.Pull(s.ctx, repo, engine.PullOptions{AllTags: true}, nil); err != nil {
		s.Fatal(err)
	}
	s.same("what was pushed", s.image(id).RepoTags, []string{repo + ":1", repo + ":2"})
	s.refused(s.Engine.Push(s.ctx, repo+":3", engine.PushOptions{}, nil), errdefs.IsNotFound, "tag does not exist: "+repo+":3")
	s.refused(s.Engine.Push(s.ctx, repo+"/none", engine.PushOptions{AllTags: true}, nil), errdefs.IsNotFound,
		"An image does not exist locally with the tag: "+repo+"/none")
}

func imageEvents(s *suite) {
	feed := s.Engine.Events(s.ctx)
	id := s.imported("events:1", "LABEL l=1")
	if err := s.Engine.TagImage(s.ctx, id, "events:2"); err != nil {
		s.Fatal(err)
	}
	var file bytes.Buffer
	if err := s.Engine.Save(s.ctx, []string{"events:2"}, nil, &file); err != nil {
		s.Fatal(err)
	}
	s.removed("events:2")
	s.removed("events:1")
	if _, err := s.Engine.Load(s.ctx, &file); err != nil {
		s.Fatal(err)
	}
	s.removed("events:2")
	if _, err := s.Engine.PruneImages(s.ctx, map[string][]string{"label": {"none=1"}}); err != nil {
		s.Fatal(err)
	}
	if err := s.Engine.Pull(s.ctx, s.Remote, engine.PullOptions{}, nil); err != nil {
		s.Fatal(err)
	}
	remote := s.image(s.Remote)
	s.removed(s.Remote)
	name := s.Remote[:strings.LastIndexByte(s.Remote, ':')]
	for _, want := range []engine.Event{
		{Action: "tag", ID: id, Attributes: map[string]string{"name": "events:1", "l": "1"}},
		{Action: "import", ID: id, Attributes: map[string]string{"name": id, "l": "1"}},
		{Action: "tag", ID: id, Attributes: map[string]string{"name": "events:2", "l": "1"}},
		{Action: "save", ID: id},
		{Action: "untag", ID: id, Attributes: map[string]string{"name": "events:2"}},
		{Action: "untag", ID: id, Attributes: map[string]string{"name": "events:1"}},
		{Action: "delete", ID: id, Attributes: map[string]string{"name": id}},
		{Action: "load", ID: id},
		{Action: "untag", ID: id},
		{Action: "delete", ID: id},
		{Action: "prune", Attributes: map[string]string{"reclaimed": "0"}},
		{Action: "pull", ID: s.Remote},
		{Action: "untag", ID: remote.ID, Attributes: map[string]string{"name": s.Remote}},
		{Action: "delete", ID: remote.ID},
	} {
		got := <-feed
		s.same("event", []string{got.Type, got.Action, got.ID}, []string{"image", want.Action, want.ID})
		if want.Attributes != nil {
			s.same("attributes of "+want.Action, got.Attributes, want.Attributes)
		}
		if want.Action == "pull" {
			s.same("name of what was pulled", got.Attributes["name"], name)
		}
	}
}

func diskUsage(s *suite) {
	id := s.run("sleep")
	spare := s.imported("df:1")
	v, err := s.Engine.CreateVolume(s.ctx, volume.CreateRequest{})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = s.Engine.RemoveVolume(s.cleanUp(), v.Name, true) })
	u, err := s.Engine.DiskUsage(s.ctx, engine.DiskUsageOptions{Containers: true, Images: true, Volumes: true})
	if err != nil {
		s.Fatal(err)
	}
	c, i, vol := u.ContainerUsage, u.ImageUsage, u.VolumeUsage
	if c == nil || c.ActiveCount == 0 || int(c.TotalCount) != len(c.Items) || !slices.ContainsFunc(c.Items, func(x container.Summary) bool { return x.ID == id }) {
		s.Errorf("containers: %+v", c)
	}
	if vol == nil || int(vol.TotalCount) != len(vol.Items) || !slices.ContainsFunc(vol.Items, func(x volume.Volume) bool { return x.Name == v.Name && x.UsageData != nil && x.UsageData.RefCount == 0 }) {
		s.Errorf("volumes: %+v", vol)
	}
	if i == nil || i.ActiveCount == 0 || int(i.TotalCount) != len(i.Items) || i.TotalSize == 0 || i.Reclaimable == 0 || i.Reclaimable >= i.TotalSize {
		s.Fatalf("images: %+v", i)
	}
	for _, img := range i.Items {
		if img.SharedSize < 0 || img.Containers < 0 || img.ID == spare && (img.Containers != 0 || img.Size == 0) {
			s.Errorf("image %+v", img)
		}
	}
	if u, err = s.Engine.DiskUsage(s.ctx, engine.DiskUsageOptions{Volumes: true}); err != nil || u.ContainerUsage != nil || u.ImageUsage != nil || u.VolumeUsage == nil {
		s.Errorf("usage of volumes alone: %+v, %v", u, err)
	}
}
