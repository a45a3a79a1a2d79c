package enginetest

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"

	"shoal.dev/shoal/internal/engine"
)

func pull(s *suite) {
	if _, err := s.Engine.InspectImage(s.ctx, s.Remote, nil); !errdefs.IsNotFound(err) {
		s.Fatalf("%s is here before it was pulled: %v", s.Remote, err)
	}
	var said []string
	say := func(m jsonstream.Message) { said = append(said, m.Status) }
	if err := s.Engine.Pull(s.ctx, s.Remote, engine.PullOptions{}, say); err != nil {
		s.Fatal(err)
	}
	for _, want := range []string{"Pulling from ", "Pulling fs layer", "Downloading", "Download complete", "Pull complete", "Digest: sha256:", "Status: Downloaded newer image for " + s.Remote} {
		if !slices.ContainsFunc(said, func(m string) bool { return strings.HasPrefix(m, want) }) {
			s.Errorf("the pull did not say %q: %q", want, said)
		}
	}
	said = nil
	if err := s.Engine.Pull(s.ctx, s.Remote, engine.PullOptions{}, say); err != nil {
		s.Fatal(err)
	}
	s.same("last message of the second pull", said[len(said)-1], "Status: Image is up to date for "+s.Remote)
	i, err := s.Engine.InspectImage(s.ctx, s.Remote, nil)
	if err != nil {
		s.Fatal(err)
	}
	s.same("tags", i.RepoTags, []string{s.Remote})
	if len(i.RepoDigests) != 1 || !strings.HasSuffix(i.RepoDigests[0], "@"+i.ID) {
		s.Fatalf("digests %q of image %s", i.RepoDigests, i.ID)
	}
	if err := s.Engine.Pull(s.ctx, s.Remote+"@"+i.ID, engine.PullOptions{}, nil); err != nil {
		s.Errorf("pull by digest: %v", err)
	}
	for _, ref := range []string{i.ID, i.ID[7:19], i.RepoDigests[0], s.Remote + "@" + i.ID} {
		if j, err := s.Engine.InspectImage(s.ctx, ref, nil); err != nil || j.ID != i.ID {
			s.Errorf("inspect %q: %v", ref, err)
		}
	}
	d, err := s.Engine.Distribution(s.ctx, s.Remote, nil)
	if err != nil || d.Descriptor.Digest.String() != i.ID || len(d.Platforms) == 0 {
		s.Errorf("distribution gave %+v, %v; want %s", d, err, i.ID)
	}
	s.same("removal", s.removed(s.Remote), []string{"Untagged: " + s.Remote, "Deleted: " + i.ID})
}

// removed removes an image and gives the lines that a client prints.
func (s *suite) removed(ref string) []string {
	s.Helper()
	gone, err := s.Engine.RemoveImage(s.ctx, ref, false)
	if err != nil {
		s.Fatalf("remove %s: %v", ref, err)
	}
	return removalLines(gone)
}

func removalLines(gone []image.DeleteResponse) []string {
	lines := []string{}
	for _, g := range gone {
		if g.Untagged != "" {
			lines = append(lines, "Untagged: "+g.Untagged)
		} else {
			lines = append(lines, "Deleted: "+g.Deleted)
		}
	}
	return lines
}

func imageInUse(s *suite) {
	id := s.create(engine.Spec{}, "sleep")
	s.start(id)
	i := s.image(s.Image)
	_, err := s.Engine.RemoveImage(s.ctx, i.ID, true)
	s.refused(err, errdefs.IsConflict, "conflict: unable to delete "+i.ID[7:19]+" (cannot be forced) - image is being used by running container "+id[:12])
	if err := s.Engine.Kill(s.ctx, id, ""); err != nil {
		s.Fatal(err)
	}
	s.wait(id)
	_, err = s.Engine.RemoveImage(s.ctx, i.ID[7:19], false)
	s.refused(err, errdefs.IsConflict, "conflict: unable to delete "+i.ID[7:19]+" (must be forced) - image is being used by stopped container "+id[:12])
	_, err = s.Engine.RemoveImage(s.ctx, s.Image, false)
	s.refused(err, errdefs.IsConflict, fmt.Sprintf("conflict: unable to delete %s (must be forced) - container %s is using its referenced image %s", s.Image, id[:12], i.ID[7:19]))
	s.same("names after refusals", s.image(s.Image).RepoTags, []string{s.Image})

	// By force the name goes, and the image stays for its container.
	gone, err := s.Engine.RemoveImage(s.ctx, s.Image, true)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = s.Engine.TagImage(context.Background(), i.ID, s.Image) })
	s.same("removal by force", removalLines(gone), []string{"Untagged: " + s.Image})
	s.same("names of the image", s.image(i.ID).RepoTags, []string{})
	s.start(id)
	if err := s.Engine.TagImage(s.ctx, i.ID, s.Image); err != nil {
		s.Fatal(err)
	}
	// With another name left, a name goes without force though a container runs.
	if err := s.Engine.TagImage(s.ctx, s.Image, "spare:1"); err != nil {
		s.Fatal(err)
	}
	s.same("removal of a spare name", s.removed("spare:1"), []string{"Untagged: spare:1"})
}

// image inspects an image that has to be there.
func (s *suite) image(ref string) *image.InspectResponse {
	s.Helper()
	i, err := s.Engine.InspectImage(s.ctx, ref, nil)
	if err != nil {
		s.Fatalf("inspect %s: %v", ref, err)
	}
	return i
}

func noSuchImage(s *suite) {
	_, err := s.Engine.InspectImage(s.ctx, "missing:7", nil)
	s.refused(err, errdefs.IsNotFound, "No such image: missing:7")
	_, err = s.Engine.RemoveImage(s.ctx, "missing:7", false)
	s.refused(err, errdefs.IsNotFound, "No such image: missing:7")
	_, err = s.Engine.Images(s.ctx, engine.ImageListOptions{Filters: map[string][]string{"colour": {"red"}}})
	s.refused(err, errdefs.IsInvalidArgument, "invalid filter 'colour'")
	repo, _, _ := strings.Cut(s.Remote, ":")
	if i := strings.LastIndexByte(s.Remote, ':'); i > 0 {
		repo = s.Remote[:i]
	}
	err = s.Engine.Pull(s.ctx, repo+":never", engine.PullOptions{}, nil)
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
