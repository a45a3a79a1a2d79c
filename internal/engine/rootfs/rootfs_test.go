package rootfs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// TestRoundTrip packs one of each kind of file and unpacks it somewhere else.
func TestRoundTrip(t *testing.T) {
	j := newJail(t)
	d := filepath.Join(j.dir, "tmp", "d")
	j.must(os.Mkdir(d, 0o755))
	j.must(os.WriteFile(d+"/f", []byte("text"), 0o644))
	j.must(unix.Setxattr(d+"/f", capability, []byte("\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0))
	j.must(os.Link(d+"/f", d+"/g"))
	j.must(os.Symlink("/nowhere", d+"/l"))
	j.must(unix.Mkfifo(d+"/p", 0o600))
	j.must(unix.Mknod(d+"/n", unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	j.must(os.WriteFile(d+"/s", nil, 0o755))
	j.must(os.Chown(d+"/s", 7, 8))
	j.must(os.Chmod(d+"/s", 0o755|fs.ModeSetuid))
	for _, p := range []string{"/f", "/p", "/n", "/s", ""} {
		j.must(os.Chtimes(d+p, time.Unix(1e9, 0), time.Unix(1e9, 0)))
	}
	var b bytes.Buffer
	j.must(j.root.Pack(t.Context(), &b, "/tmp/d"))
	archive := bytes.Clone(b.Bytes())
	var names []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		j.must(err)
		names = append(names, fmt.Sprintf("%c %s %s", h.Typeflag, h.Name, h.Linkname))
	}
	want := []string{"5 d/ ", "0 d/f ", "1 d/g d/f", "2 d/l /nowhere", "3 d/n ", "6 d/p ", "0 d/s "}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Error(diff)
	}
	to, err := j.root.Folder("/etc")
	j.must(err)
	defer to.Close()
	j.must(to.Unpack(t.Context(), bytes.NewReader(archive), UnpackOptions{}))
	for _, p := range []string{"", "/f", "/g", "/l", "/p", "/n", "/s"} {
		var was, is unix.Stat_t
		j.must(unix.Lstat(d+p, &was))
		j.must(unix.Lstat(filepath.Join(j.dir, "etc", "d")+p, &is))
		if was.Mode != is.Mode || was.Uid != is.Uid || was.Gid != is.Gid || was.Size != is.Size || was.Rdev != is.Rdev || p != "/l" && was.Mtim != is.Mtim {
			t.Errorf("%s was %+v, is %+v", p, was, is)
		}
	}
	var cap [32]byte
	if n, err := unix.Getxattr(filepath.Join(j.dir, "etc", "d", "g"), capability, cap[:]); n != 20 {
		t.Errorf("capability of %d bytes, %v", n, err)
	}
	j.must(to.Unpack(t.Context(), bytes.NewReader(archive), UnpackOptions{Owner: &Owner{11, 12}}))
	for _, p := range []string{"d", "d/l", "d/s", "d/g"} {
		var is unix.Stat_t
		if err := unix.Lstat(filepath.Join(j.dir, "etc", p), &is); err != nil || is.Uid != 11 || is.Gid != 12 {
			t.Errorf("%s belongs to %d:%d, %v", p, is.Uid, is.Gid, err)
		}
	}
}

// TestNames are Docker's names in archives, by how the path is written.
func TestNames(t *testing.T) {
	j := newJail(t)
	j.link("etc", "l")
	for p, want := range map[string]string{"/etc": "etc/ etc/mark", "etc/": "etc/ etc/mark", "/etc/.": "./ ./mark", "/l": "l", "/l/": "l/ l/mark",
		"/etc/mark": "mark", "/": "/ /etc/ /etc/mark /l /tmp/"} {
		var b bytes.Buffer
		j.must(j.root.Pack(t.Context(), &b, p))
		var names []string
		for r := tar.NewReader(&b); ; {
			h, err := r.Next()
			if err != nil {
				break
			}
			names = append(names, h.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("%s: %s, want %s", p, got, want)
		}
	}
}

func TestFolder(t *testing.T) {
	j := newJail(t)
	j.link("/etc", "tmp/l")
	if f, err := j.root.Folder("tmp/l"); err != nil || f.Path != "/etc" || f.ReadOnly() {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := j.root.Folder("/etc/mark"); !errdefs.IsInvalidArgument(err) || err.Error() != "extraction point is not a directory" {
		t.Errorf("a file: %v", err)
	}
	if _, err := j.root.Folder("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing: %v", err)
	}
	keep := UnpackOptions{KeepKinds: true}
	if err := j.unpack("/", keep, regular("etc")); !errdefs.IsInvalidArgument(err) || err.Error() != `cannot overwrite directory "etc" with non-directory "/"` {
		t.Errorf("a file for a folder: %v", err)
	}
	if err := j.unpack("/etc", keep, &tar.Header{Typeflag: tar.TypeDir, Name: "mark/"}); !errdefs.IsInvalidArgument(err) || err.Error() != `cannot overwrite non-directory "mark" with directory "/etc"` {
		t.Errorf("a folder for a file: %v", err)
	}
	if err := j.unpack("/etc", keep, regular("mark"), &tar.Header{Typeflag: tar.TypeDir, Name: "new/"}, regular("new/deep/er")); err != nil {
		t.Errorf("what keeps the kinds: %v", err)
	}
}

// TestMountpoint makes places to mount on where the container's links say, and no further.
func TestMountpoint(t *testing.T) {
	j := newJail(t)
	j.link("/run", "tmp/run")
	j.link("../../outside", "tmp/out")
	j.must(os.Mkdir(filepath.Join(j.dir, "run"), 0o755))
	for _, m := range []struct {
		p      string
		folder bool
		made   string
	}{{"/a/b/c", true, "a/b/c"}, {"/a/f", false, "a/f"}, {"/tmp/run/x", true, "run/x"}, {"/etc/mark", false, "etc/mark"}} {
		f, err := j.root.Mountpoint(m.p, m.folder)
		if err != nil {
			t.Errorf("%s: %v", m.p, err)
			continue
		}
		f.Close()
		if st, err := os.Lstat(filepath.Join(j.dir, m.made)); err != nil || st.IsDir() != m.folder {
			t.Errorf("%s: %v, %v", m.p, st, err)
		}
	}
	for _, p := range []string{"/tmp/out/x", "/tmp/out"} {
		if f, err := j.root.Mountpoint(p, true); err == nil {
			f.Close()
			t.Errorf("%s was made", p)
		}
	}
	j.intact()
}

func TestCompressed(t *testing.T) {
	j := newJail(t)
	plain := pack(regular("f"))
	program := func(name string) func() ([]byte, error) {
		return func() ([]byte, error) {
			c := exec.Command(name, "-c")
			c.Stdin = bytes.NewReader(plain)
			return c.Output()
		}
	}
	for name, made := range map[string]func() ([]byte, error){
		"plain": func() ([]byte, error) { return plain, nil },
		"gzip": func() ([]byte, error) {
			var b bytes.Buffer
			w := gzip.NewWriter(&b)
			_, err := w.Write(plain)
			err = errors.Join(err, w.Close())
			return b.Bytes(), err
		},
		"zstd": func() ([]byte, error) {
			w, err := zstd.NewWriter(nil)
			return w.EncodeAll(plain, nil), err
		},
		"bzip2": program("bzip2"),
		"xz":    program("xz"),
	} {
		b, err := made()
		if errors.Is(err, exec.ErrNotFound) {
			t.Logf("%s is not installed: not tried", name)
			continue
		}
		j.must(err)
		to, err := j.root.Folder("/tmp")
		j.must(err)
		if err := to.Unpack(t.Context(), bytes.NewReader(b), UnpackOptions{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		to.Close()
		if err := os.Remove(filepath.Join(j.dir, "tmp", "f")); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestChanges compares folders as an overlay leaves them.
func TestChanges(t *testing.T) {
	j := newJail(t)
	mk := func(layer string) func(string, string) {
		return func(p, what string) {
			t.Helper()
			at := filepath.Join(j.dir, layer, p)
			j.must(os.MkdirAll(filepath.Dir(at), 0o755))
			switch what {
			case "folder":
				j.must(os.MkdirAll(at, 0o755))
			case "opaque":
				j.must(os.MkdirAll(at, 0o755))
				j.must(unix.Setxattr(at, "trusted.overlay.opaque", []byte("y"), 0))
			case "whiteout":
				j.must(unix.Mknod(at, unix.S_IFCHR, 0))
			default:
				j.must(os.WriteFile(at, []byte(what), 0o644))
				j.must(os.Chtimes(at, time.Unix(int64(len(what)), 0), time.Unix(int64(len(what)), 0)))
			}
		}
	}
	low, mid, up := mk("low"), mk("mid"), mk("up")
	low("a/same", "x")
	low("a/kept", "x")
	low("b/gone", "x")
	low("c/one", "x")
	low("c/two", "x")
	low("d/hidden", "x")
	mid("d", "whiteout")
	low("e/old", "x")
	mid("e", "opaque")
	mid("e/young", "x")
	low("kind", "x")
	low("tree/x/y", "x")
	up("a/same", "x") // copied up and put back
	up("a", "folder")
	up("b/gone", "whiteout")
	up("c", "opaque")
	up("c/two", "xx")
	up("c/three", "x")
	up("d/new", "x")
	up("e/old", "x")
	up("e/young", "whiteout")
	up("kind/inside", "x")
	up("tree", "whiteout")
	up("never", "whiteout")
	up("proc", "folder")
	up("etc/hosts", "")
	up("etc/hostname", "written")
	up("new/deep/er", "x")
	l := Layers{Upper: j.dir + "/up", Lower: []string{j.dir + "/mid", j.dir + "/low"}, Hidden: []string{"/proc", "/etc/hosts", "/etc/hostname"}}
	list, err := l.Changes(t.Context())
	j.must(err)
	var got []string
	for _, c := range list {
		got = append(got, fmt.Sprint(c.Kind, " ", c.Path))
	}
	want := []string{"C /b", "D /b/gone", "C /c", "D /c/one", "A /c/three", "C /c/two", "A /d", "A /d/new", "C /e", "A /e/old", "D /e/young",
		"A /etc", "A /etc/hostname", "C /kind", "A /kind/inside", "A /new", "A /new/deep", "A /new/deep/er", "D /tree"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	var b bytes.Buffer
	j.must(l.Archive(t.Context(), &b, list))
	var names []string
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err != nil {
			break
		}
		names = append(names, h.Name)
	}
	wantNames := []string{"b/", "b/.wh.gone", "c/", "c/.wh.one", "c/three", "c/two", "d/", "d/new", "e/", "e/old", "e/.wh.young",
		"etc/", "etc/hostname", "kind/", "kind/inside", "new/", "new/deep/", "new/deep/er", ".wh.tree"}
	if diff := cmp.Diff(wantNames, names); diff != "" {
		t.Error(diff)
	}
}
