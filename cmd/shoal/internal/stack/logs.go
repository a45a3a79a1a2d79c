package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// colours are ANSI's for text, without black, white and the red of errors.
var colours = []string{"36", "33", "32", "35", "34", "96", "93", "92", "95", "94"}

// maxLine is how many bytes of one line are read; the daemon cuts at 16 KiB.
const maxLine = 1 << 20

// line is one that a task wrote.
type line struct {
	at, service, task, text string
	stderr                  bool
}

func newLogsCommand(dockerCLI command.Cli) *cobra.Command {
	var o client.ServiceLogsOptions
	var noColour, timestamps bool
	cmd := own(&cobra.Command{
		Use:   "logs [OPTIONS] STACK",
		Short: "Fetch the logs of all services of a stack",
		Args:  cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			have, err := services(cmd.Context(), dockerCLI.Client(), args[0])
			if err != nil {
				return err
			}
			if len(have) == 0 {
				return nothing(args[0])
			}
			p := &printer{api: dockerCLI.Client(), out: dockerCLI.Out(), err: dockerCLI.Err(), timestamps: timestamps, tasks: map[string]string{}, colour: map[string]string{}}
			_, quiet := os.LookupEnv("NO_COLOR")
			for i, name := range slices.Sorted(maps.Keys(have)) {
				p.width = max(p.width, len(name))
				if dockerCLI.Out().IsTerminal() && !quiet && !noColour {
					p.colour[name] = colours[i%len(colours)]
				}
			}
			o.ShowStdout, o.ShowStderr, o.Timestamps, o.Details = true, true, true, true
			return logs(cmd.Context(), dockerCLI.Client(), have, o, p.print)
		},
	})
	f := cmd.Flags()
	f.BoolVarP(&o.Follow, "follow", "f", false, "Follow log output")
	f.StringVar(&o.Since, "since", "", `Show logs since timestamp (e.g. "2013-01-02T13:23:37Z") or relative (e.g. "42m" for 42 minutes)`)
	f.StringVarP(&o.Tail, "tail", "n", "all", "Number of lines to show from the end of the logs of each service")
	f.BoolVarP(&timestamps, "timestamps", "t", false, "Show timestamps")
	f.BoolVar(&noColour, "no-color", false, "Do not tell services apart by colors")
	return cmd
}

// logs calls each for every line of the services: by their times, or, of what is followed, as they come.
func logs(ctx context.Context, api client.APIClient, of map[string]swarm.Service, o client.ServiceLogsOptions, each func(context.Context, line) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel() // before it is waited for
	names := slices.Sorted(maps.Keys(of))
	errs := make([]error, len(names))
	streams := make([]chan line, len(names))
	for i, name := range names {
		streams[i] = make(chan line)
		wg.Go(func() {
			defer close(streams[i])
			errs[i] = read(ctx, api, of[name], o, streams[i])
		})
	}
	var err error
	if o.Follow {
		err = inTurn(ctx, streams, each)
	} else {
		err = byTime(ctx, streams, each)
	}
	if err != nil {
		return err
	}
	return errors.Join(errs...)
}

// byTime merges streams that are each in the order of time.
func byTime(ctx context.Context, streams []chan line, each func(context.Context, line) error) error {
	heads := make([]*line, len(streams))
	for {
		first := -1
		for i, s := range streams {
			if heads[i] == nil {
				l, ok := <-s // its reader ends with ctx
				if !ok {
					continue
				}
				heads[i] = &l
			}
			if first < 0 || heads[i].at < heads[first].at {
				first = i
			}
		}
		if first < 0 {
			return context.Cause(ctx)
		}
		if err := each(ctx, *heads[first]); err != nil {
			return err
		}
		heads[first] = nil
	}
}

// inTurn passes on what comes.
func inTurn(ctx context.Context, streams []chan line, each func(context.Context, line) error) error {
	all := make(chan line)
	var wg sync.WaitGroup
	for _, s := range streams {
		wg.Go(func() {
			for l := range s {
				select {
				case all <- l:
				case <-ctx.Done():
				}
			}
		})
	}
	go func() {
		wg.Wait()
		close(all)
	}()
	for l := range all {
		if err := each(ctx, l); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// read reads one service's log to its end.
func read(ctx context.Context, api client.APIClient, s swarm.Service, o client.ServiceLogsOptions, to chan<- line) error {
	if c := s.Spec.TaskTemplate.ContainerSpec; c != nil && c.TTY {
		return fmt.Errorf("service %s: its tasks have terminals, whose output has no lines: see 'service logs --raw'", s.Spec.Name)
	}
	body, err := api.ServiceLogs(ctx, s.ID, o)
	if err != nil {
		return fmt.Errorf("service %s: %w", s.Spec.Name, err)
	}
	defer body.Close()
	pass := func(stderr bool) io.Writer {
		return &lines{each: func(b []byte) error {
			l, ok := parse(b)
			if !ok {
				return nil
			}
			l.service, l.stderr = s.Spec.Name, stderr
			select {
			case to <- l:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}}
	}
	if _, err = stdcopy.StdCopy(pass(false), pass(true), body); err != nil && ctx.Err() == nil {
		return fmt.Errorf("service %s: %w", s.Spec.Name, err)
	}
	return nil
}

// lines cuts what is written to it. It passes each line on before Write returns, so that those of two streams keep
// their order.
type lines struct {
	each func([]byte) error
	rest []byte
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		one, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			if len(l.rest) > maxLine {
				return 0, fmt.Errorf("a line of more than %d bytes", maxLine)
			}
			return len(b), nil
		}
		if err := l.each(one); err != nil {
			return 0, err
		}
		l.rest = rest
	}
}

// parse reads "TIME key=value,key=value TEXT".
func parse(b []byte) (line, bool) {
	parts := bytes.SplitN(b, []byte(" "), 3)
	if len(parts) < 3 {
		return line{}, false
	}
	l := line{at: string(parts[0]), text: string(parts[2])}
	for pair := range strings.SplitSeq(string(parts[1]), ",") {
		k, v, _ := strings.Cut(pair, "=")
		if k == "com.docker.swarm.task.id" {
			l.task, _ = url.QueryUnescape(v)
		}
	}
	return l, true
}

// printer prints lines for people.
type printer struct {
	api        client.APIClient
	out, err   io.Writer
	timestamps bool
	width      int               // of the longest service's name
	colour     map[string]string // by service
	tasks      map[string]string // their names, by ID
}

func (p *printer) print(ctx context.Context, l line) error {
	name, ok := p.tasks[l.task]
	if !ok {
		name = l.service
		if t, err := p.api.TaskInspect(ctx, l.task, client.TaskInspectOptions{}); err == nil && t.Task.Slot > 0 {
			name = fmt.Sprintf("%s.%d", l.service, t.Task.Slot)
		} else if err == nil {
			name = l.service + "." + t.Task.NodeID
		}
		p.tasks[l.task] = name
	}
	prefix := fmt.Sprintf("%-*s |", p.width+3, name)
	if c := p.colour[l.service]; c != "" {
		prefix = "\x1b[" + c + "m" + prefix + "\x1b[0m"
	}
	if p.timestamps {
		prefix += " " + l.at
	}
	w := p.out
	if l.stderr {
		w = p.err
	}
	_, err := fmt.Fprintln(w, prefix, l.text)
	return err
}
