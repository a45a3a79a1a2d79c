package engine

import (
	"context"
	"io"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/container"
)

// Archives is the files of containers, running, paused or not. Of a running one they are what its processes see, its
// volumes and tmpfs among them; of one that does not run, its root file system with its volumes and binds. Paths are
// the container's, and no link of it leads out. File systems of the kernel, such as /proc, are not there.
//
// What is not there is NotFound: "Could not find the file PATH in container NAME". While files of a container that does
// not run are read or written, it is not started or removed.
type Archives interface {
	// StatFile says what is at a path. A link is not followed, unless the path ends in a slash.
	StatFile(ctx context.Context, name, path string) (container.PathStat, error)
	// ReadFiles writes what is at a path, with all below it, as a tar archive whose names begin with the path's last
	// part. open is called once, when it is known what is there; it gives the archive's reader.
	ReadFiles(ctx context.Context, name, path string, open func(container.PathStat) (io.Writer, error)) error
	// WriteFiles writes a tar archive, plain or compressed (gzip, bzip2, xz, zstd), into the folder at a path. What it
	// had written before it failed stays. InvalidArgument if that is no folder, is read-only, or if the archive names
	// something outside of it.
	WriteFiles(ctx context.Context, name, path string, archive io.Reader, o WriteOptions) error
	// Export writes the root file system as a tar archive, without what is mounted into it. Nothing was written to w if
	// it cannot begin.
	Export(ctx context.Context, name string, w io.Writer) error
	// Changes lists, by path, how the root file system differs from the image.
	Changes(ctx context.Context, name string) ([]container.FilesystemChange, error)
}

// WriteOptions say how an archive is written into a container.
type WriteOptions struct {
	// OwnerUser gives everything to the user that the container runs as; else the archive says whose it is.
	OwnerUser bool
	// KeepKinds refuses to replace a folder by something else, or something else by a folder.
	KeepKinds bool
}

// Committer makes images of containers.
type Committer interface {
	// Commit makes an image of the container's image, what the container has changed, and its settings. It returns the
	// image's ID. A bad change is InvalidArgument and makes nothing.
	Commit(ctx context.Context, name string, o CommitOptions) (id string, err error)
}

// CommitOptions says what is special about an image that is made of a container.
type CommitOptions struct {
	Ref             reference.NamedTagged // nil: it gets no name
	Author, Comment string
	Pause           bool              // freeze a running container meanwhile
	Config          *container.Config // instead of the container's, which fills what it leaves open; may be nil
	Changes         []string          // instructions of a Dockerfile that say what becomes of the settings, one each
}
