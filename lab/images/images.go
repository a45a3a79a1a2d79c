// Package images makes the images that the lab's registry serves, without a registry and without Docker: a web server
// of ours and a shell from the distribution's static busybox, as OCI layouts.
//
// It decides what is in an image and makes it reproducibly: equal programs give equal digests. It never runs one.
package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// epoch is the time of everything in an image, so that its digest depends on its content only: 2026-01-01.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Names of the annotations by which an importer names an image of a layout: the OCI image specification's, and
// containerd's, which holds the full name.
const (
	annotationRef  = "org.opencontainers.image.ref.name"
	annotationName = "io.containerd.image.name"
)

// Image is an image with the name by which Docker users know it, such as "hello:1".
type Image struct {
	Name  string
	Image v1.Image
}

// Hello makes an image of the program hello in the given version.
func Hello(version, program string) (Image, error) {
	bin, err := os.ReadFile(program)
	if err != nil {
		return Image{}, err
	}
	img, err := build([]entry{
		dir("etc"), file("etc/passwd", 0o644, []byte("root:x:0:0:root:/:/hello\nnobody:x:65534:65534:nobody:/:/hello\n")),
		dir("tmp", 0o1777), file("hello", 0o755, bin),
	}, v1.Config{
		Entrypoint:   []string{"/hello"},
		ExposedPorts: map[string]struct{}{"80/tcp": {}, "80/udp": {}},
		Env:          []string{"PATH=/"},
		Labels:       map[string]string{"org.opencontainers.image.version": version},
	})
	return Image{Name: "hello:" + version, Image: img}, err
}

// Busybox makes an image of a static busybox with a link for each of its applets.
func Busybox(program string) (Image, error) {
	bin, err := os.ReadFile(program)
	if err != nil {
		return Image{}, fmt.Errorf("%w (the package busybox-static brings it)", err)
	}
	applets, err := exec.Command(program, "--list").Output()
	if err != nil {
		return Image{}, fmt.Errorf("%s --list: %w", program, err)
	}
	entries := []entry{
		dir("bin"), file("bin/busybox", 0o755, bin),
		dir("dev"), dir("etc"),
		file("etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n")),
		file("etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")),
		dir("proc"), dir("root", 0o700), dir("sys"), dir("tmp", 0o1777), dir("usr"), link("usr/bin", "../bin"),
		dir("var"), dir("var/tmp", 0o1777),
	}
	for a := range strings.FieldsSeq(string(applets)) {
		if a != "busybox" {
			entries = append(entries, link("bin/"+filepath.Base(a), "busybox"))
		}
	}
	img, err := build(entries, v1.Config{
		Cmd: []string{"sh"},
		Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	})
	return Image{Name: "busybox:latest", Image: img}, err
}

// entry is one file of a layer.
type entry struct {
	header tar.Header
	data   []byte
}

func dir(name string, mode ...int64) entry {
	m := int64(0o755)
	if len(mode) > 0 {
		m = mode[0]
	}
	return entry{header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: m}}
}

func file(name string, mode int64, data []byte) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(data))}, data: data}
}

func link(name, target string) entry {
	return entry{header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// build makes an image of one layer for this machine's platform.
func build(entries []entry, config v1.Config) (v1.Image, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		e.header.ModTime, e.header.Format = epoch, tar.FormatPAX
		if err := w.WriteHeader(&e.header); err != nil {
			return nil, fmt.Errorf("%s: %w", e.header.Name, err)
		}
		if _, err := w.Write(e.data); err != nil {
			return nil, fmt.Errorf("%s: %w", e.header.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{
		Created: v1.Time{Time: epoch}, CreatedBy: "shoal lab images"}})
	if err != nil {
		return nil, err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cf = cf.DeepCopy()
	cf.Created, cf.Config = v1.Time{Time: epoch}, config
	cf.OS, cf.Architecture = "linux", runtime.GOARCH
	return mutate.ConfigFile(img, cf)
}

// Write writes an image as an OCI layout into a folder of its own below dir, "hello-1" for hello:1, in place of what
// was there.
func Write(dir string, i Image) error {
	full, err := fullName(i.Name)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	final := filepath.Join(dir, strings.ReplaceAll(i.Name, ":", "-"))
	tmp, err := os.MkdirTemp(dir, ".new-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	p, err := layout.Write(tmp, empty.Index)
	if err != nil {
		return err
	}
	err = p.AppendImage(i.Image, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}),
		layout.WithAnnotations(map[string]string{annotationRef: full.TagStr(), annotationName: full.Name()}))
	if err != nil {
		return err
	}
	if err := os.RemoveAll(final); err != nil {
		return err
	}
	return os.Rename(tmp, final)
}

// Read reads the images that Write wrote into dir.
func Read(dir string) ([]Image, error) {
	indexes, err := filepath.Glob(filepath.Join(dir, "*", "index.json"))
	if err != nil {
		return nil, err
	}
	if len(indexes) == 0 {
		return nil, fmt.Errorf("no images in %s: make images makes them", dir)
	}
	var images []Image
	for _, f := range indexes {
		idx, err := layout.ImageIndexFromPath(filepath.Dir(f))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		m, err := idx.IndexManifest()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f, err)
		}
		for _, d := range m.Manifests {
			full, err := fullName(d.Annotations[annotationName])
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			img, err := idx.Image(d.Digest)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f, err)
			}
			familiar := strings.TrimPrefix(full.RepositoryStr(), "library/") + ":" + full.TagStr()
			images = append(images, Image{Name: familiar, Image: img})
		}
	}
	return images, nil
}

// Tar writes the layout of an image in dir as a tar stream, as `image load` takes it.
func Tar(w io.Writer, dir string) error {
	t := tar.NewWriter(w)
	if err := t.AddFS(os.DirFS(dir)); err != nil {
		return err
	}
	return t.Close()
}

// fullName resolves a familiar name as Docker does: hello:1 is docker.io/library/hello:1.
func fullName(familiar string) (named, error) {
	t, err := name.NewTag(familiar)
	return named{t}, err
}

type named struct{ name.Tag }

// Name is the full name with Docker's own name for its registry.
func (n named) Name() string {
	return strings.Replace(n.Tag.Name(), name.DefaultRegistry, "docker.io", 1)
}
