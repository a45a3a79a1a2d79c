package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// jail is a container's root beside files that are none of its business.
type jail struct {
	*testing.T
	root    *Root
	dir     string // the root
	outside string // a folder beside it, with the file secret
}

const secret = "the host's"

func newJail(t *testing.T) *jail {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("owners and devices need root")
	}
	top := t.TempDir()
	j := &jail{T: t, dir: filepath.Join(top, "root"), outside: filepath.Join(top, "outside")}
	for _, dir := range []string{j.dir, j.outside, filepath.Join(j.dir, "etc"), filepath.Join(j.dir, "tmp")} {
		j.must(os.Mkdir(dir, 0o755))
	}
	j.must(os.WriteFile(filepath.Join(j.outside, "secret"), []byte(secret), 0o600))
	j.must(os.WriteFile(filepath.Join(j.dir, "etc", "mark"), []byte("inside"), 0o644))
	f, err := os.Open(j.dir)
	j.must(err)
	j.root = New(f)
	t.Cleanup(func() { j.root.Close() })
	return j
}

func (j *jail) must(err error) {
	j.Helper()
	if err != nil {
		j.Fatal(err)
	}
}

func (j *jail) link(to, name string) { j.Helper(); j.must(os.Symlink(to, filepath.Join(j.dir, name))) }

// intact fails if anything outside has changed.
func (j *jail) intact() {
	j.Helper()
	list, err := os.ReadDir(j.outside)
	j.must(err)
	b, err := os.ReadFile(filepath.Join(j.outside, "secret"))
	st, serr := os.Stat(filepath.Join(j.outside, "secret"))
	dir, derr := os.Stat(j.outside)
	if err := errors.Join(err, serr, derr); err != nil || st.Sys().(*syscall.Stat_t).Nlink != 1 || len(list) != 1 || string(b) != secret || st.Mode().Perm() != 0o600 || dir.Mode().Perm() != 0o755 {
		j.Errorf("outside has changed: %v, %q, %v", list, b, err)
	}
	if list, err := os.ReadDir(filepath.Dir(j.dir)); err != nil || len(list) != 2 {
		j.Errorf("beside the root is %v, %v", list, err)
	}
}

func (j *jail) unpack(to string, o UnpackOptions, headers ...*tar.Header) error {
	j.Helper()
	f, err := j.root.Folder(to)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Unpack(j.Context(), bytes.NewReader(pack(headers...)), o)
}

// pack makes an archive; every plain file's text is "new".
func pack(headers ...*tar.Header) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		n := *h
		if n.Mode == 0 {
			n.Mode = 0o777
		}
		text := ""
		if n.Typeflag == tar.TypeReg {
			text = "new"
		}
		n.Size = int64(len(text))
		if err := w.WriteHeader(&n); err != nil {
			panic(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			panic(err)
		}
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func regular(name string) *tar.Header { return &tar.Header{Typeflag: tar.TypeReg, Name: name} }

// TestReadEscapes asks for the secret in every way that a path and a container's own links give.
func TestReadEscapes(t *testing.T) {
	j := newJail(t)
	j.link(filepath.Join(j.outside, "secret"), "absolute")
	j.link("../outside/secret", "relative")
	j.link("../../../../../../.."+j.outside+"/secret", "far")
	j.link(j.outside, "folder")
	j.link("tmp/../../outside", "tmp/up")
	j.link("folder", "twice")
	j.must(os.Link(filepath.Join(j.outside, "secret"), filepath.Join(j.dir, "hard"))) // inside by right
	for _, p := range []string{"absolute", "relative", "far", "folder/secret", "tmp/up/secret", "twice/secret", "../outside/secret",
		"/../outside/secret", "tmp/../../outside/secret", "tmp/up/../secret", j.outside + "/secret"} {
		if b, err := j.root.ReadFile(p, 100); err == nil {
			t.Errorf("%s was read: %q", p, b)
		}
		for _, asked := range []string{p, p + "/", p + "/."} {
			var b bytes.Buffer
			if err := j.root.Pack(t.Context(), &b, asked); err == nil && strings.Contains(b.String(), secret) {
				t.Errorf("%s was packed", asked)
			}
			if st, err := j.root.Stat(asked); err == nil && st.Mode.IsRegular() {
				t.Errorf("%s was looked at: %+v", asked, st)
			}
			if f, err := j.root.Folder(filepath.Dir(asked)); err == nil {
				if f.Path != "/" && f.Path != "/tmp" {
					t.Errorf("%s is the folder %s", asked, f.Path)
				}
				f.Close()
			}
		}
	}
	var all bytes.Buffer
	j.must(os.Remove(filepath.Join(j.dir, "hard")))
	if err := j.root.Export(t.Context(), &all); err != nil || strings.Contains(all.String(), secret) {
		t.Errorf("the export holds the secret, or %v", err)
	}
}

// TestLinkTargets is what a client follows itself.
func TestLinkTargets(t *testing.T) {
	j := newJail(t)
	for _, l := range [][2]string{{"/etc", "a"}, {"../../../etc/mark", "b"}, {"a/mark", "c"}, {"/missing/x", "d"}, {"d", "e"}, {"f", "f"}} {
		j.link(l[0], l[1])
	}
	for name, want := range map[string]string{"a": "/etc", "b": "/etc/mark", "c": "/etc/mark", "d": "/missing/x", "e": "/missing/x"} {
		if st, err := j.root.Stat(name); err != nil || st.LinkTarget != want || st.Mode&os.ModeSymlink == 0 || st.Name != name {
			t.Errorf("%s: %+v, %v; want %s", name, st, err, want)
		}
	}
	if st, err := j.root.Stat("a/"); err != nil || !st.Mode.IsDir() || st.Name != "a" {
		t.Errorf("a/: %+v, %v", st, err)
	}
	if _, err := j.root.Stat("f/"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a link to itself: %v", err)
	}
}

// TestMagicLinks are the links of /proc that lead to another process's root or file without any path.
func TestMagicLinks(t *testing.T) {
	host, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	root := New(host)
	defer root.Close()
	for _, p := range []string{"/proc/self/root/etc", "/proc/self/cwd", "/proc/self/exe", "/proc/self/fd/0", "/proc/version", "/proc", "/proc/self", "/sys/kernel", "/proc/thread-self/root/"} {
		if st, err := root.Stat(p); err == nil {
			t.Errorf("%s was looked at: %+v", p, st)
		}
		if _, err := root.ReadFile(p, 1<<30); err == nil {
			t.Errorf("%s was read", p)
		}
		if f, err := root.Folder(p); err == nil {
			f.Close()
			t.Errorf("%s was opened to write to", p)
		}
	}
}

// TestWriteEscapes unpacks archives that mean to write outside, over what a container has put there for them.
func TestWriteEscapes(t *testing.T) {
	up := func(typ byte, name, to string) *tar.Header {
		return &tar.Header{Typeflag: typ, Name: name, Linkname: to}
	}
	for _, test := range []struct {
		name    string
		before  func(*jail)
		archive func(*jail) []*tar.Header
		refused string // part of the words; "" if it goes well
		inside  string // a plain file with the new text afterwards
	}{
		{"dots", nil, func(*jail) []*tar.Header { return []*tar.Header{regular("../outside/secret")} }, `invalid entry name "../outside/secret"`, ""},
		{"dots behind a slash", nil, func(*jail) []*tar.Header { return []*tar.Header{regular("/../outside/new")} }, "invalid entry name", ""},
		{"dots in the middle", nil, func(*jail) []*tar.Header { return []*tar.Header{regular("tmp/../../outside/new")} }, "invalid entry name", ""},
		{"an absolute name", nil, func(j *jail) []*tar.Header { return []*tar.Header{regular(j.outside + "/secret")} }, "", "HERE/secret"},
		{"an absolute link", func(j *jail) { j.link(j.outside, "l") }, func(*jail) []*tar.Header { return []*tar.Header{regular("l/secret")} }, "no such file", ""},
		{"a link that dangles inside", func(j *jail) { j.link(j.outside, "l"); j.must(os.MkdirAll(filepath.Join(j.dir, j.outside), 0o755)) },
			func(*jail) []*tar.Header { return []*tar.Header{regular("l/secret")} }, "", "HERE/secret"},
		{"a relative link", func(j *jail) { j.link("../outside", "l") }, func(*jail) []*tar.Header { return []*tar.Header{regular("l/new")} }, "no such file", ""},
		{"a link of the archive's", nil, func(j *jail) []*tar.Header {
			return []*tar.Header{up(tar.TypeSymlink, "l", "../outside"), regular("l/secret")}
		}, "no such file", ""},
		{"an absolute link of the archive's", nil, func(j *jail) []*tar.Header {
			return []*tar.Header{up(tar.TypeSymlink, "l", j.outside), {Typeflag: tar.TypeDir, Name: "l/"}, regular("l/new")}
		}, "", "l/new"},
		{"a link in the file's place", func(j *jail) { j.link("../outside/secret", "f") }, func(*jail) []*tar.Header { return []*tar.Header{regular("f")} }, "", "f"},
		{"a link in a folder's place", func(j *jail) { j.link("../outside", "d") }, func(*jail) []*tar.Header {
			return []*tar.Header{{Typeflag: tar.TypeDir, Name: "d/", Mode: 0o777}, regular("d/new")}
		}, "", "d/new"},
		{"a folder that holds a link, replaced", func(j *jail) { j.must(os.Mkdir(j.dir+"/d", 0o755)); j.link("../../outside", "d/l") },
			func(*jail) []*tar.Header { return []*tar.Header{regular("d")} }, "", "d"},
		{"another name of a file outside", func(j *jail) { j.must(os.Link(j.outside+"/secret", j.dir+"/f")) }, func(*jail) []*tar.Header { return []*tar.Header{regular("f")} }, "", "f"},
		{"a hard link by dots", nil, func(*jail) []*tar.Header {
			return []*tar.Header{up(tar.TypeLink, "h", "../outside/secret")}
		}, `invalid hardlink target "../outside/secret"`, ""},
		{"a hard link by an absolute name", nil, func(j *jail) []*tar.Header {
			return []*tar.Header{up(tar.TypeLink, "h", j.outside+"/secret"), regular("h")}
		}, "no such file", ""},
		{"a hard link through a link", func(j *jail) { j.link("../outside", "l") }, func(*jail) []*tar.Header {
			return []*tar.Header{up(tar.TypeLink, "h", "l/secret")}
		}, "no such file", ""},
		{"a hard link to a link", func(j *jail) { j.link("../outside/secret", "l") }, func(*jail) []*tar.Header {
			return []*tar.Header{up(tar.TypeLink, "h", "l"), regular("h")}
		}, "", "h"},
		{"a pipe in the file's place", func(j *jail) { j.must(unix.Mkfifo(j.dir+"/f", 0o600)) }, func(*jail) []*tar.Header { return []*tar.Header{regular("f")} }, "", "f"},
		{"a device in the file's place", func(j *jail) { j.must(unix.Mknod(j.dir+"/f", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))) },
			func(*jail) []*tar.Header { return []*tar.Header{regular("f")} }, "", "f"},
		{"a device of the archive's, written to", nil, func(*jail) []*tar.Header {
			return []*tar.Header{{Typeflag: tar.TypeBlock, Name: "f", Devmajor: 7, Devminor: 250}, regular("f")}
		}, "", "f"},
		{"a link with a mode", nil, func(*jail) []*tar.Header {
			return []*tar.Header{{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../outside", Mode: 0o777, Uid: 7, ModTime: time.Unix(5, 0)}}
		}, "", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			j := newJail(t)
			if test.before != nil {
				test.before(j)
			}
			err := j.unpack("/", UnpackOptions{}, test.archive(j)...)
			if test.refused == "" && err != nil || test.refused != "" && (err == nil || !strings.Contains(err.Error(), test.refused)) {
				t.Errorf("error %v, want %q", err, test.refused)
			}
			j.intact()
			if test.inside != "" {
				p := filepath.Join(j.dir, strings.Replace(test.inside, "HERE", j.outside, 1))
				st, err := os.Lstat(p)
				if err != nil || !st.Mode().IsRegular() {
					t.Fatalf("%s: %v, %v", test.inside, st, err)
				}
				if b, err := os.ReadFile(p); string(b) != "new" {
					t.Errorf("%s: %q, %v", test.inside, b, err)
				}
			}
		})
	}
}

// TestWriteStaysInFolder: the archive's root is the folder, not the container's.
func TestWriteStaysInFolder(t *testing.T) {
	j := newJail(t)
	j.link("../etc", "tmp/rel")
	for _, h := range []*tar.Header{regular("../etc/mark"), regular("rel/mark"), {Typeflag: tar.TypeLink, Name: "h", Linkname: "../etc/mark"}, {Typeflag: tar.TypeLink, Name: "h", Linkname: "rel/mark"}} {
		if err := j.unpack("/tmp", UnpackOptions{}, h); err == nil {
			t.Errorf("%s, %s: unpacked", h.Name, h.Linkname)
		}
	}
	if b, err := j.root.ReadFile("/etc/mark", 10); string(b) != "inside" {
		t.Errorf("%q, %v", b, err)
	}
}

// swap exchanges a folder and a link to the outside as fast as it can until the test ends (CVE-2018-15664).
func (j *jail) swap() {
	j.Helper()
	a, b := filepath.Join(j.dir, "x"), filepath.Join(j.dir, "y")
	j.must(os.Mkdir(a, 0o755))
	j.must(os.WriteFile(filepath.Join(a, "secret"), []byte("inside"), 0o644))
	j.link("../outside", "y")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE)
			}
		}
	}()
	j.Cleanup(func() { close(stop); <-done })
}

const races = 3000

func TestReadRace(t *testing.T) {
	j := newJail(t)
	j.swap()
	inside := 0
	for range races {
		if b, err := j.root.ReadFile("/x/secret", 100); err == nil {
			if inside++; string(b) != "inside" {
				t.Fatalf("read %q", b)
			}
		}
		for _, p := range []string{"/x", "/x/", "/x/secret"} {
			var b bytes.Buffer
			_ = j.root.Pack(t.Context(), &b, p)
			if strings.Contains(b.String(), secret) {
				t.Fatalf("packed %s", p)
			}
		}
		var b bytes.Buffer
		if _ = j.root.Export(t.Context(), &b); strings.Contains(b.String(), secret) {
			t.Fatal("exported")
		}
	}
	if inside == 0 {
		t.Error("the race was never won by the folder: nothing was tried")
	}
}

// TestWriteOverLink: a link that comes back as fast as it is removed is not written through.
func TestWriteOverLink(t *testing.T) {
	j := newJail(t)
	stop, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() { close(stop); <-done })
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				_ = os.Symlink("../outside/secret", filepath.Join(j.dir, "tmp", "l"))
				_ = os.Rename(filepath.Join(j.dir, "tmp", "l"), filepath.Join(j.dir, "f"))
			}
		}
	}()
	for range races {
		_ = j.unpack("/", UnpackOptions{}, regular("f"))
	}
	j.intact()
}

func TestWriteRace(t *testing.T) {
	j := newJail(t)
	j.swap()
	good := 0
	for range races {
		if err := j.unpack("/", UnpackOptions{}, regular("x/secret"), regular("x/new"), &tar.Header{Typeflag: tar.TypeFifo, Name: "x/pipe"}); err == nil {
			good++
		}
		_ = j.unpack("/x", UnpackOptions{}, regular("secret"), regular("sub/new"))
	}
	j.intact()
	if good == 0 {
		t.Error("the race was never won by the folder: nothing was tried")
	}
}

// TestDepth: a container that nests folders without end costs an error, not all descriptors.
func TestDepth(t *testing.T) {
	j := newJail(t)
	fd, err := unix.Open(j.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	j.must(err)
	for range maxDepth + 5 {
		j.must(unix.Mkdirat(fd, "d", 0o755))
		next, err := unix.Openat(fd, "d", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		unix.Close(fd)
		j.must(err)
		fd = next
	}
	unix.Close(fd)
	if err := j.root.Export(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "folders deep") {
		t.Errorf("export: %v", err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(pack(regular("a"), &tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "../outside"}, regular("l/secret")))
	f.Add(pack(&tar.Header{Typeflag: tar.TypeLink, Name: "h", Linkname: "etc/mark"}, regular("../x")))
	f.Add([]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"))
	f.Add([]byte("BZh91AY&SY"))
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, archive []byte) {
		j := newJail(t)
		to, err := j.root.Folder("/tmp")
		j.must(err)
		defer to.Close()
		_ = to.Unpack(t.Context(), bytes.NewReader(archive), UnpackOptions{})
		j.intact()
		if b, err := os.ReadFile(filepath.Join(j.dir, "etc", "mark")); err != nil || string(b) != "inside" {
			t.Errorf("%q, %v", b, err)
		}
	})
}
