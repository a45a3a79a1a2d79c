package fake

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/engine/ledger"
)

// tree is the files of a container by their absolute paths. It has no links to follow, no users and no mounts.
type tree map[string]file

type file struct {
	head tar.Header // its name is not used
	data string
}

// base is what every image has that was not made of a container.
func base() tree {
	t := tree{}
	for _, dir := range []string{"/", "/bin", "/etc", "/tmp"} {
		t[dir] = file{head: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(0, 0)}}
	}
	t["/etc/mark"] = file{tar.Header{Typeflag: tar.TypeReg, Mode: 0o644, Size: 5, ModTime: time.Unix(0, 0)}, "local"}
	return t
}

// tree returns a container's files, or its image's if it has written none. The caller holds the lock and does not
// write to them.
func (e *Engine) tree(c *ledger.Container) tree {
	if t := e.trees[c.ID]; t != nil {
		return t
	}
	return e.imageTree(c.ImageID)
}

func (e *Engine) imageTree(id string) tree {
	if made := e.made[id]; made != nil {
		return made.files
	}
	return base()
}

func (e *Engine) findFile(name, p string) (*ledger.Container, tree, error) {
	c, err := e.ledger.Find(name)
	if err != nil {
		return nil, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tree(c)
	if _, ok := t[path.Join("/", p)]; !ok {
		return c, t, ledger.Errorf(errdefs.ErrNotFound, "Could not find the file %s in container %s", p, name)
	}
	return c, t, nil
}

// StatFile implements engine.Archives.
func (e *Engine) StatFile(_ context.Context, name, p string) (container.PathStat, error) {
	_, t, err := e.findFile(name, p)
	if err != nil {
		return container.PathStat{}, err
	}
	return t.stat(path.Join("/", p)), nil
}

func (t tree) stat(p string) container.PathStat {
	f := t[p]
	return container.PathStat{Name: path.Base(p), Size: f.head.Size, Mode: f.head.FileInfo().Mode(), Mtime: f.head.ModTime, LinkTarget: f.head.Linkname}
}

// ReadFiles implements engine.Archives.
func (e *Engine) ReadFiles(_ context.Context, name, p string, open func(container.PathStat) (io.Writer, error)) error {
	c, t, err := e.findFile(name, p)
	if err != nil {
		return err
	}
	p = path.Join("/", p)
	w, err := open(t.stat(p))
	if err != nil {
		return err
	}
	if err := t.pack(w, p, strings.TrimPrefix(path.Base(p), "/"), true); err != nil {
		return err
	}
	e.ledger.Report(c, "archive-path", nil)
	return nil
}

// pack writes what is at p and below it, under the name base.
func (t tree) pack(w io.Writer, p, base string, top bool) error {
	a := tar.NewWriter(w)
	for _, at := range slices.Sorted(maps.Keys(t)) {
		rest, ok := strings.CutPrefix(at, strings.TrimSuffix(p, "/"))
		if !ok || at == p && !top || rest != "" && rest[0] != '/' {
			continue
		}
		f := t[at]
		h := f.head
		if h.Name = base + rest; base == "" {
			h.Name = strings.TrimPrefix(rest, "/")
		}
		if h.Typeflag == tar.TypeDir {
			h.Name += "/"
		}
		if err := a.WriteHeader(&h); err != nil {
			return err
		}
		if _, err := io.WriteString(a, f.data); err != nil {
			return err
		}
	}
	return a.Close()
}

// WriteFiles implements engine.Archives. It reads plain archives only.
func (e *Engine) WriteFiles(_ context.Context, name, p string, archive io.Reader, o engine.WriteOptions) error {
	c, old, err := e.findFile(name, p)
	if err != nil {
		return err
	}
	to := path.Join("/", p)
	if old[to].head.Typeflag != tar.TypeDir {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "extraction point is not a directory")
	}
	if c.HostConfig.ReadonlyRootfs {
		return ledger.Errorf(errdefs.ErrInvalidArgument, "container rootfs is marked read-only")
	}
	t := maps.Clone(old)
	err = t.unpack(archive, to, o.KeepKinds)
	e.mu.Lock()
	e.trees[c.ID] = t
	e.mu.Unlock()
	if err != nil {
		return err
	}
	e.ledger.Report(c, "extract-to-dir", nil)
	return nil
}

func (t tree) unpack(archive io.Reader, to string, keepKinds bool) error {
	for a := tar.NewReader(archive); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(h.Name)
		if !filepath.IsLocal(name) {
			return ledger.Errorf(errdefs.ErrInvalidArgument, "invalid entry name %q", h.Name)
		}
		at := path.Join(to, name)
		was, ok := t[at]
		isDir, wasDir := h.Typeflag == tar.TypeDir, was.head.Typeflag == tar.TypeDir
		switch {
		case ok && keepKinds && wasDir && !isDir:
			return ledger.Errorf(errdefs.ErrInvalidArgument, "cannot overwrite directory %q with non-directory %q", name, to)
		case ok && keepKinds && !wasDir && isDir:
			return ledger.Errorf(errdefs.ErrInvalidArgument, "cannot overwrite non-directory %q with directory %q", name, to)
		case ok && !isDir:
			maps.DeleteFunc(t, func(p string, _ file) bool { return strings.HasPrefix(p, at+"/") })
		}
		for dir := path.Dir(at); ; dir = path.Dir(dir) {
			if _, ok := t[dir]; ok {
				break
			}
			t[dir] = file{head: tar.Header{Typeflag: tar.TypeDir, Mode: 0o755}}
		}
		var data bytes.Buffer
		if _, err := io.Copy(&data, a); err != nil {
			return err
		}
		t[at] = file{*h, data.String()}
	}
}

// Export implements engine.Archives.
func (e *Engine) Export(_ context.Context, name string, w io.Writer) error {
	c, t, err := e.findFile(name, "/")
	if err != nil {
		return err
	}
	if err := t.pack(w, "/", "", false); err != nil {
		return err
	}
	e.ledger.Report(c, "export", nil)
	return nil
}

// Changes implements engine.Archives.
func (e *Engine) Changes(_ context.Context, name string) ([]container.FilesystemChange, error) {
	c, t, err := e.findFile(name, "/")
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	was := e.imageTree(c.ImageID)
	e.mu.Unlock()
	kinds := map[string]container.ChangeType{}
	note := func(p string, kind container.ChangeType) {
		kinds[p] = kind
		for dir := path.Dir(p); dir != "/"; dir = path.Dir(dir) {
			if _, ok := kinds[dir]; !ok {
				kinds[dir] = container.ChangeModify
			}
		}
	}
	for p, f := range t {
		o, ok := was[p]
		switch {
		case !ok:
			note(p, container.ChangeAdd)
		case o.data != f.data || o.head.Typeflag != f.head.Typeflag || o.head.Mode != f.head.Mode:
			note(p, container.ChangeModify)
		}
	}
	for p := range was {
		if _, ok := t[p]; !ok {
			note(p, container.ChangeDelete)
		}
	}
	list := []container.FilesystemChange{}
	for _, p := range slices.Sorted(maps.Keys(kinds)) {
		list = append(list, container.FilesystemChange{Path: p, Kind: kinds[p]})
	}
	return list, nil
}
