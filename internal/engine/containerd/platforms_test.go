package containerd

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	ggcr "github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/jsonstream"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
)

// strange is an architecture that this machine does not have.
const strange = "riscv64"

// pushIndex puts an image for this machine and for a strange one into the lab's registry.
func (l *lab) pushIndex(t *testing.T, repo string) (ref string, index v1.ImageIndex) {
	t.Helper()
	index = mutate.IndexMediaType(empty.Index, ggcr.OCIImageIndex)
	for _, arch := range []string{runtime.GOARCH, strange} {
		img, err := busybox(repo + arch)
		if err != nil {
			t.Fatal(err)
		}
		c, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		c = c.DeepCopy()
		c.Architecture = arch
		if img, err = mutate.ConfigFile(img, c); err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: arch}}})
	}
	ref = l.registry + "/" + repo
	n, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(n, index); err != nil {
		t.Fatal(err)
	}
	return ref, index
}

// What is said of an image of which only another architecture is here, and of both.
func TestPlatforms(t *testing.T) {
	l := real(t)
	ctx := t.Context()
	ref, index := l.pushIndex(t, "many/arches:1")
	digest, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	host, other := &ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}, &ocispec.Platform{OS: "linux", Architecture: strange}
	missing := &ocispec.Platform{OS: "linux", Architecture: "s390x"}
	lacks := func(p *ocispec.Platform) string {
		return fmt.Sprintf("image with reference %s was found but does not provide the specified platform (linux/%s)", ref, p.Architecture)
	}
	err = l.engine.Pull(ctx, ref, engine.PullOptions{Platform: missing}, nil)
	if !errdefs.IsNotFound(err) || !strings.HasPrefix(err.Error(), "no matching manifest for linux/s390x in the manifest list entries") {
		t.Errorf("a platform that the index lacks: %v", err)
	}
	if err := l.engine.Pull(ctx, ref, engine.PullOptions{Platform: other}, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := l.engine.RemoveImage(t.Context(), ref, true); err != nil && !errdefs.IsNotFound(err) && !errors.Is(err, t.Context().Err()) {
			t.Error(err)
		}
	})
	i, err := l.engine.InspectImage(ctx, ref, nil)
	if err != nil || i.Architecture != strange || i.ID != digest.String() {
		t.Fatalf("inspect: %+v, %v", i, err)
	}
	if _, err = l.engine.InspectImage(ctx, ref, host); !errdefs.IsNotFound(err) || err.Error() != lacks(host) {
		t.Errorf("inspect --platform: %v", err)
	}
	none := &container.HostConfig{NetworkMode: "none"}
	_, _, err = l.engine.Create(ctx, engine.Spec{Config: &container.Config{Image: ref}, HostConfig: none, Platform: "linux/" + runtime.GOARCH})
	if !errdefs.IsNotFound(err) || err.Error() != lacks(host) {
		t.Errorf("create --platform: %v", err)
	}
	_, warnings, err := l.engine.Create(ctx, engine.Spec{Name: "stranger", Config: &container.Config{Image: ref}, HostConfig: none})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "platform (linux/"+strange+") does not match the detected host platform") {
		t.Errorf("create: warnings %q, %v", warnings, err)
	}
	if err == nil {
		if err := l.engine.Remove(ctx, "stranger", true); err != nil {
			t.Error(err)
		}
	}

	// Of an index that is not complete, the manifest goes.
	copied := l.registry + "/many/copies:1"
	if err := l.engine.TagImage(ctx, ref, copied); err != nil {
		t.Fatal(err)
	}
	var said []jsonstream.Message
	if err := l.engine.Push(ctx, copied, engine.PushOptions{}, func(m jsonstream.Message) { said = append(said, m) }); err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(said, func(m jsonstream.Message) bool {
		return m.Aux != nil && strings.Contains(string(*m.Aux), `"manifestPushedInsteadOfIndex":true`)
	}) {
		t.Errorf("the push did not say that it left something out: %+v", said)
	}
	d, err := l.engine.Distribution(ctx, copied, nil)
	if err != nil || d.Descriptor.Digest.String() == digest.String() || len(d.Platforms) != 1 || d.Platforms[0].Architecture != strange {
		t.Errorf("what was pushed: %+v, %v", d, err)
	}
	if err := l.engine.Push(ctx, copied, engine.PushOptions{Platform: host}, nil); !errdefs.IsNotFound(err) || !strings.HasSuffix(err.Error(), "does not provide the specified platform (linux/"+runtime.GOARCH+")") {
		t.Errorf("push --platform: %v", err)
	}
	err = l.engine.Save(ctx, []string{ref}, []ocispec.Platform{*host}, io.Discard)
	if !errdefs.IsNotFound(err) || err.Error() != lacks(host) {
		t.Errorf("save --platform: %v", err)
	}

	// Both are here: all of it goes.
	if err := l.engine.Pull(ctx, ref, engine.PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if i, err = l.engine.InspectImage(ctx, ref, nil); err != nil || i.Architecture != runtime.GOARCH {
		t.Errorf("inspect: %+v, %v", i, err)
	}
	if i, err = l.engine.InspectImage(ctx, ref, other); err != nil || i.Architecture != strange {
		t.Errorf("inspect --platform: %+v, %v", i, err)
	}
	if code, out := l.output(t, engine.Spec{Config: &container.Config{Image: ref, Cmd: []string{"cat", "/etc/mark"}}}); code != 0 || strings.TrimSpace(out) != "many/arches:1"+runtime.GOARCH {
		t.Errorf("run: %d %q", code, out)
	}
	if err := l.engine.Push(ctx, copied, engine.PushOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if d, err = l.engine.Distribution(ctx, copied, nil); err != nil || d.Descriptor.Digest.String() != digest.String() || len(d.Platforms) != 2 {
		t.Errorf("what was pushed: %+v, %v", d, err)
	}
	if _, err := l.engine.RemoveImage(ctx, copied, false); err != nil {
		t.Error(err)
	}
}

// What we save is an OCI layout and what `docker load` reads, and loading it gives back the names and the digests.
func TestSaveAndLoad(t *testing.T) {
	l := real(t)
	ctx := t.Context()
	ref, _ := l.pushIndex(t, "saved/arches:2")
	other := ocispec.Platform{OS: "linux", Architecture: strange}
	one, err := busybox("one to be saved")
	if err != nil {
		t.Fatal(err)
	}
	single := l.push(t, "saved/one:1", one)
	for r, p := range map[string]*ocispec.Platform{ref: &other, single: nil} {
		if err := l.engine.Pull(ctx, r, engine.PullOptions{Platform: p}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.engine.TagImage(ctx, single, "saved:again"); err != nil {
		t.Fatal(err)
	}
	refs := []string{ref, single, "saved:again"}
	ids := map[string]string{}
	for _, r := range refs {
		i, err := l.engine.InspectImage(ctx, r, nil)
		if err != nil {
			t.Fatal(err)
		}
		ids[r] = i.ID
	}
	var b bytes.Buffer
	if err := l.engine.Save(ctx, refs, nil, &b); err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for r := tar.NewReader(bytes.NewReader(b.Bytes())); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[h.Name], err = io.ReadAll(r); err != nil {
			t.Fatal(err)
		}
	}
	var idx ocispec.Index
	if err := json.Unmarshal(files["index.json"], &idx); err != nil || len(idx.Manifests) != 3 {
		t.Errorf("index.json %s, %v", files["index.json"], err)
	}
	if !bytes.Contains(files["oci-layout"], []byte(`"imageLayoutVersion":"1.0.0"`)) {
		t.Errorf("oci-layout %s", files["oci-layout"])
	}
	for _, r := range refs { // as go-containerregistry reads manifest.json, by the tag
		tag, err := name.NewTag(r, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }
		if img, err := tarball.Image(open, &tag); err != nil {
			t.Errorf("manifest.json has no %s: %v\n%s", r, err, files["manifest.json"])
		} else if layers, err := img.Layers(); err != nil || len(layers) != 2 {
			t.Errorf("%s has %d layers, %v", r, len(layers), err)
		}
	}
	for _, r := range refs {
		if _, err := l.engine.RemoveImage(ctx, r, false); err != nil {
			t.Fatal(err)
		}
	}
	names, err := l.engine.Load(ctx, bytes.NewReader(b.Bytes()))
	slices.Sort(names)
	slices.Sort(refs)
	if err != nil || !slices.Equal(names, refs) {
		t.Errorf("loaded %q, %v; want %q", names, err, refs)
	}
	// Two indexes with no platform in common: each keeps what it has, and there is no one platform for manifest.json.
	here, _ := l.pushIndex(t, "saved/here:3")
	if err := l.engine.Pull(ctx, here, engine.PullOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	b.Reset()
	if err := l.engine.Save(ctx, []string{ref, here}, nil, &b); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b.Bytes(), []byte("manifest.json")) {
		t.Error("manifest.json names what is not here")
	}
	if names, err := l.engine.Load(ctx, &b); err != nil || !slices.Equal(names, []string{ref, here}) {
		t.Errorf("loaded %q, %v", names, err)
	}
	if _, err := l.engine.RemoveImage(ctx, here, false); err != nil {
		t.Error(err)
	}
	for _, r := range refs {
		if i, err := l.engine.InspectImage(ctx, r, nil); err != nil || i.ID != ids[r] {
			t.Errorf("%s is %v; want %s; %v", r, i, ids[r], err)
		}
		if _, err := l.engine.RemoveImage(ctx, r, false); err != nil {
			t.Error(err)
		}
	}
}

// All tags of a repository, over the pages in which a registry gives them; a registry that gives no end of them is left.
func TestPullAllTags(t *testing.T) {
	l := real(t)
	l.cleanAfter(t)
	var pages []string
	ref, _ := l.hostile(t, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !strings.HasSuffix(r.URL.Path, "/tags/list") {
			return false
		}
		last := r.URL.Query().Get("last")
		pages = append(pages, last)
		next := map[string]string{"": "1", "1": "b", "b": "c"}[last]
		if next != "c" {
			w.Header().Set("Link", fmt.Sprintf(`</v2/sea/tags/list?last=%s&n=1>; rel="next"`, next))
		}
		_, _ = fmt.Fprintf(w, `{"name":"sea","tags":[%q]}`, next)
		return true
	})
	host, _, _ := strings.Cut(ref, "/")
	for tag, mark := range map[string]string{"1": "one", "b": "two", "c": "two"} {
		img, err := busybox("all " + mark)
		if err != nil {
			t.Fatal(err)
		}
		n, err := name.ParseReference(host+"/sea:"+tag, name.Insecure)
		if err != nil {
			t.Fatal(err)
		}
		if err := remote.Write(n, img); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.engine.Pull(t.Context(), host+"/sea", engine.PullOptions{AllTags: true}, nil); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(pages, []string{"", "1", "b"}) {
		t.Errorf("pages after %q", pages)
	}
	list, err := l.engine.Images(t.Context(), engine.ImageListOptions{Filters: map[string][]string{"reference": {host + "/sea"}}})
	if err != nil {
		t.Fatal(err)
	}
	var tags []string
	for _, i := range list {
		tags = append(tags, i.RepoTags...)
	}
	slices.Sort(tags)
	if want := []string{host + "/sea:1", host + "/sea:b", host + "/sea:c"}; !slices.Equal(tags, want) || len(list) != 2 {
		t.Errorf("%d images with %q, want %q", len(list), tags, want)
	}
	for _, tag := range tags {
		if _, err := l.engine.RemoveImage(t.Context(), tag, false); err != nil {
			t.Error(err)
		}
	}
	if err := l.engine.Pull(t.Context(), l.registry+"/no/such", engine.PullOptions{AllTags: true}, nil); !errdefs.IsNotFound(err) {
		t.Errorf("all tags of nothing: %v", err)
	}

	endless := 0
	ref, _ = l.hostile(t, func(w http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if !strings.HasSuffix(r.URL.Path, "/tags/list") {
			return false
		}
		endless++
		w.Header().Set("Link", fmt.Sprintf(`</v2/sea/monster/tags/list?last=%d>; rel="next"`, endless))
		_, _ = fmt.Fprintf(w, `{"tags":["1"%s]}`, strings.Repeat(`,"1"`, 999))
		return true
	})
	err = l.engine.Pull(t.Context(), ref, engine.PullOptions{AllTags: true}, nil)
	if err == nil || !strings.Contains(err.Error(), "has more than 10000 tags") || endless > 11 {
		t.Errorf("after %d pages: %v", endless, err)
	}
}
