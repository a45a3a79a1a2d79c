package anywhere

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"text/template"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/docker/cli/templates"
	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

const (
	// settle is how long an event waits for earlier ones of other nodes.
	settle = 250 * time.Millisecond
	// again is the time between tries to reach a node.
	again = time.Second
	// attributeNode has the name of the node that an event is of.
	attributeNode = "node"
	// eventTime is RFC 3339 with all nine digits, as docker/cli prints it.
	eventTime = "2006-01-02T15:04:05.000000000Z07:00"
)

func addEvents(c *cobra.Command, cli command.Cli) {
	run := c.RunE
	all := c.Flags().Bool("swarm", false, "Show the events of all nodes of the swarm")
	c.RunE = func(c *cobra.Command, args []string) error {
		if !*all {
			return run(c, args)
		}
		return showEvents(c, cli)
	}
}

func showEvents(c *cobra.Command, dockerCLI command.Cli) error {
	flags := c.Flags()
	format, _ := flags.GetString("format")
	tmpl, err := eventTemplate(format)
	if err != nil {
		return cli.StatusError{StatusCode: 64, Status: "Error parsing format: " + err.Error()}
	}
	var o client.EventsListOptions
	o.Since, _ = flags.GetString("since")
	o.Until, _ = flags.GetString("until")
	if f, ok := flags.Lookup("filter").Value.(*opts.FilterOpt); ok {
		o.Filters = f.Value()
	}
	info, err := dockerCLI.Client().Info(c.Context(), client.InfoOptions{})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(c.Context())
	defer cancel(nil)
	w := &watcher{
		api: dockerCLI.Client(), err: dockerCLI.Err(), opts: o, self: info.Info.Swarm.NodeID, fail: cancel,
		in: make(chan events.Message), follows: map[string]context.CancelFunc{},
	}
	if err := w.refresh(ctx, true); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		w.wg.Wait()
		close(ended)
	}()
	return w.merge(ctx, ended, func(e events.Message) error { return printEvent(dockerCLI.Out(), e, tmpl) })
}

// watcher follows the events of all nodes. Those of the swarm's records, which every manager has, it takes from the
// manager that is asked.
type watcher struct {
	api  client.APIClient
	err  io.Writer
	opts client.EventsListOptions
	self string
	fail context.CancelCauseFunc
	in   chan events.Message
	wg   sync.WaitGroup // nodes that are followed

	mu      sync.Mutex
	follows map[string]context.CancelFunc // by node ID
}

// refresh begins to follow nodes that are not followed yet, and ends those that are gone.
func (w *watcher) refresh(ctx context.Context, first bool) error {
	list, err := members(ctx, w.api)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	there := map[string]bool{}
	for _, m := range list {
		there[m.id] = true
		switch {
		case w.follows[m.id] != nil:
		case m.down != "":
			if first {
				fmt.Fprintf(w.err, "WARNING: node %s is %s: its events are not shown until it is back\n", m.name, m.down)
			}
		default:
			ctx, cancel := context.WithCancel(ctx)
			w.follows[m.id] = cancel
			o := w.opts
			if !first && o.Since == "" {
				o.Since = fmt.Sprintf("%.9f", float64(time.Now().Add(-again).UnixNano())/1e9)
			}
			w.wg.Go(func() { w.follow(ctx, m, o) })
		}
	}
	for id, cancel := range w.follows {
		if !there[id] {
			cancel()
			delete(w.follows, id)
		}
	}
	return nil
}

// follow passes on a node's events until ctx ends or the time that was asked for comes.
func (w *watcher) follow(ctx context.Context, m member, o client.EventsListOptions) {
	said := false
	for {
		err := w.read(ctx, m, &o, func() { said = false })
		switch {
		case err == nil || ctx.Err() != nil:
			return
		case m.id == w.self:
			w.fail(err)
			return
		case !said:
			said = true
			fmt.Fprintf(w.err, "WARNING: the events of node %s cannot be read now, and are tried again: %v\n", m.name, err)
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return
		}
	}
}

// read reads once from a node; nil is the end of what was asked for. o goes on behind the last event.
func (w *watcher) read(ctx context.Context, m member, o *client.EventsListOptions, heard func()) error {
	api := w.api
	if m.id != w.self {
		far, err := m.at(w.api)
		if err != nil {
			return err
		}
		defer far.Close()
		api = far
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res := api.Events(ctx, *o)
	for {
		select {
		case e := <-res.Messages:
			heard()
			o.Since = fmt.Sprintf("%d.%09d", (e.TimeNano+1)/1e9, (e.TimeNano+1)%1e9)
			if m.id != w.self && e.Scope == "swarm" {
				continue
			}
			if e.Actor.Attributes == nil {
				e.Actor.Attributes = map[string]string{}
			}
			if e.Scope != "swarm" {
				e.Actor.Attributes[attributeNode] = m.name
			}
			select {
			case w.in <- e:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case err := <-res.Err:
			if errors.Is(err, io.EOF) && o.Until != "" {
				return nil
			}
			if err == nil || errors.Is(err, io.EOF) {
				err = errors.New("the stream ended")
			}
			return err
		}
	}
}

// merge passes events on in the order of their times, as far as their nodes' clocks agree.
func (w *watcher) merge(ctx context.Context, ended <-chan struct{}, each func(events.Message) error) error {
	type waiting struct {
		events.Message
		came time.Time
	}
	var queue []waiting
	tick := time.NewTicker(settle / 5)
	defer tick.Stop()
	for {
		last := false
		select {
		case e := <-w.in:
			queue = append(queue, waiting{e, time.Now()})
			if e.Type == events.NodeEventType {
				if err := w.refresh(ctx, false); err != nil && ctx.Err() == nil {
					fmt.Fprintf(w.err, "WARNING: which nodes there are is not known now: %v\n", err)
				}
			}
			continue
		case <-tick.C:
		case <-ended:
			last = true
		case <-ctx.Done():
		}
		slices.SortStableFunc(queue, func(a, b waiting) int { return cmp.Compare(a.TimeNano, b.TimeNano) })
		// One that has waited long enough takes with it those that are earlier.
		n := 0
		for i, e := range queue {
			if last || ctx.Err() != nil || time.Since(e.came) >= settle {
				n = i + 1
			}
		}
		for _, e := range queue[:n] {
			if err := each(e.Message); err != nil {
				return err
			}
		}
		queue = queue[n:]
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if last {
			return nil
		}
	}
}

func eventTemplate(format string) (*template.Template, error) {
	switch format {
	case "":
		return nil, nil
	case formatter.JSONFormatKey:
		format = formatter.JSONFormat
	}
	tmpl, err := templates.Parse(format)
	if err != nil {
		return nil, err
	}
	return tmpl, tmpl.Execute(io.Discard, &events.Message{})
}

// printEvent prints an event as docker/cli does.
func printEvent(out io.Writer, e events.Message, tmpl *template.Template) error {
	if tmpl != nil {
		if err := tmpl.Execute(out, e); err != nil {
			return err
		}
		_, err := fmt.Fprintln(out)
		return err
	}
	var attrs []string
	for _, k := range slices.Sorted(maps.Keys(e.Actor.Attributes)) {
		attrs = append(attrs, k+"="+e.Actor.Attributes[k])
	}
	tail := ""
	if len(attrs) > 0 {
		tail = " (" + strings.Join(attrs, ", ") + ")"
	}
	_, err := fmt.Fprintf(out, "%s %s %s %s%s\n", time.Unix(0, e.TimeNano).Format(eventTime), e.Type, e.Action, e.Actor.ID, tail)
	return err
}
