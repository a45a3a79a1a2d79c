package httpapi

import (
	"encoding/json"
	"net/http"
	"runtime"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"

	"shoal.dev/shoal/internal/engine"
	"shoal.dev/shoal/internal/httpapi/compat"
)

func (a *api) imageRoutes() []route {
	with := func(h func(*call) error) func(*call) error {
		return func(c *call) error {
			if err := need(a.Images != nil, "images"); err != nil {
				return err
			}
			return h(c)
		}
	}
	return []route{
		post("/images/create", with(a.createImage)).lasting(0),
		post("/images/{name*}/push", with(a.pushImage)).lasting(0),
		post("/images/{name*}/tag", with(a.tagImage)),
		get("/images/{name*}/history", with(a.imageHistory)),
		get("/images/{name*}/get", with(a.saveImage)).lasting(0),
		get("/images/get", with(a.saveImage)).lasting(0),
		post("/images/prune", with(a.pruneImages)).lasting(0),
		post("/auth", with(a.login)),
		post("/images/load", with(a.loadImage)).lasting(0),
		get("/images/json", with(a.listImages)),
		get("/images/{name*}/json", with(a.inspectImage)),
		del("/images/{name*}", with(a.removeImage)),
		get("/distribution/{name*}/json", with(a.distribution)),
	}
}

// imageName makes a name and an optional tag or digest into one familiar name with a tag or digest.
func imageName(name, tag string) (string, error) {
	ref, err := reference.ParseNormalizedNamed(strings.TrimSuffix(name, ":"))
	if err != nil {
		return "", invalid("%s", err)
	}
	if tag != "" {
		if d, derr := digest.Parse(tag); derr == nil {
			ref, err = reference.WithDigest(reference.TrimNamed(ref), d)
		} else {
			ref, err = reference.WithTag(ref, tag)
		}
		if err != nil {
			return "", invalid("%s", err)
		}
	}
	if n := reference.FamiliarName(ref); n == "scratch" {
		return "", errdefs.ErrPermissionDenied.WithMessage("'scratch' is a reserved name")
	}
	return reference.FamiliarString(reference.TagNameOnly(ref)), nil
}

func (a *api) createImage(c *call) error {
	platform, err := parsePlatform(c.query.Get("platform"))
	if err != nil {
		return err
	}
	from := c.query.Get("fromImage")
	if from == "" {
		return a.importImage(c, platform)
	}
	ref, err := imageName(from, c.query.Get("tag"))
	if err != nil {
		return err
	}
	out := &progress{out: lines{c}}
	err = a.Images.Pull(c.Context(), ref, engine.PullOptions{Auth: c.auth(), Platform: platform, AllTags: c.query.Get("tag") == "" && isBare(from)}, out.say)
	return out.end(err)
}

// isBare says whether a name has neither tag nor digest.
func isBare(name string) bool {
	ref, err := reference.ParseNormalizedNamed(strings.TrimSuffix(name, ":"))
	return err == nil && reference.IsNameOnly(ref)
}

// progress sends the messages of a transfer, which may come from several goroutines.
type progress struct {
	mu  sync.Mutex
	out lines
}

func (p *progress) say(m jsonstream.Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.out.write(m) // if the client is gone, the context ends the transfer
}

func (p *progress) end(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.end(p.out.c, err)
}

// end answers with the error if nothing was sent yet, and as the stream's last message otherwise.
func (l lines) end(c *call, err error) error {
	if err == nil || c.w.status == 0 {
		return err
	}
	return l.write(struct {
		Error   *jsonstream.Error `json:"errorDetail"`
		Message string            `json:"error"` // for clients of before 1.10
	}{&jsonstream.Error{Message: err.Error()}, err.Error()})
}

// hostPlatform reads "linux/amd64", or "linux" for any processor, with Docker's other names of a processor.
func hostPlatform(p string) bool {
	os, arch, _ := strings.Cut(strings.ToLower(p), "/")
	arch, _, _ = strings.Cut(arch, "/")
	switch arch {
	case "x86_64", "x86-64":
		arch = "amd64"
	case "aarch64":
		arch = "arm64"
	}
	return os == runtime.GOOS && (arch == "" || arch == runtime.GOARCH)
}

func (a *api) loadImage(c *call) error {
	names, err := a.Images.Load(c.Context(), c.Body)
	if err != nil {
		return err
	}
	out := lines{c}
	for _, n := range names {
		word := "Loaded image: "
		if strings.HasPrefix(n, "sha256:") {
			word = "Loaded image ID: "
		}
		if err := out.write(jsonstream.Message{Stream: word + n + "\n"}); err != nil {
			return nil // the client is gone
		}
	}
	if len(names) == 0 {
		return invalid("the archive holds no image")
	}
	return nil
}

func (a *api) listImages(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	if v := c.query.Get("filter"); v != "" && c.version.Less(compat.Version{Major: 1, Minor: 25}) && len(filters["reference"]) == 0 {
		if filters == nil {
			filters = map[string][]string{}
		}
		filters["reference"] = []string{v}
	}
	images, err := a.Images.Images(c.Context(), engine.ImageListOptions{All: c.flag("all"), SharedSize: c.since(42) && c.flag("shared-size"), Filters: filters})
	if err != nil {
		return err
	}
	for i := range images {
		m := &images[i]
		if !c.since(43) && len(m.RepoTags) == 0 && len(m.RepoDigests) == 0 {
			m.RepoTags, m.RepoDigests = []string{"<none>:<none>"}, []string{"<none>@<none>"}
		}
		m.RepoTags, m.RepoDigests = list(m.RepoTags), list(m.RepoDigests)
		if !c.since(47) || !c.flag("manifests") {
			m.Manifests = nil
		}
	}
	return c.reply(http.StatusOK, list(images))
}

func (a *api) inspectImage(c *call) error {
	platform, err := c.platform(49)
	if err != nil {
		return err
	}
	manifests := c.since(48) && c.flag("manifests")
	if manifests && platform != nil {
		return invalid("conflicting options: manifests and platform options cannot both be set")
	}
	m, err := a.Images.InspectImage(c.Context(), c.value, platform)
	if err != nil {
		return err
	}
	r := *m
	if !manifests {
		r.Manifests = nil
	}
	r.RepoTags, r.RepoDigests = list(r.RepoTags), list(r.RepoDigests)
	return c.reply(http.StatusOK, &r)
}

func (a *api) removeImage(c *call) error {
	if strings.TrimSpace(c.value) == "" {
		return invalid("image name cannot be blank")
	}
	for _, p := range c.query["platforms"] {
		var v struct{ OS, Architecture string }
		if err := json.Unmarshal([]byte(p), &v); err != nil {
			return invalid("failed to parse platform: %v", err)
		}
		if !hostPlatform(v.OS + "/" + v.Architecture) {
			return absent("removing an image's platform %s/%s is not supported: other platforms than this host's are not implemented by Shoal yet", v.OS, v.Architecture)
		}
	}
	removed, err := a.Images.RemoveImage(c.Context(), c.value, c.flag("force"))
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(removed))
}

func (a *api) distribution(c *call) error {
	ref, err := imageName(c.value, "")
	if err != nil {
		return err
	}
	d, err := a.Images.Distribution(c.Context(), ref, c.auth())
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, d)
}
