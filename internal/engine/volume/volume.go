// Package volume keeps the volumes of one host: Docker's driver "local".
//
// It decides what a volume may be called and which options it takes, which mounts a container asks for, who uses a
// volume and when it may go, and what of an image a new volume begins with. It owns the folder that it is opened on:
// NAME/_data holds a volume's files, NAME/volume.json what it is, and names that begin with a dot are work in progress,
// which [Open] removes. A volume appears and disappears by one rename, so that a crash leaves it whole or not there.
// Who uses a volume is in memory only: the engine says it again when it starts. It never touches files outside its
// folder, but for mounting what a volume's options name.
package volume

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/volume"

	"shoal.dev/shoal/internal/engine/ledger"
)

const (
	driver = "local"
	// anonymous is the label of volumes that nobody named; Docker's.
	anonymous = "com.docker.volume.anonymous"

	dataName, recordName = "_data", "volume.json"
	maxName              = 255 // bytes of a file's name
)

// record is a volume as its file says.
type record struct {
	Name    string
	Created time.Time
	Labels  map[string]string
	Options map[string]string
}

// entry is a volume and who uses it. Store.mu guards users; work is held while its files or its mount change.
type entry struct {
	record
	users map[string]bool // containers that name it

	work  sync.Mutex
	gone  bool
	holds map[string]bool // containers for which it is mounted
}

// Store holds the volumes of a host. Its methods are safe for concurrent use.
type Store struct {
	dir    string // "": nothing is written, for tests
	report Report

	mu     sync.Mutex
	byName map[string]*entry
}

// Report is told of every event: create, mount, unmount, destroy.
type Report func(name, action string, attributes map[string]string)

// Memory is a store that writes and mounts nothing.
func Memory(r Report) *Store { return &Store{report: r, byName: map[string]*entry{}} }

// Open reads the volumes in dir, which it makes if need be.
func Open(dir string, r Report) (*Store, error) {
	s := &Store{dir: dir, report: r, byName: map[string]*entry{}}
	if err := os.MkdirAll(dir, 0o701); err != nil {
		return nil, err
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range list {
		if strings.HasPrefix(d.Name(), ".") {
			if err := os.RemoveAll(filepath.Join(dir, d.Name())); err != nil {
				return nil, err
			}
			continue
		}
		b, err := os.ReadFile(filepath.Join(dir, d.Name(), recordName))
		if errors.Is(err, fs.ErrNotExist) {
			continue // not ours
		}
		if err != nil {
			return nil, err
		}
		var rec record
		if err := json.Unmarshal(b, &rec); err != nil || rec.Name != d.Name() {
			return nil, fmt.Errorf("the record of the volume %s in %s cannot be read: restore or remove it", d.Name(), dir)
		}
		s.byName[rec.Name] = newEntry(rec)
	}
	return s, nil
}

func newEntry(rec record) *entry {
	return &entry{record: rec, users: map[string]bool{}, holds: map[string]bool{}}
}

// Create implements engine.Volumes.
func (s *Store) Create(ctx context.Context, r volume.CreateRequest) (*volume.Volume, error) {
	e, err := s.claim(ctx, r, "")
	if err != nil {
		return nil, err
	}
	return s.show(e), nil
}

var validName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

func check(r volume.CreateRequest) error {
	bad := func(class error, format string, args ...any) error {
		return ledger.Errorf(class, "create %s: %s", r.Name, fmt.Sprintf(format, args...))
	}
	if r.ClusterVolumeSpec != nil {
		return ledger.Errorf(errdefs.ErrNotImplemented, "cluster volumes are not supported: they are not implemented by Shoal")
	}
	if r.Driver != "" && r.Driver != driver {
		return bad(errdefs.ErrNotFound, "error looking up volume plugin %s: plugin %q not found", r.Driver, r.Driver)
	}
	switch {
	case len(r.Name) == 1:
		return bad(errdefs.ErrInvalidArgument, "volume name is too short, names should be at least two alphanumeric characters")
	case !validName.MatchString(r.Name):
		return bad(errdefs.ErrInvalidArgument, "%q includes invalid characters for a local volume name, only %q are allowed. "+
			"If you intended to pass a host directory, use absolute path", r.Name, "[a-zA-Z0-9][a-zA-Z0-9_.-]")
	case len(r.Name) > maxName:
		return bad(errdefs.ErrInvalidArgument, "volume name is too long: it has %d characters and may have %d", len(r.Name), maxName)
	}
	needs := map[string][]string{"type": {"device"}, "device": {"type"}, "o": {"type", "device"}}
	for _, k := range slices.Sorted(maps.Keys(r.DriverOpts)) {
		if k == "size" {
			return bad(errdefs.ErrInvalidArgument, "quota size requested but no quota support")
		}
		if needs[k] == nil {
			return bad(errdefs.ErrInvalidArgument, "invalid option: %q", k)
		}
		for _, other := range needs[k] {
			if _, ok := r.DriverOpts[other]; !ok {
				return bad(errdefs.ErrInvalidArgument, "missing required option: %q", other)
			}
		}
	}
	return nil
}

// claim makes the volume, unless it is there already, and notes that user uses it; "" is nobody.
func (s *Store) claim(ctx context.Context, r volume.CreateRequest, user string) (*entry, error) {
	if r.Name == "" {
		var b [32]byte
		_, _ = rand.Read(b[:]) // never fails
		r.Name = hex.EncodeToString(b[:])
		r.Labels = maps.Clone(r.Labels)
		if r.Labels == nil {
			r.Labels = map[string]string{}
		}
		r.Labels[anonymous] = ""
	}
	if err := check(r); err != nil {
		return nil, err
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		s.mu.Lock()
		e := s.byName[r.Name]
		if e != nil {
			if user != "" {
				e.users[user] = true
			}
			s.mu.Unlock()
			e.work.Lock() // until it is made, or removed
			gone := e.gone
			e.work.Unlock()
			if gone {
				continue
			}
			return e, nil
		}
		e = newEntry(record{Name: r.Name, Created: time.Now().UTC(), Labels: r.Labels, Options: r.DriverOpts})
		if user != "" {
			e.users[user] = true
		}
		e.work.Lock()
		s.byName[r.Name] = e
		s.mu.Unlock()
		err := s.write(&e.record)
		if err != nil {
			e.gone = true
			s.forget(e)
		}
		e.work.Unlock()
		if err != nil {
			return nil, fmt.Errorf("create %s: %w", r.Name, err)
		}
		s.report(r.Name, "create", map[string]string{"driver": driver})
		return e, nil
	}
}

func (s *Store) forget(e *entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byName[e.Name] == e {
		delete(s.byName, e.Name)
	}
}

// write makes the volume's folder, whole or not at all.
func (s *Store) write(rec *record) (err error) {
	if s.dir == "" {
		return nil
	}
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.dir, ".new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(tmp)
		}
	}()
	if err := os.Chmod(tmp, 0o701); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(tmp, dataName), 0o755); err != nil {
		return err
	}
	if err := os.Chmod(filepath.Join(tmp, dataName), 0o755); err != nil { // whatever the umask
		return err
	}
	f, err := os.OpenFile(filepath.Join(tmp, recordName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, s.path(rec.Name)); err != nil {
		return err
	}
	return syncDir(s.dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (s *Store) path(name string) string { return filepath.Join(s.dir, name) }
func (s *Store) data(name string) string { return filepath.Join(s.dir, name, dataName) }

func (s *Store) find(name string) (*entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.byName[name]; e != nil {
		return e, nil
	}
	return nil, ledger.Errorf(errdefs.ErrNotFound, "get %s: no such volume", name)
}

// Inspect implements engine.Volumes.
func (s *Store) Inspect(_ context.Context, name string) (*volume.Volume, error) {
	e, err := s.find(name)
	if err != nil {
		return nil, err
	}
	return s.show(e), nil
}

func (s *Store) show(e *entry) *volume.Volume {
	return &volume.Volume{
		Name: e.Name, Driver: driver, Scope: "local", Mountpoint: s.data(e.Name), Labels: maps.Clone(e.Labels),
		Options: maps.Clone(e.Options), CreatedAt: e.Created.Format(time.RFC3339),
	}
}

// Remove implements engine.Volumes.
func (s *Store) Remove(_ context.Context, name string, force bool) error {
	e, err := s.find(name)
	if err != nil {
		if force {
			return nil
		}
		return err
	}
	return s.remove(e)
}

func (s *Store) remove(e *entry) error {
	e.work.Lock()
	defer e.work.Unlock()
	if e.gone {
		return ledger.Errorf(errdefs.ErrNotFound, "get %s: no such volume", e.Name)
	}
	s.mu.Lock()
	if len(e.users) > 0 {
		users := slices.Sorted(maps.Keys(e.users))
		s.mu.Unlock()
		return ledger.Errorf(errdefs.ErrConflict, "remove %s: volume is in use - [%s]", e.Name, strings.Join(users, ", "))
	}
	// From here on a claim of the same name waits for the lock that we hold, and then makes a new volume.
	delete(s.byName, e.Name)
	s.mu.Unlock()
	if err := s.erase(e); err != nil {
		s.mu.Lock()
		s.byName[e.Name] = e
		s.mu.Unlock()
		return fmt.Errorf("remove %s: %w", e.Name, err)
	}
	e.gone = true
	s.report(e.Name, "destroy", map[string]string{"driver": driver})
	return nil
}

func (s *Store) erase(e *entry) error {
	if s.dir == "" {
		return nil
	}
	if err := s.unmount(e); err != nil { // or its files on another file system would go
		return err
	}
	tmp, err := os.MkdirTemp(s.dir, ".gone-")
	if err != nil {
		return err
	}
	if err := os.Rename(s.path(e.Name), filepath.Join(tmp, "v")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(tmp)
		return err
	}
	return os.RemoveAll(tmp)
}

// filters are those of GET /volumes. label asks for all of its values, the others for one.
var filters = map[string]func(e *entry, used bool, v string) (bool, error){
	"name": func(e *entry, _ bool, v string) (bool, error) {
		re, err := regexp.Compile(v)
		if err != nil {
			return false, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid filter 'name=%s': %s", v, err)
		}
		return re.MatchString(e.Name), nil
	},
	"label":  func(e *entry, _ bool, v string) (bool, error) { return ledger.MatchLabel(e.Labels, v), nil },
	"driver": func(_ *entry, _ bool, v string) (bool, error) { return v == driver, nil },
	"dangling": func(_ *entry, used bool, v string) (bool, error) {
		switch v {
		case "true", "1":
			return !used, nil
		case "false", "0":
			return used, nil
		}
		return false, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid filter 'dangling=[%s]'", v)
	},
}

// List implements engine.Volumes.
func (s *Store) List(_ context.Context, f map[string][]string) ([]volume.Volume, error) {
	for k := range f {
		if filters[k] == nil {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid filter '%s'", k)
		}
	}
	for k, values := range f { // also if there is no volume to ask it of
		for _, v := range values {
			if _, err := filters[k](&entry{}, false, v); err != nil {
				return nil, err
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	list := []volume.Volume{}
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		e := s.byName[name]
		passes := true
		for k, values := range f {
			n := 0
			for _, v := range values {
				ok, err := filters[k](e, len(e.users) > 0, v)
				if err != nil {
					return nil, err
				}
				if ok {
					n++
				}
			}
			passes = passes && (n > 0 && k != "label" || n == len(values))
		}
		if passes {
			list = append(list, *s.show(e))
		}
	}
	return list, nil
}

// Prune implements engine.Volumes.
func (s *Store) Prune(ctx context.Context, f map[string][]string) (*volume.PruneReport, error) {
	for k := range f {
		if k != "label" && k != "label!" && k != "all" {
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid filter '%s'", k)
		}
	}
	all := false
	for _, v := range f["all"] {
		switch v {
		case "true", "1":
			all = true
		case "false", "0":
		default:
			return nil, ledger.Errorf(errdefs.ErrInvalidArgument, "invalid filter 'all=[%s]'", v)
		}
	}
	s.mu.Lock()
	var idle []*entry
	for _, name := range slices.Sorted(maps.Keys(s.byName)) {
		e := s.byName[name]
		_, unnamed := e.Labels[anonymous]
		if len(e.users) > 0 || !all && !unnamed ||
			slices.ContainsFunc(f["label"], func(v string) bool { return !ledger.MatchLabel(e.Labels, v) }) ||
			slices.ContainsFunc(f["label!"], func(v string) bool { return ledger.MatchLabel(e.Labels, v) }) {
			continue
		}
		idle = append(idle, e)
	}
	s.mu.Unlock()
	r := &volume.PruneReport{VolumesDeleted: []string{}}
	for _, e := range idle {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		size := s.size(e)
		if err := s.remove(e); err != nil {
			if errdefs.IsConflict(err) || errdefs.IsNotFound(err) { // somebody was quicker
				continue
			}
			return r, err
		}
		r.VolumesDeleted = append(r.VolumesDeleted, e.Name)
		r.SpaceReclaimed += size
	}
	s.report("", "prune", map[string]string{"reclaimed": fmt.Sprint(r.SpaceReclaimed)})
	return r, nil
}

// size is what removing the volume frees, in bytes; nothing for one whose files are elsewhere.
func (s *Store) size(e *entry) (sum uint64) {
	if s.dir == "" || len(e.Options) > 0 {
		return 0
	}
	_ = filepath.WalkDir(s.data(e.Name), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // what cannot be read does not count
		}
		if i, err := d.Info(); err == nil {
			sum += uint64(i.Size())
		}
		return nil
	})
	return sum
}
