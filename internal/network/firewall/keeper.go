package firewall

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// comment marks our rules in others' chains.
const comment = "shoal: firewall=manage"

// Config is what a [Keeper] works with.
type Config struct {
	Nft Nft
	// Generation changes with every change of the host's rules: package balance's.
	Generation func() (uint32, error)
	// Question is asked anew before each look.
	Question func() Question
	// Every is how often it is asked whether the rules changed; 0 is 5 s.
	Every time.Duration
	Log   *slog.Logger
}

// Keeper knows what stands in the way, and where it manages removes it. Its methods are safe for concurrent use, and a nil
// one knows of nothing.
type Keeper struct {
	cfg Config

	mu        sync.Mutex
	manage    bool
	looked    bool // at generation, with manage as it is
	gen       uint32
	obstacles []Obstacle
}

// NewKeeper returns a keeper that begins with [Keeper.Run].
func NewKeeper(cfg Config, manage bool) *Keeper {
	if cfg.Every == 0 {
		cfg.Every = 5 * time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Keeper{cfg: cfg, manage: manage}
}

// Manage says from now on whether the keeper opens the chains of dockerd, firewalld and ufw. Where it ceases to, its rules
// go within seconds.
func (k *Keeper) Manage(on bool) {
	if k == nil {
		return
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.manage != on {
		k.manage, k.looked = on, false
	}
}

// Obstacles are those of the last look that drop what is forwarded.
func (k *Keeper) Obstacles() []Obstacle {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.obstacles)
}

// Complaint says what certainly stands in the way of what is forwarded, with the command that helps; "" if nothing does.
func (k *Keeper) Complaint() string {
	for _, o := range k.Obstacles() {
		if !o.Possible {
			return o.String() + "; run: " + o.Remedy
		}
	}
	return ""
}

// Run looks at the host's rules whenever they change until ctx ends, which is its only error. The rules that it has put into
// others' chains stay then, because containers do, too.
func (k *Keeper) Run(ctx context.Context) error {
	tick := time.NewTicker(k.cfg.Every)
	defer tick.Stop()
	failed := ""
	for {
		err := k.Look(ctx)
		switch {
		case err == nil:
			failed = ""
		case ctx.Err() == nil && err.Error() != failed:
			failed = err.Error()
			k.cfg.Log.Warn("cannot see whether other programs' packet filters let containers' packets through", "error", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Look does what is to be done, if the rules or the order changed since the last time.
func (k *Keeper) Look(ctx context.Context) error {
	gen, err := k.cfg.Generation()
	if err != nil {
		return err
	}
	k.mu.Lock()
	manage, known := k.manage, k.looked && k.gen == gen
	k.mu.Unlock()
	if known {
		return nil
	}
	q := k.cfg.Question()
	rules, err := Read(ctx, k.cfg.Nft)
	if err != nil {
		return err
	}
	found := rules.Obstacles(q)
	if script := rules.change(found, manage); script != "" {
		if _, err := k.cfg.Nft(ctx, script, "-f", "-"); err != nil {
			return fmt.Errorf("change the chains of other programs: %w", err)
		}
		k.cfg.Log.Info("changed the chains of other programs", "manage", manage, "rules", strings.TrimSpace(script))
		if rules, err = Read(ctx, k.cfg.Nft); err != nil {
			return err
		}
		found = rules.Obstacles(q)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, o := range found {
		if !slices.ContainsFunc(k.obstacles, func(had Obstacle) bool { return had.String() == o.String() }) {
			k.cfg.Log.Warn("another program's packet filter is in the way", "chain", o.String(), "remedy", o.Remedy)
		}
	}
	// If the rules changed meanwhile, ours included, the next look reads them again.
	k.gen, k.looked, k.obstacles = gen, k.manage == manage, found
	return nil
}

// change is what is to be done to our rules in others' chains, as input of nft; "" if they are right.
func (r *Ruleset) change(found []Obstacle, manage bool) string {
	var script strings.Builder
	if !manage {
		for _, m := range r.own {
			fmt.Fprintf(&script, "delete rule %s %s %s handle %d\n", m.family, m.table, m.name, m.handle)
		}
		return script.String()
	}
	for _, o := range found {
		at, ok := o.door()
		if !ok || r.chains[at] == nil || slices.ContainsFunc(r.own, func(m mark) bool { return m.chainKey == at }) {
			continue
		}
		for _, side := range []string{"iifname", "oifname"} {
			fmt.Fprintf(&script, "insert rule %s %s %s %s %s counter accept comment %s\n", at.family, at.table, at.name, side, quote(interfaces), quote(comment))
		}
	}
	return script.String()
}

// door is the chain in which an obstacle's program expects rules of the host's user.
func (o *Obstacle) door() (chainKey, bool) {
	switch {
	case o.Owner == "docker":
		return chainKey{o.Family, o.Table, dockerUser}, true
	case o.Owner == "ufw" && o.Chain == "FORWARD":
		return chainKey{o.Family, o.Table, ufwForward}, true
	case o.Owner == "firewalld" && o.Chain == firewalldForward:
		return chainKey{o.Family, o.Table, o.Chain}, true
	}
	return chainKey{}, false
}

func quote(s string) string { return `"` + s + `"` }
