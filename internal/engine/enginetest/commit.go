package enginetest

import (
	"slices"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

func (s *suite) commit(name string, o engine.CommitOptions) string {
	s.Helper()
	id, err := s.Engine.Commit(s.ctx, name, o)
	if err != nil {
		s.Fatalf("commit: %v", err)
	}
	s.Cleanup(func() { _, _ = s.Engine.RemoveImage(s.Context(), id, true) })
	return id
}

// commit makes images of a container that does not run and of one that runs, and containers of these images.
func commit(s *suite) {
	ref, err := reference.WithTag(reference.TrimNamed(must(reference.ParseNormalizedNamed("made/here"))), "1")
	if err != nil {
		s.Fatal(err)
	}
	id := s.create(engine.Spec{Config: &container.Config{Env: []string{"A=b"}}}, "print ready", "sleep")
	parent, err := s.Engine.InspectImage(s.ctx, s.Image, nil)
	if err != nil {
		s.Fatal(err)
	}
	same := s.commit(id, engine.CommitOptions{})
	if i, err := s.Engine.InspectImage(s.ctx, same, nil); err != nil || !slices.Equal(i.RootFS.Layers, parent.RootFS.Layers) || len(i.RepoTags) != 0 {
		s.Errorf("an image of an unchanged container: %+v, %v", i, err)
	}
	s.put(id, "/tmp", "one=1", "sub/", "sub/two=22")
	s.put(id, "/etc", "mark=changed")
	made := s.commit(id, engine.CommitOptions{Ref: ref, Author: "me", Comment: "a note", Changes: []string{"ENV C=d", "LABEL of=commit", "WORKDIR /tmp"}})
	i, err := s.Engine.InspectImage(s.ctx, "made/here:1", nil)
	if err != nil {
		s.Fatal(err)
	}
	s.same("ID", i.ID, made)
	s.same("author, comment, directory, label", []string{i.Author, i.Comment, i.Config.WorkingDir, i.Config.Labels["of"]}, []string{"me", "a note", "/tmp", "commit"})
	if !slices.Contains(i.Config.Env, "A=b") || !slices.Contains(i.Config.Env, "C=d") {
		s.Errorf("environment %q", i.Config.Env)
	}
	if n := len(parent.RootFS.Layers); len(i.RootFS.Layers) != n+1 || !slices.Equal(i.RootFS.Layers[:n], parent.RootFS.Layers) {
		s.Errorf("layers %q on %q", i.RootFS.Layers, parent.RootFS.Layers)
	}
	child := s.create(engine.Spec{Config: &container.Config{Image: "made/here:1"}}, "print ready", "sleep")
	s.same("a file of the image", s.get(child, "/tmp/sub"), []string{"sub/", "sub/two=22"})
	s.same("a changed file of the image", s.get(child, "/etc/mark"), []string{"mark=changed"})
	s.same("changes of the child", s.changes(child), []string{})
	if c := s.inspect(child); c.Config.WorkingDir != "/tmp" || !slices.Contains(c.Config.Env, "C=d") {
		s.Errorf("the child has %+v", c.Config)
	}
	s.start(child)
	s.ready(child, 1)
	s.put(child, "/tmp", "three=3")
	for _, pause := range []bool{true, false} {
		again := s.commit(child, engine.CommitOptions{Pause: pause, Config: &container.Config{User: "7"}})
		i, err := s.Engine.InspectImage(s.ctx, again, nil)
		if err != nil || i.Config.User != "7" || i.Config.WorkingDir != "/tmp" || len(i.RootFS.Layers) != len(parent.RootFS.Layers)+2 {
			s.Errorf("an image of a running container: %+v, %v", i, err)
		}
		s.same("state after the commit", s.inspect(child).State.Status, container.StateRunning)
	}
	if err := s.Engine.Pause(s.ctx, child); err != nil {
		s.Fatal(err)
	}
	s.commit(child, engine.CommitOptions{Pause: true})
	s.same("state of a paused container after the commit", s.inspect(child).State.Status, container.StatePaused)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func commitBadInput(s *suite) {
	_, err := s.Engine.Commit(s.ctx, "nobody", engine.CommitOptions{})
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")
	id := s.create(engine.Spec{}, "sleep")
	before, err := s.Engine.Usage(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	_, err = s.Engine.Commit(s.ctx, id, engine.CommitOptions{Changes: []string{"RUN true"}})
	s.refused(err, errdefs.IsInvalidArgument, "RUN is not a valid change command")
	after, err := s.Engine.Usage(s.ctx)
	if err != nil {
		s.Fatal(err)
	}
	s.same("images", after.Images, before.Images)
}
