package images

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// program writes a file that stands for a binary.
func program(t *testing.T, content string) string {
	t.Helper()
	f := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(f, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return f
}

func digest(t *testing.T, i Image) string {
	t.Helper()
	d, err := i.Image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return d.String()
}

// fakeBusybox lists applets as busybox does.
const fakeBusybox = "#!/bin/sh\necho '[\nbusybox\nls\nsh'\n"

func TestReproducible(t *testing.T) {
	tests := []struct {
		name string
		make func(content string) (Image, error)
	}{
		{"hello:1", func(c string) (Image, error) { return Hello("1", program(t, c)) }},
		{"busybox:latest", func(c string) (Image, error) { return Busybox(program(t, c)) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a, err := tt.make(fakeBusybox)
			if err != nil {
				t.Fatal(err)
			}
			b, err := tt.make(fakeBusybox)
			if err != nil {
				t.Fatal(err)
			}
			c, err := tt.make(fakeBusybox + "# changed\n")
			if err != nil {
				t.Fatal(err)
			}
			if a.Name != tt.name {
				t.Errorf("name %q", a.Name)
			}
			if digest(t, a) != digest(t, b) {
				t.Error("the same program made two digests")
			}
			if digest(t, a) == digest(t, c) {
				t.Error("another program made the same digest")
			}
		})
	}
}

// TestLayout sees that what Write writes, Read reads, and that the tar stream of a layout holds its parts.
func TestLayout(t *testing.T) {
	dir := t.TempDir()
	want := map[string]string{}
	for _, v := range []string{"1", "2", "1"} { // the last in place of the first
		i, err := Hello(v, program(t, "version "+v))
		if err != nil {
			t.Fatal(err)
		}
		if err := Write(dir, i); err != nil {
			t.Fatal(err)
		}
		want[i.Name] = digest(t, i)
	}
	all, err := Read(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != len(want) {
		t.Errorf("%d images, want %d", len(all), len(want))
	}
	for _, i := range all {
		if want[i.Name] != digest(t, i) {
			t.Errorf("%s has digest %s, want %q", i.Name, digest(t, i), want[i.Name])
		}
	}
	var buf bytes.Buffer
	if err := Tar(&buf, filepath.Join(dir, "hello-1")); err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = true
	}
	for _, f := range []string{"oci-layout", "index.json"} {
		if !found[f] {
			t.Errorf("no %s in the tar stream", f)
		}
	}
	if _, err := Read(t.TempDir()); err == nil {
		t.Error("an empty folder has images")
	}
}
