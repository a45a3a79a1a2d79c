package enginetest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// archive makes a tar archive: "NAME/" is a folder, "NAME=TEXT" a file.
func archive(entries ...string) io.Reader {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Typeflag: tar.TypeReg, Mode: 0o640, ModTime: time.Unix(1e9, 0)}
		var text string
		h.Name, text, _ = strings.Cut(e, "=")
		if h.Size = int64(len(text)); strings.HasSuffix(e, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o750
		}
		if err := errors.Join(w.WriteHeader(h), writeAll(w, text)); err != nil {
			panic(err) // memory does not fail
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return &b
}

func writeAll(w io.Writer, s string) error { _, err := io.WriteString(w, s); return err }

// entries reads an archive back into archive's notation.
func (s *suite) entries(r io.Reader) []string {
	s.Helper()
	list := []string{}
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		if err != nil {
			s.Fatalf("archive: %v", err)
		}
		b, err := io.ReadAll(t)
		if err != nil {
			s.Fatalf("archive: %v", err)
		}
		name := h.Name
		if h.Typeflag == tar.TypeReg {
			name += "=" + string(b)
		}
		list = append(list, name)
	}
}

func (s *suite) put(id, path string, entries ...string) {
	s.Helper()
	if err := s.Engine.WriteFiles(s.ctx, id, path, archive(entries...), engine.WriteOptions{}); err != nil {
		s.Fatalf("write files: %v", err)
	}
}

func (s *suite) get(id, path string) []string {
	s.Helper()
	var b bytes.Buffer
	if err := s.Engine.ReadFiles(s.ctx, id, path, func(container.PathStat) (io.Writer, error) { return &b, nil }); err != nil {
		s.Fatalf("read files: %v", err)
	}
	return s.entries(&b)
}

func (s *suite) changes(id string) []string {
	s.Helper()
	list, err := s.Engine.Changes(s.ctx, id)
	if err != nil {
		s.Fatalf("changes: %v", err)
	}
	got := []string{}
	for _, c := range list {
		got = append(got, fmt.Sprint(c.Kind, " ", c.Path))
	}
	return got
}

// archives writes and reads files of a container that does not run, runs, is paused and has ended.
func archives(s *suite) {
	id := s.create(engine.Spec{}, "print ready", "sleep")
	s.same("changes of a new container", s.changes(id), []string{})
	s.put(id, "/tmp", "one=1", "sub/", "sub/two=22")
	look := func(when string) {
		s.Helper()
		s.same("the folder, "+when, s.get(id, "/tmp/sub"), []string{"sub/", "sub/two=22"})
		s.same("the file, "+when, s.get(id, "tmp/one"), []string{"one=1"})
		st, err := s.Engine.StatFile(s.ctx, id, "/tmp/sub/two")
		if err != nil || st.Name != "two" || st.Size != 2 || st.Mode != 0o640 || !st.Mtime.Equal(time.Unix(1e9, 0)) {
			s.Errorf("stat, %s: %+v, %v", when, st, err)
		}
		st, err = s.Engine.StatFile(s.ctx, id, "/tmp/sub")
		if err != nil || !st.Mode.IsDir() || st.Mode.Perm() != 0o750 {
			s.Errorf("stat of a folder, %s: %+v, %v", when, st, err)
		}
		s.same("changes, "+when, s.changes(id), []string{"C /tmp", "A /tmp/one", "A /tmp/sub", "A /tmp/sub/two"})
		var b bytes.Buffer
		if err := s.Engine.Export(s.ctx, id, &b); err != nil {
			s.Errorf("export, %s: %v", when, err)
		}
		all := s.entries(&b)
		for _, want := range []string{"etc/", "etc/mark=local", "tmp/sub/two=22"} {
			if !slices.Contains(all, want) {
				s.Errorf("the export, %s, does not hold %s: %q", when, want, all)
			}
		}
	}
	look("before the start")
	s.start(id)
	s.ready(id, 1)
	look("running")
	if err := s.Engine.Pause(s.ctx, id); err != nil {
		s.Fatal(err)
	}
	look("paused")
	if err := s.Engine.Unpause(s.ctx, id); err != nil {
		s.Fatal(err)
	}
	s.put(id, "/etc", "mark=changed")
	s.same("changes", s.changes(id), []string{"C /etc", "C /etc/mark", "C /tmp", "A /tmp/one", "A /tmp/sub", "A /tmp/sub/two"})
	s.put(id, "/etc", "mark=local")
	if err := s.Engine.Kill(s.ctx, id, ""); err != nil {
		s.Fatal(err)
	}
	s.wait(id)
	s.same("the file after the end", s.get(id, "/tmp/one"), []string{"one=1"})
	s.put(id, "/tmp", "one=one")
	s.same("a file that was replaced", s.get(id, "/tmp/one"), []string{"one=one"})
}

func archivesBadInput(s *suite) {
	id := s.create(engine.Spec{Name: "filebad"}, "sleep")
	_, err := s.Engine.StatFile(s.ctx, "nobody", "/")
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")
	_, err = s.Engine.StatFile(s.ctx, "filebad", "/nowhere")
	s.refused(err, errdefs.IsNotFound, "Could not find the file /nowhere in container filebad")
	opened := func(container.PathStat) (io.Writer, error) {
		s.Error("an archive of nothing was opened")
		return io.Discard, nil
	}
	s.refused(s.Engine.ReadFiles(s.ctx, "filebad", "/nowhere", opened), errdefs.IsNotFound, "Could not find the file /nowhere in container filebad")
	s.refused(s.Engine.ReadFiles(s.ctx, "nobody", "/", opened), errdefs.IsNotFound, "No such container: nobody")
	s.refused(s.Engine.Export(s.ctx, "nobody", io.Discard), errdefs.IsNotFound, "No such container: nobody")
	_, err = s.Engine.Changes(s.ctx, "nobody")
	s.refused(err, errdefs.IsNotFound, "No such container: nobody")

	write := func(to string, o engine.WriteOptions, entries ...string) error {
		return s.Engine.WriteFiles(s.ctx, id, to, archive(entries...), o)
	}
	s.refused(write("/nowhere", engine.WriteOptions{}, "a=1"), errdefs.IsNotFound, "Could not find the file /nowhere in container "+id)
	s.refused(write("/etc/mark", engine.WriteOptions{}, "a=1"), errdefs.IsInvalidArgument, "extraction point is not a directory")
	s.refused(write("/tmp", engine.WriteOptions{}, "../etc/bad=1"), errdefs.IsInvalidArgument, `invalid entry name "../etc/bad"`)
	s.refused(write("/", engine.WriteOptions{KeepKinds: true}, "etc=1"), errdefs.IsInvalidArgument, `cannot overwrite directory "etc" with non-directory "/"`)
	s.refused(write("/etc", engine.WriteOptions{KeepKinds: true}, "mark/"), errdefs.IsInvalidArgument, `cannot overwrite non-directory "mark" with directory "/etc"`)
	s.same("changes by what was refused", s.changes(id), []string{})
	if err := s.Engine.WriteFiles(s.ctx, id, "/tmp", strings.NewReader("no archive, but long enough to be taken for a header of one"+strings.Repeat(".", 512)), engine.WriteOptions{}); err == nil {
		s.Error("what is no archive was taken for one")
	}
	ro := s.create(engine.Spec{HostConfig: &container.HostConfig{ReadonlyRootfs: true}}, "print ready", "sleep")
	for _, when := range []string{"before the start", "running"} {
		err := s.Engine.WriteFiles(s.ctx, ro, "/tmp", archive("a=1"), engine.WriteOptions{})
		s.refused(err, errdefs.IsInvalidArgument, "container rootfs is marked read-only")
		s.same("a read-only file, "+when, s.get(ro, "/etc/mark"), []string{"mark=local"})
		s.start(ro)
		s.ready(ro, 1)
	}
}
