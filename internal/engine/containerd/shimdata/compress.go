package shimdata

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Compressed is what the name of a compressed log file ends with.
const Compressed = ".gz"

// Identity names a log file for as long as it is kept, through renaming and compression.
type Identity string

// IdentityOf is an open file's, which is not compressed: the inode and when it was made, since numbers are used again.
func IdentityOf(f *os.File) (Identity, error) {
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_BTIME, &st); err != nil {
		return "", &os.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	return Identity(fmt.Sprintf("%d:%d:%d:%d.%d", st.Dev_major, st.Dev_minor, st.Ino, st.Btime.Sec, st.Btime.Nsec)), nil
}

// compress replaces a log file by its compressed form, whose header has its identity. Should it fail, the file stays.
func compress(path string) (err error) {
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer from.Close()
	id, err := IdentityOf(from)
	if err != nil {
		return err
	}
	tmp := path + Compressed + ".tmp"
	to, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	z := gzip.NewWriter(to)
	z.Comment = string(id)
	_, err = io.Copy(z, from)
	if err = errors.Join(err, z.Close(), to.Close()); err == nil {
		err = os.Rename(tmp, path+Compressed)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Remove(path)
}
