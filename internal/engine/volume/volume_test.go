package volume

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
	"github.com/moby/moby/api/types/volume"
)

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := Open(dir, func(string, string, map[string]string) {})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	v, err := s.Create(t.Context(), volume.CreateRequest{Name: "data", Labels: map[string]string{"a": "b"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(v.Mountpoint, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	// What a daemon that died leaves: a volume half made, one half removed, a copy half done, and somebody's folder.
	for _, left := range []string{".new-1/_data", ".gone-1/v/_data", ".copy-1/_data", "foreign"} {
		if err := os.MkdirAll(filepath.Join(dir, left), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, dir)
	got, err := s.Inspect(t.Context(), "data")
	if d := cmp.Diff(v, got); err != nil || d != "" {
		t.Errorf("%v\n%s", err, d)
	}
	if list, err := s.List(t.Context(), nil); err != nil || len(list) != 1 {
		t.Errorf("%+v, %v", list, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".*-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
	points := []container.MountPoint{{Type: mount.TypeVolume, Name: "data"}}
	s.Hold("c1", points, true)
	if err := s.Remove(t.Context(), "data", true); !errdefs.IsConflict(err) || err.Error() != "remove data: volume is in use - [c1]" {
		t.Error(err)
	}
	if err := s.Release(t.Context(), "c1", points, true); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(t.Context(), "data", false); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); !errors.Is(err, os.ErrNotExist) {
		t.Error("the files are still there")
	}
	if err := os.MkdirAll(filepath.Join(dir, "torn"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "torn", recordName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), "torn") {
		t.Errorf("a record that cannot be read: %v", err)
	}
}

// TestSourceStaysInside: a container that owns a volume leads no mount of it elsewhere.
func TestSourceStaysInside(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	dir, at := t.TempDir(), filepath.Join(t.TempDir(), "m", "0")
	for name, target := range map[string]string{"up": "..", "abs": "/etc", "deep": "sub/../../.."} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "sub", "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"up", "abs", "deep", "missing", "../x", "/etc"} {
		if closed, err := Source(dir, sub, at); err == nil {
			t.Errorf("%s was mounted: %v", sub, closed())
		}
	}
	for _, sub := range []string{"sub", "sub/f"} {
		closed, err := Source(dir, sub, at)
		if err != nil {
			t.Fatal(err)
		}
		if sub == "sub" {
			if b, err := os.ReadFile(filepath.Join(at, "f")); err != nil || string(b) != "x" {
				t.Errorf("%q, %v", b, err)
			}
		}
		if err := closed(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(at); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", at)
		}
	}
}

func TestFillIsAllOrNothing(t *testing.T) {
	s := open(t, t.TempDir())
	src := t.TempDir()
	if err := os.Mkdir(filepath.Join(src, "d"), 0o751); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Chmod(src, os.ModeSticky|0o777), os.WriteFile(filepath.Join(src, "d", "f"), []byte("x"), 0o640), os.Symlink("d/f", filepath.Join(src, "l"))); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		before   func(e *entry)
		populate bool
	}{
		{"empty", func(*entry) {}, true},
		{"full", func(e *entry) { _ = os.WriteFile(filepath.Join(s.data(e.Name), "own"), nil, 0o600) }, false},
		{"of others", func(e *entry) { e.holds["a"], e.holds["b"] = true, true }, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			e, err := s.claim(t.Context(), volume.CreateRequest{}, "")
			if err != nil {
				t.Fatal(err)
			}
			test.before(e)
			if err := s.fill(e, src); err != nil {
				t.Fatal(err)
			}
			st, err := os.Stat(s.data(e.Name))
			if err != nil {
				t.Fatal(err)
			}
			link, _ := os.Readlink(filepath.Join(s.data(e.Name), "l"))
			if got := link == "d/f" && st.Mode()&os.ModeSticky != 0 && st.Mode().Perm() == 0o777; got != test.populate {
				t.Errorf("populated: %v, mode %v, link %q", got, st.Mode(), link)
			}
			if left, _ := filepath.Glob(filepath.Join(s.dir, ".copy-*")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func FuzzParseBind(f *testing.F) {
	for _, s := range []string{"/a:/b", "/a:/b:ro,rshared", "ab:/b", "a:/b", "/a:/", ":", "/a:/b:x", "data:/x:nocopy,ro", "../x:/y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		m, err := parseBind(s)
		if err != nil {
			return
		}
		if !path.IsAbs(m.Destination) || m.Destination == "/" {
			t.Errorf("%q became %+v", s, m)
		}
		if m.Type == mount.TypeBind && !path.IsAbs(m.Source) || m.Type == mount.TypeVolume && (m.Source != "" || strings.ContainsAny(m.Name, "/\x00") || strings.HasPrefix(m.Name, ".")) {
			t.Errorf("%q became %+v", s, m)
		}
	})
}
