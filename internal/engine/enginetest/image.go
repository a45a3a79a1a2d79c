package enginetest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/jsonstream"

	"shoal.dev/shoal/internal/engine"
)

func pull(s *suite) {
	if _, err := s.Engine.InspectImage(s.ctx, s.Remote); !errdefs.IsNotFound(err) {
		s.Fatalf("%s is here before it was pulled: %v", s.Remote, err)
	}
	var said []string
	say := func(m jsonstream.Message) { said = append(said, m.Status) }
	if err := s.Engine.Pull(s.ctx, s.Remote, nil, say); err != nil {
		s.Fatal(err)
	}
	for _, want := range []string{"Pulling from ", "Pulling fs layer", "Downloading", "Download complete", "Pull complete", "Digest: sha256:", "Status: Downloaded newer image for " + s.Remote} {
		if !slices.ContainsFunc(said, func(m string) bool { return strings.HasPrefix(m, want) }) {
			s.Errorf("the pull did not say %q: %q", want, said)
		}
	}
	said = nil
	if err := s.Engine.Pull(s.ctx, s.Remote, nil, say); err != nil {
		s.Fatal(err)
	}
	s.same("last message of the second pull", said[len(said)-1], "Status: Image is up to date for "+s.Remote)
	i, err := s.Engine.InspectImage(s.ctx, s.Remote)
	if err != nil {
		s.Fatal(err)
	}
	s.same("tags", i.RepoTags, []string{s.Remote})
	if len(i.RepoDigests) != 1 || !strings.HasSuffix(i.RepoDigests[0], "@"+i.ID) {
		s.Fatalf("digests %q of image %s", i.RepoDigests, i.ID)
	}
	if err := s.Engine.Pull(s.ctx, s.Remote+"@"+i.ID, nil, nil); err != nil {
		s.Errorf("pull by digest: %v", err)
	}
	for _, ref := range []string{i.ID, i.ID[7:19], i.RepoDigests[0], s.Remote + "@" + i.ID} {
		if j, err := s.Engine.InspectImage(s.ctx, ref); err != nil || j.ID != i.ID {
			s.Errorf("inspect %q: %v", ref, err)
		}
	}
	d, err := s.Engine.Distribution(s.ctx, s.Remote, nil)
	if err != nil || d.Descriptor.Digest.String() != i.ID || len(d.Platforms) == 0 {
		s.Errorf("distribution gave %+v, %v; want %s", d, err, i.ID)
	}
	gone, err := s.Engine.RemoveImage(s.ctx, s.Remote, false)
	if err != nil {
		s.Fatal(err)
	}
	var lines []string
	for _, g := range gone {
		if g.Untagged != "" {
			lines = append(lines, "Untagged: "+g.Untagged)
		} else {
			lines = append(lines, "Deleted: "+g.Deleted)
		}
	}
	s.same("removal", lines, []string{"Untagged: " + s.Remote, "Untagged: " + i.RepoDigests[0], "Deleted: " + i.ID})
}

func imageInUse(s *suite) {
	id := s.create(engine.Spec{}, "sleep")
	s.start(id)
	_, err := s.Engine.RemoveImage(s.ctx, s.Image, true)
	s.refused(err, errdefs.IsConflict, "(cannot be forced) - image is being used by running container "+id[:12])
	if err := s.Engine.Kill(s.ctx, id, ""); err != nil {
		s.Fatal(err)
	}
	s.wait(id)
	_, err = s.Engine.RemoveImage(s.ctx, s.Image, false)
	s.refused(err, errdefs.IsConflict, fmt.Sprintf("conflict: unable to remove repository reference %q (must force) - container %s is using its referenced image ", s.Image, id[:12]))
	if _, err := s.Engine.InspectImage(s.ctx, s.Image); err != nil {
		s.Errorf("a refused removal removed: %v", err)
	}
}

func noSuchImage(s *suite) {
	_, err := s.Engine.InspectImage(s.ctx, "missing:7")
	s.refused(err, errdefs.IsNotFound, "No such image: missing:7")
	_, err = s.Engine.RemoveImage(s.ctx, "missing:7", false)
	s.refused(err, errdefs.IsNotFound, "No such image: missing:7")
	_, err = s.Engine.Images(s.ctx, engine.ImageListOptions{Filters: map[string][]string{"colour": {"red"}}})
	s.refused(err, errdefs.IsInvalidArgument, "invalid filter 'colour'")
	repo, _, _ := strings.Cut(s.Remote, ":")
	if i := strings.LastIndexByte(s.Remote, ':'); i > 0 {
		repo = s.Remote[:i]
	}
	err = s.Engine.Pull(s.ctx, repo+":never", nil, nil)
	s.refused(err, errdefs.IsNotFound, "manifest for "+repo+":never not found")
	list, err := s.Engine.Images(s.ctx, engine.ImageListOptions{Filters: map[string][]string{"reference": {s.Image}}})
	if err != nil || len(list) != 1 || !slices.Contains(list[0].RepoTags, s.Image) {
		s.Errorf("images %s: %+v, %v", s.Image, list, err)
	}
}

func usage(s *suite) {
	before, err := s.Engine.Usage(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	s.create(engine.Spec{}, "sleep")
	s.run("sleep")
	after, err := s.Engine.Usage(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	s.same("usage", []int{after.Running - before.Running, after.Stopped - before.Stopped, after.Images}, []int{1, 1, before.Images})
}
