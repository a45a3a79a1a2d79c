// Package tasklog reads what the containers of tasks wrote, on whatever nodes they are: a node answers for its own
// containers, and a manager asks the nodes and merges the lines by their times.
//
// It decides the order of lines, what is read again after a connection broke, and what is said of a node that cannot be
// reached. It owns no connection and keeps no line longer than it takes to pass it on. It never decides which tasks are
// meant: that is package control's.
package tasklog

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/containerd/errdefs"

	"shoal.dev/shoal/internal/engine"
)

// Path is the node's route: POST request, answered by a stream of records.
const Path = "/tasklog/v1/read"

// request asks a node for the log of a task's container.
type request struct {
	TaskID, ContainerID string
	Options             engine.LogOptions
}

const (
	// maxRequest is the largest request in bytes.
	maxRequest = 4096
	// maxLine is the longest line in bytes that is read from a node. A container's log cuts lines far below it.
	maxLine = 4 << 20
)

// A record is a kind, a time as Unix nanoseconds and the length of what follows: 1, 8 and 4 bytes, big end first. The
// last record is an end; a stream without one was cut off.
const headerSize = 13

const (
	recordEnd    = 0 // what follows is empty
	recordStdout = 1
	recordStderr = 2
	recordError  = 3 // what follows says why there is no more
)

func appendRecord(b []byte, kind byte, at time.Time, text []byte) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint64(b, uint64(at.UnixNano()))
	b = binary.BigEndian.AppendUint32(b, uint32(len(text)))
	return append(b, text...)
}

// errCut says that a stream ended without its end.
var errCut = errors.New("the connection to the node broke")

// remoteError is what a node said of its own log: trying again changes nothing.
type remoteError string

func (e remoteError) Error() string { return string(e) }

// readRecord reads one line. At the end of the log it returns io.EOF.
func readRecord(r *bufio.Reader) (engine.LogLine, error) {
	var head [headerSize]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return engine.LogLine{}, errCut
	}
	n := binary.BigEndian.Uint32(head[9:])
	if n > maxLine {
		return engine.LogLine{}, fmt.Errorf("the node sent a line of %d bytes, at most %d", n, maxLine)
	}
	l := engine.LogLine{Time: time.Unix(0, int64(binary.BigEndian.Uint64(head[1:]))).UTC()}
	if n <= uint32(r.Size()) {
		l.Line = make([]byte, n)
		if _, err := io.ReadFull(r, l.Line); err != nil {
			return l, errCut
		}
	} else { // it grows with what arrives, so that a length alone allocates nothing
		var err error
		if l.Line, err = io.ReadAll(io.LimitReader(r, int64(n))); err != nil || len(l.Line) < int(n) {
			return l, errCut
		}
	}
	switch head[0] {
	case recordStdout:
		l.Stream = "stdout"
	case recordStderr:
		l.Stream = "stderr"
	case recordEnd:
		return l, io.EOF
	case recordError:
		return l, remoteError(l.Line)
	default:
		return l, fmt.Errorf("the node sent an unknown record %d", head[0])
	}
	return l, nil
}

// classes are the refusals that a node tells apart.
var classes = map[int]error{
	http.StatusNotFound:  errdefs.ErrNotFound,
	http.StatusForbidden: errdefs.ErrPermissionDenied,
}

func decodeRequest(w http.ResponseWriter, r *http.Request) (request, error) {
	var req request
	err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequest)).Decode(&req)
	if err == nil && (req.ContainerID == "" || req.TaskID == "") {
		err = errors.New("no container is named")
	}
	return req, err
}
