package engine

import (
	"fmt"
	"io/fs"
)

// File is a file that a container gets and its image does not have, such as a secret.
type File struct {
	Target   string // absolute path in the container
	UID, GID int
	Mode     fs.FileMode // permissions only
	Data     []byte
}

// String keeps the bytes out of whatever prints the file.
func (f File) String() string { return fmt.Sprintf("%s (%d bytes)", f.Target, len(f.Data)) }

// GoString is String.
func (f File) GoString() string { return f.String() }

// Targets are where the files go, in their order.
func Targets(files []File) []string {
	var out []string
	for _, f := range files {
		out = append(out, f.Target)
	}
	return out
}
