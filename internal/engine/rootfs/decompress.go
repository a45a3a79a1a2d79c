package rootfs

import (
	"bufio"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/moby/go-archive/compression"
)

// maxWindow bounds the memory for a zstd stream, as the program zstd does.
const maxWindow = 128 << 20

// decompress reads gzip, bzip2, xz and zstd, and anything else as it is. Programs that it runs for that (xz, unpigz)
// are the host's.
func decompress(r io.Reader) (_ io.Reader, done func(), err error) {
	const magic = 10 // bytes that tell the formats apart
	b := bufio.NewReader(r)
	head, err := b.Peek(magic)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	if compression.Detect(head) == compression.Zstd {
		z, err := zstd.NewReader(b, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	d, err := compression.DecompressStream(b)
	if err != nil {
		return nil, nil, err
	}
	return d, func() { _ = d.Close() }, nil
}
