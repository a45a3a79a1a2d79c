package node

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/events"

	"shoal.dev/shoal/internal/engine"
)

// liveKeys are the keys of daemon.json that take effect without a restart; each is one of Docker's but firewall and log-level.
var liveKeys = []string{"debug", "firewall", "insecure-registries", "labels", "log-level", "registry-mirrors"}

// Reloader is how a running daemon learns of a new configuration.
type Reloader struct {
	// Wanted asks for it by a value; nil never does.
	Wanted <-chan os.Signal
	// Load reads the flags and the file again. What it returns without an error is valid.
	Load func() (Config, error)
	// Level is that of the daemon's own log.
	Level *slog.LevelVar
}

// current is the configuration as it was last reloaded.
func (n *Node) current() *Config { return n.live.Load() }

// reloads takes up new configurations until ctx ends. One that is wrong in any key changes nothing.
func (n *Node) reloads(ctx context.Context, r Reloader) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.Wanted:
		}
		next, err := r.Load()
		if err == nil {
			err = n.engine.SetRegistries(next.InsecureRegistries, next.RegistryMirrors)
		}
		if err != nil {
			n.log.Error("the configuration cannot be reloaded and stays as it is", "error", err)
			continue
		}
		if later := restartKeys(&n.cfg, &next); len(later) > 0 {
			n.log.Warn("configuration that takes effect only when shoald is restarted", "keys", strings.Join(later, ", "))
		}
		now := n.cfg
		now.Debug, now.LogLevel, now.Labels = next.Debug, next.LogLevel, next.Labels
		now.InsecureRegistries, now.RegistryMirrors = next.InsecureRegistries, next.RegistryMirrors
		now.Firewall = next.Firewall
		n.live.Store(&now)
		n.firewall.Manage(now.Firewall == manageFirewall)
		r.Level.Set(now.Level())
		n.log.Info("configuration reloaded", "labels", now.Labels, "log-level", now.Level())
		n.engine.Announce(engine.Event{
			Type: string(events.DaemonEventType), Action: string(events.ActionReload), ID: n.id, Attributes: liveAttributes(&now),
		})
	}
}

// byKey calls fn with each key of daemon.json and its value.
func byKey(c *Config, fn func(key string, value any)) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		fn(v.Type().Field(i).Tag.Get("json"), v.Field(i).Interface())
	}
}

// restartKeys are the keys that differ and are not live.
func restartKeys(old, now *Config) []string {
	was := map[string]any{}
	byKey(old, func(k string, v any) { was[k] = v })
	var keys []string
	byKey(now, func(k string, v any) {
		if !slices.Contains(liveKeys, k) && !reflect.DeepEqual(was[k], v) {
			keys = append(keys, k)
		}
	})
	slices.Sort(keys)
	return keys
}

// liveAttributes are those of the daemon's reload event: its name and the live keys as JSON.
func liveAttributes(c *Config) map[string]string {
	a := map[string]string{"name": hostname()}
	byKey(c, func(k string, v any) {
		if s, isText := v.(string); isText && slices.Contains(liveKeys, k) {
			a[k] = s
		} else if slices.Contains(liveKeys, k) {
			data, _ := json.Marshal(v) // lists of text and truth values
			a[k] = string(data)
		}
	})
	return a
}
