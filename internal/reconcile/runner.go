package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"shoal.dev/shoal/internal/store"
)

// What bounds a round.
const (
	// maxGroups is how many groups go into one entry: enough that 1,000 tasks are a few entries, few enough that an
	// entry is well under a megabyte and does not hold up Raft's heartbeats.
	maxGroups = 256
	// maxCommits is how many entries of one round are on their way at a time: while one is synced to the disk or applied,
	// the next is encoded.
	maxCommits = 4
	// proposeTimeout is how long one entry may take before its outcome counts as unknown.
	proposeTimeout = 30 * time.Second
	// backOff is the wait before the third try of a key whose plans conflict; it doubles up to maxBackOff. The second
	// try is immediate: most conflicts are one status that came in between.
	backOff    = 10 * time.Millisecond
	maxBackOff = 2 * time.Second
	// maxIdle bounds a sleep, so that a change of swarm time is noticed.
	maxIdle = time.Minute
)

// Config is what a [Runner] needs.
type Config struct {
	Store    *store.Store
	Observed Observed
	// Planners plan in this order in every round, all on the same snapshot.
	Planners []Planner
	// NewID makes IDs for records.
	NewID func() string
	Log   *slog.Logger
}

// Runner is the control loop of one term of leadership: make a new one for the next term.
type Runner struct {
	cfg     Config
	watch   *store.Watcher
	queues  []*queue
	poked   chan struct{} // capacity 1
	pokesMu sync.Mutex
	pokes   []poke

	outcomesMu sync.Mutex // guards the outcomes of a round while it commits

	reasonsMu sync.Mutex
	reasons   map[Reason][]string // the texts by planner and key; Reason.Texts is nil in the map's keys
}

type poke struct {
	planner string
	keys    []Key
}

// outcome is what became of a key's plan in one round.
type outcome struct {
	queue             *queue
	key               Key
	committed, failed int // groups
}

// planned is a group with whose it is.
type planned struct {
	*outcome
	group store.Group
}

// NewRunner returns a runner that does nothing until [Runner.Run] or [Runner.Step].
func NewRunner(c Config) *Runner {
	r := &Runner{cfg: c, poked: make(chan struct{}, 1), reasons: map[Reason][]string{}}
	for _, p := range c.Planners {
		r.queues = append(r.queues, newQueue(p))
	}
	return r
}

// Run plans until ctx ends, whose cause it returns, or until this manager is not the leader any more, which is
// [store.ErrNotLeader]. It first commits an empty entry: when that has come back, the store has everything that
// earlier leaders committed, so no plan overlaps theirs.
func (r *Runner) Run(ctx context.Context) error {
	defer r.Close()
	for {
		again, err := r.Begin(ctx)
		if err == nil {
			break
		}
		if err := r.pause(ctx, again, err); err != nil {
			return err
		}
	}
	for {
		next, err := r.Step(ctx, r.cfg.Store.Now())
		if err != nil {
			return err
		}
		if err := r.wait(ctx, next); err != nil {
			return err
		}
	}
}

// Begin commits the empty entry and marks everything dirty. After an error that is not the end of the leadership it
// may be called again after the wait it returns.
func (r *Runner) Begin(ctx context.Context) (wait time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	if _, _, err := r.cfg.Store.Propose(ctx, nil); err != nil {
		return maxBackOff / 10, fmt.Errorf("beginning to plan: %w", err)
	}
	r.start()
	return 0, nil
}

func (r *Runner) start() {
	w, snap := r.cfg.Store.Watch()
	r.watch = w
	r.markAll(snap)
}

func (r *Runner) markAll(snap *store.Snapshot) {
	for _, q := range r.queues {
		q.mark(q.planner.AllKeys(snap)...)
	}
}

// Close lets go of the store. Run does it itself; whoever uses Step calls it at the end.
func (r *Runner) Close() {
	if r.watch != nil {
		r.watch.Close()
		r.watch = nil
	}
}

// pause waits after an error unless the error ends the leadership.
func (r *Runner) pause(ctx context.Context, d time.Duration, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, store.ErrNotLeader) {
		return err
	}
	r.cfg.Log.Warn("cannot plan yet", "error", err)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wait sleeps until next (zero: until something happens).
func (r *Runner) wait(ctx context.Context, next time.Time) error {
	d := maxIdle
	if !next.IsZero() {
		d = min(d, next.Sub(r.cfg.Store.Now()))
	}
	if d <= 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-r.watch.Ready():
	case <-r.poked:
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// Poke marks keys of a planner dirty although nothing in the store changed; for what only [Observed] knows. It is
// safe for concurrent use and never waits.
func (r *Runner) Poke(planner string, keys ...Key) {
	r.pokesMu.Lock()
	r.pokes = append(r.pokes, poke{planner, keys})
	r.pokesMu.Unlock()
	select {
	case r.poked <- struct{}{}:
	default:
	}
}

// Step is one round: it takes what changed, plans what is dirty or due at now on one snapshot, and commits the plans.
// It returns when to step next if nothing happens before: now, if there is more to do; zero, if never. Its error is
// [store.ErrNotLeader] or ctx's cause; every other failure is tried again in later rounds. Without an earlier
// [Runner.Begin] the first Step marks everything dirty.
func (r *Runner) Step(ctx context.Context, now time.Time) (next time.Time, err error) {
	if r.watch == nil {
		r.start()
	}
	events, _ := r.watch.Take()
	snap := r.cfg.Store.Snapshot()
	r.mark(snap, events)
	env := Env{Now: now, NewID: r.cfg.NewID, Observed: r.cfg.Observed}
	var work []planned
	var keys []*outcome
	for _, q := range r.queues {
		for _, key := range q.take(now) {
			p := q.planner.Plan(snap, key, env)
			q.again(key, p.Again)
			r.setReasons(q.planner.Name(), key, p.Reasons)
			o := &outcome{queue: q, key: key}
			keys = append(keys, o)
			for _, g := range p.Groups {
				work = append(work, planned{o, g})
			}
		}
	}
	if err := r.commitAll(ctx, work); err != nil {
		return time.Time{}, err
	}
	for _, o := range keys {
		o.queue.done(o.key, o.committed, o.failed, now)
	}
	for _, q := range r.queues {
		next = earlier(next, q.next(now))
	}
	return next, nil
}

func (r *Runner) mark(snap *store.Snapshot, events []store.Event) {
	for _, e := range events {
		if e.Reset {
			r.markAll(snap)
			continue
		}
		for _, q := range r.queues {
			q.mark(q.planner.Keys(snap, e)...)
		}
	}
	r.pokesMu.Lock()
	pokes := r.pokes
	r.pokes = nil
	r.pokesMu.Unlock()
	for _, p := range pokes {
		for _, q := range r.queues {
			if q.planner.Name() == p.planner {
				q.mark(p.keys...)
			}
		}
	}
}

// commitAll proposes the work in entries of a bounded size, some at a time: their groups are independent of each other.
func (r *Runner) commitAll(ctx context.Context, work []planned) error {
	if len(work) == 0 {
		return nil
	}
	if len(work) <= maxGroups {
		return r.commit(ctx, work)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(maxCommits)
	for part := range slices.Chunk(work, maxGroups) {
		group.Go(func() error { return r.commit(ctx, part) })
	}
	return group.Wait()
}

// commit proposes the work as one entry, or as several if it is too large for one.
func (r *Runner) commit(ctx context.Context, work []planned) error {
	groups := make([]store.Group, len(work))
	for i, w := range work {
		groups[i] = w.group
	}
	pctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	index, errs, err := r.cfg.Store.Propose(pctx, groups)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, store.ErrNotLeader):
		return err
	case errors.Is(err, store.ErrTooLarge) && len(work) > 1:
		half := len(work) / 2
		if err := r.commit(ctx, work[:half]); err != nil {
			return err
		}
		return r.commit(ctx, work[half:])
	default:
		r.cfg.Log.Warn("a plan was not committed, or not known to be; planning again", "error", err, "groups", len(work))
		r.outcomesMu.Lock()
		defer r.outcomesMu.Unlock()
		for _, w := range work {
			w.failed++
		}
		return nil
	}
	r.outcomesMu.Lock()
	defer r.outcomesMu.Unlock()
	for i, w := range work {
		if errs[i] == nil {
			w.committed++
		} else {
			w.failed++
		}
		if r.cfg.Log.Enabled(ctx, slog.LevelDebug) {
			r.cfg.Log.Debug("planned", "planner", w.queue.planner.Name(), "key", w.key, "why", w.group.Why, "index", index, "conflict", errs[i])
		}
	}
	return nil
}

// Reason is what a planner wanted and could not plan, in words.
type Reason struct {
	Planner string
	Key     Key
	Text    string
}

func (r *Runner) setReasons(planner string, key Key, texts []string) {
	r.reasonsMu.Lock()
	defer r.reasonsMu.Unlock()
	k := Reason{Planner: planner, Key: key}
	if len(texts) == 0 {
		delete(r.reasons, k)
		return
	}
	r.reasons[k] = texts
}

// Reasons is everything that was wanted and not planned, sorted. It is safe for concurrent use.
func (r *Runner) Reasons() []Reason {
	r.reasonsMu.Lock()
	defer r.reasonsMu.Unlock()
	var out []Reason
	for k, texts := range r.reasons {
		for _, t := range texts {
			out = append(out, Reason{k.Planner, k.Key, t})
		}
	}
	slices.SortFunc(out, func(a, b Reason) int {
		return strings.Compare(a.Planner+"\x00"+string(a.Key)+"\x00"+a.Text, b.Planner+"\x00"+string(b.Key)+"\x00"+b.Text)
	})
	return out
}

// earlier is the earlier of two times; the zero time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
