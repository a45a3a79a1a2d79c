package ledger

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"shoal.dev/shoal/internal/engine"
)

// Dangling begins the names under which images are kept that have none; what follows is the image's ID.
const Dangling = "shoal-dangling@"

// ImageName is a name of a local image.
type ImageName struct {
	Name string // canonical, such as docker.io/library/a:1, or beginning with Dangling
	ID   string // sha256:…
}

// ParseImageName reads a reference as a user writes it: "latest" if it has neither tag nor digest, and without the tag if
// it has both.
func ParseImageName(ref string) (reference.Named, error) {
	n, err := reference.ParseDockerRef(ref)
	if err != nil {
		return nil, Errorf(errdefs.ErrInvalidArgument, "invalid reference format: %q: %s", ref, err)
	}
	return n, nil
}

// ParseImageTag reads a name that an image is to be given: a repository with a tag, "latest" if it has none.
func ParseImageTag(name string) (reference.NamedTagged, error) {
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, Errorf(errdefs.ErrInvalidArgument, "%s", err)
	}
	if _, ok := n.(reference.Digested); ok {
		return nil, Errorf(errdefs.ErrInvalidArgument, "cannot import digest reference")
	}
	t, ok := reference.TagNameOnly(n).(reference.NamedTagged)
	if !ok {
		return nil, Errorf(errdefs.ErrInvalidArgument, "unexpected reference: %q", name)
	}
	if reference.FamiliarName(t) == digest.Canonical.String() {
		return nil, Errorf(errdefs.ErrInvalidArgument, "refusing to create an ambiguous tag using digest algorithm as name")
	}
	return t, nil
}

// ParsePlatform reads OS/ARCHITECTURE[/VARIANT]; nil for "".
func ParsePlatform(s string) (*ocispec.Platform, error) {
	if s == "" {
		return nil, nil
	}
	p, err := platforms.Parse(s)
	if err != nil {
		return nil, Errorf(errdefs.ErrInvalidArgument, "invalid platform %q: %s", s, err)
	}
	return &p, nil
}

// FamiliarImage is a canonical name as users write it; "" for the name of an image that has none.
func FamiliarImage(name string) string {
	if strings.HasPrefix(name, Dangling) {
		return ""
	}
	n, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return name
	}
	return reference.FamiliarString(n)
}

// Removal is what removing a reference to an image comes to.
type Removal struct {
	Drop []string // these names
	Keep bool     // but the image stays, without a name
	Last bool     // they are all that the image has
}

// PlanRemoval decides it: ref means the image id, which has names, of which ref is one if byName. users are its containers.
func PlanRemoval(ref, id string, byName bool, names []string, users []*Container, force bool) (*Removal, error) {
	short := id[7:19]
	refuse := func(what, how, why string, args ...any) (*Removal, error) {
		return nil, Errorf(errdefs.ErrConflict, "conflict: unable to delete %s (%s) - %s", what, how, fmt.Sprintf(why, args...))
	}
	var named reference.Named
	if byName {
		named, _ = ParseImageName(ref)
	}
	same := sameReferences(named, names)
	if byName && len(same) < len(names) {
		return &Removal{Drop: same}, nil
	}
	all := &Removal{Drop: names, Last: true}
	if byName && len(users) > 0 {
		if !force {
			return refuse(reference.FamiliarString(named), "must be forced", "container %s is using its referenced image %s", users[0].ID[:12], short)
		}
		all.Keep = true
		return all, nil
	}
	for _, c := range users {
		if c.Running() {
			return refuse(short, "cannot be forced", "image is being used by running container %s", c.ID[:12])
		}
	}
	if len(users) > 0 && !force {
		return refuse(short, "must be forced", "image is being used by stopped container %s", users[0].ID[:12])
	}
	if !force && len(same) < len(names) {
		return refuse(short, "must be forced", "image is referenced in multiple repositories")
	}
	return all, nil
}

// sameReferences are the names that go together with one: its tag, and what has no tag if no other tag of the repository
// is there. Without a tag but with a digest all of the repository; without a name what goes with the first.
func sameReferences(named reference.Named, names []string) []string {
	var same, digests []string
	others := false
	for _, name := range names {
		n, err := reference.ParseNormalizedNamed(name)
		if err != nil || strings.HasPrefix(name, Dangling) {
			same = append(same, name)
			continue
		}
		if named == nil {
			named = n
		}
		if n.Name() != named.Name() {
			continue
		}
		want, tagged := named.(reference.Tagged)
		switch t, ok := n.(reference.Tagged); {
		case !tagged, ok && t.Tag() == want.Tag():
			same = append(same, name)
		case ok:
			others = true
		default:
			digests = append(digests, name)
		}
	}
	if !others {
		same = append(same, digests...)
	}
	return same
}

// PlanPrune chooses the names to remove, sorted: those of images without a name, or of all images, that eligible lets
// pass and no container needs. A container needs the name that it was made by, and one name of its image at least.
func PlanPrune(all []ImageName, users map[string][]*Container, danglingOnly bool, eligible func(ImageName) bool) []ImageName {
	count := map[string]int{}
	var drop []ImageName
	for _, n := range all {
		count[n.ID]++
		if danglingOnly && !strings.HasPrefix(n.Name, Dangling) || !eligible(n) {
			continue
		}
		if slices.ContainsFunc(users[n.ID], func(c *Container) bool { return needs(c, n) }) {
			continue
		}
		drop = append(drop, n)
	}
	slices.SortFunc(drop, func(a, b ImageName) int { return strings.Compare(a.Name, b.Name) })
	return slices.DeleteFunc(drop, func(n ImageName) bool {
		if count[n.ID] > 1 {
			count[n.ID]--
			return false
		}
		return len(users[n.ID]) > 0
	})
}

func needs(c *Container, n ImageName) bool {
	if strings.HasPrefix(n.Name, Dangling) {
		return true
	}
	ref, err := reference.ParseNormalizedNamed(c.Config.Image)
	if err != nil {
		return false
	}
	if t, ok := ref.(reference.NamedTagged); ok { // of a name with a tag and a digest, both
		if plain, err := reference.WithTag(reference.TrimNamed(ref), t.Tag()); err == nil && plain.String() == n.Name {
			return true
		}
	}
	named, err := ParseImageName(c.Config.Image)
	return err == nil && named.String() == n.Name
}

// ImageFacts is what filters ask of an image.
type ImageFacts struct {
	Names   []string // canonical, or Dangling
	Labels  map[string]string
	Created time.Time // when it was built
	Came    time.Time // when it came here
}

// Filters for [ImageFilter].
var (
	listFilters  = []string{"before", "dangling", "label", "label!", "reference", "since", "until"}
	pruneFilters = []string{"dangling", "label", "label!", "until"}
)

// ImageFilter reads filters of GET /images/json. The function it returns gives the names of an image that pass, none if
// the image does not. find gives the creation time of the image that a reference means.
func ImageFilter(o engine.ImageListOptions, now time.Time, find func(ref string) (time.Time, error)) (func(ImageFacts) []string, error) {
	return imageFilter(o.Filters, listFilters, now, find)
}

// ImagePruneFilter reads filters of POST /images/prune.
func ImagePruneFilter(filters map[string][]string, now time.Time) (danglingOnly bool, pass func(ImageFacts) bool, err error) {
	rest := maps.Clone(filters)
	danglingOnly = true
	for _, v := range filters["dangling"] {
		if danglingOnly, err = strconv.ParseBool(v); err != nil {
			return false, nil, Errorf(errdefs.ErrInvalidArgument, "invalid filter 'dangling=[%s]'", v)
		}
	}
	delete(rest, "dangling") // false means "also others" here
	f, err := imageFilter(rest, pruneFilters, now, nil)
	return danglingOnly, func(i ImageFacts) bool { return len(f(i)) > 0 }, err
}

func imageFilter(filters map[string][]string, known []string, now time.Time, find func(string) (time.Time, error)) (func(ImageFacts) []string, error) {
	var image []func(ImageFacts) bool
	var name []func(string) bool
	for _, key := range slices.Sorted(maps.Keys(filters)) {
		if !slices.Contains(known, key) {
			return nil, Errorf(errdefs.ErrInvalidArgument, "invalid filter '%s'", key)
		}
		for _, v := range filters[key] {
			switch key {
			case "dangling":
				want, err := strconv.ParseBool(v)
				if err != nil || len(filters[key]) > 1 {
					return nil, Errorf(errdefs.ErrInvalidArgument, "invalid filter 'dangling=%s'", filters[key])
				}
				name = append(name, func(n string) bool { return strings.HasPrefix(n, Dangling) == want })
			case "label", "label!":
				want := key == "label"
				image = append(image, func(i ImageFacts) bool { return MatchLabel(i.Labels, v) == want })
			case "until":
				t, err := parseUntil(v, now)
				if err != nil {
					return nil, err
				}
				image = append(image, func(i ImageFacts) bool { return i.Came.Before(t) })
			case "before", "since":
				t, err := find(v)
				if err != nil {
					return nil, err
				}
				image = append(image, func(i ImageFacts) bool {
					return key == "before" && i.Created.Before(t) || key == "since" && i.Created.After(t)
				})
			}
		}
	}
	if patterns := filters["reference"]; len(patterns) > 0 {
		for _, p := range patterns {
			if _, err := reference.FamiliarMatch(p, someName); err != nil {
				return nil, Errorf(errdefs.ErrInvalidArgument, "invalid filter 'reference=%s': %s", p, err)
			}
		}
		name = append(name, func(n string) bool {
			ref, err := reference.ParseNormalizedNamed(n)
			return err == nil && slices.ContainsFunc(patterns, func(p string) bool {
				ok, err := reference.FamiliarMatch(p, ref)
				return ok && err == nil
			})
		})
	}
	return func(i ImageFacts) []string {
		for _, f := range image {
			if !f(i) {
				return nil
			}
		}
		return slices.DeleteFunc(slices.Clone(i.Names), func(n string) bool {
			return slices.ContainsFunc(name, func(f func(string) bool) bool { return !f(n) })
		})
	}, nil
}

// someName is for finding out whether a pattern is one.
var someName, _ = reference.WithName("a.test/b")

// ImageTags are the familiar tags and digests that names of an image stand for, sorted.
func ImageTags(id string, names []string) (tags, digests []string) {
	tags, digests = []string{}, []string{}
	for _, name := range names {
		n, err := reference.ParseNormalizedNamed(name)
		if err != nil || strings.HasPrefix(name, Dangling) {
			continue
		}
		if t, ok := n.(reference.NamedTagged); ok {
			tags = append(tags, reference.FamiliarString(t))
		}
		if d := reference.FamiliarName(n) + "@" + id; !slices.Contains(digests, d) {
			digests = append(digests, d)
		}
	}
	slices.Sort(tags)
	slices.Sort(digests)
	return tags, digests
}

// ReportImage reports something that happened to an image. Docker names it in the events pull and push by its reference,
// and in the others by its ID.
func (l *Ledger) ReportImage(id, name, action string, labels map[string]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := map[string]string{}
	maps.Copy(a, labels)
	a["name"] = name
	l.emit(engine.Event{Type: "image", Action: action, ID: id, Attributes: a})
}

// ReportImagePrune reports how many bytes a prune of images has freed.
func (l *Ledger) ReportImagePrune(reclaimed uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.emit(engine.Event{Type: "image", Action: "prune", Attributes: map[string]string{"reclaimed": strconv.FormatUint(reclaimed, 10)}})
}
