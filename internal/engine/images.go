package engine

import (
	"context"
	"io"
	"time"

	"github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/api/types/system"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Images is images: those that are here, and what brings them here and away. An image is one target, a manifest or an
// index of manifests for several platforms; its ID is the target's digest. A reference is a familiar name with a tag or
// a digest, "latest" if it has neither, or an image's ID or an unambiguous prefix of it.
type Images interface {
	LocalImages
	ImageArchives
	Registries
}

// LocalImages is the images that are here. A platform that is nil means this host's if the image has it, and otherwise
// the first that is here; one that is given and is not here is NotFound.
type LocalImages interface {
	// Images lists them, newest first.
	Images(ctx context.Context, o ImageListOptions) ([]image.Summary, error)
	// InspectImage shows an image as it is for a platform. Manifests is always filled in.
	InspectImage(ctx context.Context, ref string, platform *ocispec.Platform) (*image.InspectResponse, error)
	// ImageHistory gives the steps that made an image, newest first.
	ImageHistory(ctx context.Context, ref string, platform *ocispec.Platform) ([]image.HistoryResponseItem, error)
	// TagImage gives an image another name. An image that had that name before stays, without it.
	TagImage(ctx context.Context, ref, name string) error
	// RemoveImage untags ref and deletes what is unused afterwards; Conflict while a container uses it. What force
	// overcomes is as with Docker: stopped containers, and, for an ID, several names. The bytes are free on return.
	RemoveImage(ctx context.Context, ref string, force bool) ([]image.DeleteResponse, error)
	// PruneImages removes images without a name and, with the filter dangling=false, all that no container uses. Other
	// filters are label, label! and until.
	PruneImages(ctx context.Context, filters map[string][]string) (*image.PruneReport, error)
}

// ImageArchives is images as files.
type ImageArchives interface {
	// Load imports an OCI layout or a docker-archive from a tar stream and returns the names it brought.
	Load(ctx context.Context, r io.Reader) ([]string, error)
	// Save writes images as one tar stream that is both. A name without a tag means all of its tags. With platforms,
	// only those. Nothing is written before all of refs were found.
	Save(ctx context.Context, refs []string, platforms []ocispec.Platform, w io.Writer) error
	// Import makes an image of one layer from a tar stream, compressed or not, and returns its ID.
	Import(ctx context.Context, r io.Reader, o ImportOptions) (string, error)
}

// Registries is what goes between here and registries. Credentials go to the reference's own registry only.
//
// A registry that is silent for [StallTime] in the middle of a transfer ends it with Unavailable; whatever ends one, the
// error names the registry or the reference, and what came so far is used by the next try.
type Registries interface {
	// Pull fetches ref. It reports Docker's progress messages; report may be nil. It succeeds at once if all is there
	// already. An image that had that name before stays, without it.
	Pull(ctx context.Context, ref string, o PullOptions, report func(jsonstream.Message)) error
	// Push sends ref's image there. report may be nil.
	Push(ctx context.Context, ref string, o PushOptions, report func(jsonstream.Message)) error
	// Distribution asks the registry for ref's digest and platforms without pulling.
	Distribution(ctx context.Context, ref string, auth *registry.AuthConfig) (*registry.DistributionInspect, error)
	// Login checks credentials with the registry at their ServerAddress, docker.io if that is empty. The token that it
	// returns, "" for none, can be used instead of the password. Unauthorized if the registry refuses them.
	Login(ctx context.Context, auth *registry.AuthConfig) (token string, err error)
}

// PullOptions says how to pull.
type PullOptions struct {
	Auth     *registry.AuthConfig // nil: none
	Platform *ocispec.Platform    // nil: this host's
	AllTags  bool                 // of the repository; ref's tag does not matter
}

// PushOptions says how to push.
type PushOptions struct {
	Auth     *registry.AuthConfig // nil: none
	Platform *ocispec.Platform    // nil: all that is here
	AllTags  bool                 // of the repository; ref's tag does not matter
}

// ImportOptions says what becomes of an imported layer.
type ImportOptions struct {
	Name     string            // "" for none
	Message  string            // of the history
	Platform *ocispec.Platform // nil: this host's
	Changes  []string          // instructions of a Dockerfile that set the image's configuration
}

// ImageListOptions chooses images. Filters are those of GET /images/json.
type ImageListOptions struct {
	All        bool
	SharedSize bool // fill SharedSize, otherwise -1
	Filters    map[string][]string
}

// Disk counts bytes.
type Disk interface {
	// DiskUsage says what the kinds that are asked for take, with an entry for each object. The build cache is left out.
	DiskUsage(ctx context.Context, o DiskUsageOptions) (*system.DiskUsage, error)
}

// DiskUsageOptions chooses kinds of objects.
type DiskUsageOptions struct {
	Containers, Images, Volumes bool
}

// StallTime is how long a registry may send nothing in the middle of an answer, or take nothing in the middle of a
// request, before the transfer ends. Docker waits for ever; a minute is what its clients' proxies mostly allow.
const StallTime = time.Minute
