package httpapi

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
)

// parsePlatform reads OS[/ARCHITECTURE[/VARIANT]]; nil for "".
func parsePlatform(s string) (*ocispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return nil, invalid("%s", err)
	}
	return &p, nil
}

// platform reads the query parameter "platform" of clients that speak at least API version 1.minor: an OCI platform as
// JSON. Older ones may send something there that never meant anything.
func (c *call) platform(minor int) (*ocispec.Platform, error) {
	if !c.since(minor) || c.query.Get("platform") == "" {
		return nil, nil
	}
	list, err := readPlatforms(c.query["platform"][:1])
	if err != nil {
		return nil, err
	}
	return &list[0], nil
}

func readPlatforms(values []string) ([]ocispec.Platform, error) {
	var list []ocispec.Platform
	for _, v := range values {
		var p ocispec.Platform
		if err := json.Unmarshal([]byte(v), &p); err != nil {
			return nil, invalid("failed to parse platform: %v", err)
		}
		if p.OS == "" && (p.Architecture != "" || p.Variant != "") || p.OS != "" && p.Architecture == "" {
			return nil, invalid("both OS and Architecture must be provided")
		}
		if p.OS == "" {
			return nil, invalid("platform cannot be empty")
		}
		list = append(list, platforms.Normalize(p))
	}
	return list, nil
}

// tagName joins a repository and a tag; "" if there is no repository.
func tagName(repo, tag string) (string, error) {
	if repo == "" {
		return "", nil
	}
	ref, err := reference.ParseNormalizedNamed(repo)
	if err != nil {
		return "", invalid("%s", err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return "", invalid("cannot import digest reference")
	}
	if tag != "" {
		if ref, err = reference.WithTag(ref, tag); err != nil {
			return "", invalid("%s", err)
		}
	}
	return reference.FamiliarString(reference.TagNameOnly(ref)), nil
}

func (a *api) importImage(c *call, platform *ocispec.Platform) error {
	src := c.query.Get("fromSrc")
	if src != "-" {
		return absent("importing an image from an address is not supported: send what is at %q as the request's body, with fromSrc=-", src)
	}
	name, err := tagName(c.query.Get("repo"), c.query.Get("tag"))
	if err != nil {
		return err
	}
	message := c.query.Get("message")
	if message == "" {
		message = "Imported from " + src
	}
	id, err := a.Images.Import(c.Context(), c.Body, engine.ImportOptions{Name: name, Message: message, Platform: platform, Changes: c.query["changes"]})
	if err != nil {
		return err
	}
	return lines{c}.write(jsonstream.Message{Status: id})
}

func (a *api) pushImage(c *call) error {
	tag := c.query.Get("tag")
	ref, err := imageName(c.value, tag)
	if err != nil {
		return err
	}
	platform, err := c.platform(46)
	if err != nil {
		return err
	}
	out := &progress{out: lines{c}}
	err = a.Images.Push(c.Context(), ref, engine.PushOptions{Auth: c.auth(), Platform: platform, AllTags: tag == "" && isBare(c.value)}, out.say)
	return out.end(err)
}

func (a *api) tagImage(c *call) error {
	name, err := tagName(c.query.Get("repo"), c.query.Get("tag"))
	if err != nil {
		return err
	}
	if name == "" {
		return invalid("invalid reference format")
	}
	if err := a.Images.TagImage(c.Context(), c.value, name); err != nil {
		return err
	}
	c.w.WriteHeader(http.StatusCreated)
	return nil
}

func (a *api) imageHistory(c *call) error {
	platform, err := c.platform(48)
	if err != nil {
		return err
	}
	h, err := a.Images.ImageHistory(c.Context(), c.value, platform)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, list(h))
}

func (a *api) saveImage(c *call) error {
	names := c.query["names"]
	if c.value != "" {
		names = []string{c.value}
	}
	var all []string
	for _, n := range names {
		all = append(all, strings.Split(n, ",")...) // some clients join them
	}
	if len(all) == 0 {
		return invalid("image name cannot be blank")
	}
	var want []ocispec.Platform
	if c.since(48) {
		if len(c.query["platform"]) > 1 && !c.since(52) {
			return invalid("multiple platform parameters are not supported in this API version; use API version 1.52 or later")
		}
		var err error
		if want, err = readPlatforms(c.query["platform"]); err != nil {
			return err
		}
	}
	c.w.Header().Set("Content-Type", "application/x-tar")
	return a.Images.Save(c.Context(), all, want, c.w)
}

func (a *api) pruneImages(c *call) error {
	filters, err := c.filters()
	if err != nil {
		return err
	}
	r, err := a.Images.PruneImages(c.Context(), filters)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, r)
}

func (a *api) login(c *call) error {
	var auth registry.AuthConfig
	if err := c.json(&auth); err != nil {
		return err
	}
	token, err := a.Images.Login(c.Context(), &auth)
	if err != nil {
		return err
	}
	return c.reply(http.StatusOK, registry.AuthResponse{Status: "Login Succeeded", IdentityToken: token})
}
