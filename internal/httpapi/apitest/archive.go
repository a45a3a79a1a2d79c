package apitest

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"shoal.dev/shoal/internal/engine"
)

// Files are the files of all containers of an Engine, by path; "/" and "/tmp" are folders, and whatever a path of a
// file leads through.
type Files struct {
	Text  map[string]string
	Wrote engine.WriteOptions // of the last WriteFiles
}

func (f *Engine) stat(name, p string) (container.PathStat, error) {
	if _, err := f.find(name); err != nil {
		return container.PathStat{}, err
	}
	at := path.Join("/", p)
	f.mu.Lock()
	defer f.mu.Unlock()
	if text, ok := f.Files.Text[at]; ok {
		return container.PathStat{Name: path.Base(at), Size: int64(len(text)), Mode: 0o644}, nil
	}
	for other := range f.Files.Text {
		if strings.HasPrefix(other, strings.TrimSuffix(at, "/")+"/") {
			return container.PathStat{Name: path.Base(at), Mode: fs.ModeDir | 0o755}, nil
		}
	}
	if at == "/" || at == "/tmp" {
		return container.PathStat{Name: path.Base(at), Mode: fs.ModeDir | 0o755}, nil
	}
	return container.PathStat{}, errdefs.ErrNotFound.WithMessage("Could not find the file " + p + " in container " + name)
}

// StatFile implements engine.Archives.
func (f *Engine) StatFile(_ context.Context, name, p string) (container.PathStat, error) {
	return f.stat(name, p)
}

// ReadFiles implements engine.Archives.
func (f *Engine) ReadFiles(_ context.Context, name, p string, open func(container.PathStat) (io.Writer, error)) error {
	st, err := f.stat(name, p)
	if err != nil {
		return err
	}
	w, err := open(st)
	if err != nil {
		return err
	}
	return f.pack(w, path.Join("/", p), path.Base(path.Join("/", p)))
}

func (f *Engine) pack(w io.Writer, at, base string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := tar.NewWriter(w)
	if _, ok := f.Files.Text[at]; !ok && at != "/" {
		if err := a.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: base + "/", Mode: 0o755}); err != nil {
			return err
		}
	}
	for _, p := range slices.Sorted(maps.Keys(f.Files.Text)) {
		rest, ok := strings.CutPrefix(p, strings.TrimSuffix(at, "/"))
		if !ok || rest != "" && rest[0] != '/' {
			continue
		}
		text := f.Files.Text[p]
		if err := a.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: base + rest, Mode: 0o644, Size: int64(len(text))}); err != nil {
			return err
		}
		if _, err := io.WriteString(a, text); err != nil {
			return err
		}
	}
	return a.Close()
}

// WriteFiles implements engine.Archives.
func (f *Engine) WriteFiles(_ context.Context, name, p string, archive io.Reader, o engine.WriteOptions) error {
	st, err := f.stat(name, p)
	if err != nil {
		return err
	}
	if !st.Mode.IsDir() {
		return errdefs.ErrInvalidArgument.WithMessage("extraction point is not a directory")
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.Files.Wrote = o
	for a := tar.NewReader(archive); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(a)
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeReg {
			f.Files.Text[path.Join("/", p, h.Name)] = string(b)
		}
	}
}

// Export implements engine.Archives.
func (f *Engine) Export(_ context.Context, name string, w io.Writer) error {
	if _, err := f.find(name); err != nil {
		return err
	}
	return f.pack(w, "/", "")
}

// Changes implements engine.Archives.
func (f *Engine) Changes(_ context.Context, name string) ([]container.FilesystemChange, error) {
	if _, err := f.find(name); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []container.FilesystemChange
	for _, p := range slices.Sorted(maps.Keys(f.Files.Text)) {
		list = append(list, container.FilesystemChange{Kind: container.ChangeAdd, Path: p})
	}
	return list, nil
}
