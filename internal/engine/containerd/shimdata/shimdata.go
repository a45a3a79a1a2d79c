// Package shimdata is what the daemon and a container's shim say to each other by way of files, because either may be
// away when the other speaks: where the shim is to write (Target, carried in the task's stdout URL), how a container
// ended (Exit) and what it wrote (the json-file log).
//
// It owns the formats and nothing else: no process, no container. It is linked into the shim, so it imports little.
package shimdata

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// Scheme is the scheme of a stdout URL that our shim takes itself.
const Scheme = "jsonlog"

// Target says where the shim of one container writes.
type Target struct {
	Log     string // the json-file log; "" throws the output away
	Exit    string // the exit record
	Attach  string // the Unix socket on which the shim offers the container's streams; "" offers none
	Stdin   bool   // the container has a standard input, which stays open until a client ends it
	MaxSize int64  // bytes after which the log is rotated; 0 is never
	MaxFile int    // log files kept in all, the one being written included; at least 1
	// Compress compresses all log files but the one that is written.
	Compress bool
	// Buffer is how many bytes may wait for the disk before lines are dropped; 0 lets the container wait instead.
	Buffer int64
	Attrs  json.RawMessage // an object that each entry gets as its attrs; nil for none
}

// URL is the stdout URL that carries t to the shim.
func (t Target) URL() string {
	q := url.Values{}
	q.Set("exit", t.Exit)
	if t.Attach != "" {
		q.Set("attach", t.Attach)
	}
	if t.Stdin {
		q.Set("stdin", "1")
	}
	if t.MaxSize > 0 {
		q.Set("max-size", strconv.FormatInt(t.MaxSize, 10))
		q.Set("max-file", strconv.Itoa(max(1, t.MaxFile)))
	}
	if t.Compress {
		q.Set("compress", "1")
	}
	if t.Buffer > 0 {
		q.Set("buffer", strconv.FormatInt(t.Buffer, 10))
	}
	if len(t.Attrs) > 0 {
		q.Set("attrs", string(t.Attrs))
	}
	return (&url.URL{Scheme: Scheme, Path: t.Log, RawQuery: q.Encode()}).String()
}

// ParseTarget reads a stdout URL. ok is false if it is not one of ours.
func ParseTarget(s string) (t Target, ok bool, err error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != Scheme {
		return Target{}, false, nil
	}
	q := u.Query()
	t = Target{Log: u.Path, Exit: q.Get("exit"), Attach: q.Get("attach"), Stdin: q.Get("stdin") == "1", MaxFile: 1}
	if v := q.Get("max-size"); v != "" {
		if t.MaxSize, err = strconv.ParseInt(v, 10, 64); err != nil || t.MaxSize < 0 {
			return Target{}, true, fmt.Errorf("invalid max-size %q in %s", v, s)
		}
	}
	if v := q.Get("max-file"); v != "" {
		if t.MaxFile, err = strconv.Atoi(v); err != nil || t.MaxFile < 1 {
			return Target{}, true, fmt.Errorf("invalid max-file %q in %s", v, s)
		}
	}
	t.Compress = q.Get("compress") == "1"
	if v := q.Get("buffer"); v != "" {
		if t.Buffer, err = strconv.ParseInt(v, 10, 64); err != nil || t.Buffer < 0 {
			return Target{}, true, fmt.Errorf("invalid buffer %q in %s", v, s)
		}
	}
	if v := q.Get("attrs"); v != "" {
		if t.Attrs = json.RawMessage(v); !json.Valid(t.Attrs) {
			return Target{}, true, fmt.Errorf("invalid attrs %q in %s", v, s)
		}
	}
	if t.Exit == "" {
		return Target{}, true, fmt.Errorf("no exit path in %s", s)
	}
	return t, true, nil
}

// Exit is how a container's first process ended.
type Exit struct {
	Pid       int       `json:"pid"`
	Code      int       `json:"code"` // 128 + the signal, if one ended it
	At        time.Time `json:"at"`
	OOMKilled bool      `json:"oomKilled,omitempty"` // the kernel killed a process of its cgroup for want of memory
}

// WriteExit writes e to path so that it is there whole or not at all, also after a power cut.
func WriteExit(path string, e Exit) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".exit-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails once it has been renamed
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// ReadExit reads what WriteExit wrote; the error is os.ErrNotExist if nothing has ended yet.
func ReadExit(path string) (Exit, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Exit{}, err
	}
	var e Exit
	if err := json.Unmarshal(b, &e); err != nil {
		return Exit{}, fmt.Errorf("exit record %s: %w", path, err)
	}
	return e, nil
}

// Entry is a line of Docker's json-file log format, one JSON object a line.
type Entry struct {
	Log    string          `json:"log"` // with its newline, unless it is part of a longer line
	Stream string          `json:"stream"`
	Attrs  json.RawMessage `json:"attrs,omitempty"`
	Time   time.Time       `json:"time"`
}
