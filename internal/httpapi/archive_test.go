package httpapi_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/httpapi/apitest"
)

// oneFile is an archive of one file.
func oneFile(t *testing.T, name, text string) io.Reader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(text))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}

func firstFile(t *testing.T, r io.Reader) string {
	t.Helper()
	a := tar.NewReader(r)
	h, err := a.Next()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(a)
	if err != nil {
		t.Fatal(err)
	}
	return h.Name + "=" + string(b)
}

func TestClientFiles(t *testing.T) {
	e := apitest.NewEngine()
	c, ctx := dial(t, handler(e, apitest.NewSwarm()))
	if _, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "a", Config: &container.Config{Image: "hello:1"}}); err != nil {
		t.Fatal(err)
	}
	if d, err := c.ContainerDiff(ctx, "a", client.ContainerDiffOptions{}); err != nil || len(d.Changes) != 0 {
		t.Errorf("diff %+v, %v", d, err)
	}
	for _, o := range []client.CopyToContainerOptions{{CopyUIDGID: true}, {AllowOverwriteDirWithFile: true}} {
		o.DestinationPath, o.Content = "/tmp", oneFile(t, "f", "text")
		if _, err := c.CopyToContainer(ctx, "a", o); err != nil {
			t.Fatal(err)
		}
		if want := (engine.WriteOptions{OwnerUser: o.CopyUIDGID, KeepKinds: !o.AllowOverwriteDirWithFile}); e.Files.Wrote != want {
			t.Errorf("the engine got %+v, want %+v", e.Files.Wrote, want)
		}
	}
	st, err := c.ContainerStatPath(ctx, "a", client.ContainerStatPathOptions{Path: "/tmp/f"})
	if err != nil || st.Stat.Name != "f" || st.Stat.Size != 4 || st.Stat.Mode != 0o644 {
		t.Errorf("stat %+v, %v", st, err)
	}
	from, err := c.CopyFromContainer(ctx, "a", client.CopyFromContainerOptions{SourcePath: "/tmp/f"})
	if err != nil {
		t.Fatal(err)
	}
	defer from.Content.Close()
	if got := firstFile(t, from.Content); got != "f=text" || from.Stat.Size != 4 {
		t.Errorf("%s, %+v", got, from.Stat)
	}
	all, err := c.ContainerExport(ctx, "a", client.ContainerExportOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	if got := firstFile(t, all); got != "/tmp/f=text" {
		t.Error(got)
	}
	d, err := c.ContainerDiff(ctx, "a", client.ContainerDiffOptions{})
	if diff := cmp.Diff([]container.FilesystemChange{{Kind: container.ChangeAdd, Path: "/tmp/f"}}, d.Changes); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if _, err := c.ContainerStatPath(ctx, "a", client.ContainerStatPathOptions{Path: "/no"}); !errdefs.IsNotFound(err) {
		t.Errorf("stat of nothing: %v", err)
	}
	if _, err := c.CopyFromContainer(ctx, "a", client.CopyFromContainerOptions{SourcePath: "/no"}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "Could not find the file /no in container a") {
		t.Errorf("copy of nothing: %v", err)
	}
}

func TestArchive(t *testing.T) {
	e := apitest.NewEngine()
	h := handler(e, apitest.NewSwarm())
	if w := ask(t, h, "POST", "/containers/create?name=a", js, `{"Image":"hello:1"}`); w.Code != 201 {
		t.Fatal(w.Body)
	}
	e.Files.Text["/tmp/f"] = "text"
	for _, c := range []struct {
		name, method, path string
		status             int
		message            string
	}{
		{"no path", "HEAD", "/containers/a/archive", 400, ""},
		{"no path to read", "GET", "/containers/a/archive", 400, "bad parameter: path cannot be empty"},
		{"no path to write to", "PUT", "/containers/a/archive?path=", 400, "bad parameter: path cannot be empty"},
		{"no name", "GET", "/containers//archive?path=/", 400, "bad parameter: name cannot be empty"},
		{"an unknown container", "GET", "/containers/b/archive?path=/", 404, "No such container: b"},
		{"an unknown container, changes", "GET", "/containers/b/changes", 404, "No such container: b"},
		{"an unknown container, export", "GET", "/containers/b/export", 404, "No such container: b"},
		{"an unknown file", "HEAD", "/containers/a/archive?path=/x", 404, ""},
		{"an unknown file to read", "GET", "/containers/a/archive?path=/x", 404, "Could not find the file /x in container a"},
		{"a file to write to", "PUT", "/containers/a/archive?path=/tmp/f", 400, "extraction point is not a directory"},
		{"the old way", "POST", "/containers/a/copy", 501, "copying from a container is not supported"},
	} {
		w := ask(t, h, c.method, c.path, "", "")
		if w.Code != c.status || !strings.HasPrefix(w.Body.String(), `{"message":"`+c.message) && c.message != "" {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
	w := ask(t, h, "HEAD", "/containers/a/archive?path=/tmp/f", "", "")
	b, err := base64.StdEncoding.DecodeString(w.Header().Get("X-Docker-Container-Path-Stat"))
	if err != nil || w.Code != 200 || !strings.Contains(string(b), `"name":"f","size":4,"mode":420`) {
		t.Errorf("%d %s, %v", w.Code, b, err)
	}
	for accept, want := range map[string]string{"": "", "gzip": "gzip", "deflate, gzip;q=1.0": "gzip", "gzip;q=0": "", "identity": ""} {
		w := ask(t, h, "GET", "/containers/a/archive?path=/tmp/f", "", "", "Accept-Encoding", accept)
		var r io.Reader = w.Body
		if want != "" {
			if r, err = gzip.NewReader(w.Body); err != nil {
				t.Fatal(err)
			}
		}
		if got := w.Header().Get("Content-Encoding"); got != want || w.Header().Get("Content-Type") != "application/x-tar" || firstFile(t, r) != "f=text" {
			t.Errorf("%q gave %q", accept, got)
		}
	}
}

func TestClientCommit(t *testing.T) {
	e := apitest.NewEngine()
	c, ctx := dial(t, handler(e, apitest.NewSwarm()))
	if _, err := c.ContainerCreate(ctx, client.ContainerCreateOptions{Name: "a", Config: &container.Config{Image: "hello:1"}}); err != nil {
		t.Fatal(err)
	}
	r, err := c.ContainerCommit(ctx, "a", client.ContainerCommitOptions{Reference: "made", Comment: "why", Author: "who",
		Changes: []string{"ENV a=b", "USER 7"}, NoPause: true, Config: &container.Config{User: "8"}})
	if err != nil || !strings.HasPrefix(r.ID, "sha256:") {
		t.Fatalf("%+v, %v", r, err)
	}
	got := e.Committed
	if got.Ref.String() != "docker.io/library/made:latest" || got.Author != "who" || got.Comment != "why" || got.Pause ||
		len(got.Changes) != 2 || got.Config == nil || got.Config.User != "8" {
		t.Errorf("the engine got %+v", got)
	}
	if _, err := c.ContainerCommit(ctx, "a", client.ContainerCommitOptions{}); err != nil || e.Committed.Ref != nil || !e.Committed.Pause {
		t.Errorf("without options: %+v, %v", e.Committed, err)
	}
}

func TestCommit(t *testing.T) {
	h := handler(apitest.NewEngine(), apitest.NewSwarm())
	if w := ask(t, h, "POST", "/containers/create?name=a", js, `{"Image":"hello:1"}`); w.Code != 201 {
		t.Fatal(w.Body)
	}
	for _, c := range []struct {
		name, query, body string
		status            int
		message           string
	}{
		{"good", "container=a&repo=x/y&tag=2&pause=0", `{}`, 201, `{"Id":"sha256:`},
		{"no container", "", `{}`, 404, `{"message":"No such container: `},
		{"an unknown container", "container=b", `{}`, 404, `{"message":"No such container: b`},
		{"a bad name", "container=a&repo=UPPER", `{}`, 400, `{"message":"invalid reference format`},
		{"a bad tag", "container=a&repo=x&tag=:", `{}`, 400, `{"message":"invalid tag format`},
		{"a digest", "container=a&repo=x@sha256:" + strings.Repeat("a", 64), `{}`, 400, `{"message":"cannot import digest reference`},
		{"a bad change", "container=a&changes=FROM+x", `{}`, 400, `{"message":"FROM is not a valid change command`},
		{"a config that is none", "container=a", `{"Cmd":7`, 400, `{"message":"invalid JSON`},
	} {
		if w := ask(t, h, "POST", "/commit?"+c.query, js, c.body); w.Code != c.status || !strings.HasPrefix(w.Body.String(), c.message) {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
	}
}
