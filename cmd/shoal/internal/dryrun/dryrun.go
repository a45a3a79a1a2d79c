// Package dryrun adds `stack plan`, and --dry-run to the commands that change the swarm.
//
// It decides which commands have the flag and how changes are printed. A dry run is the command itself, spoken to a copy
// of the swarm's records that the daemon keeps for it (see Shoal's package internal/dryrun), so that what is printed is
// what the command would do. It never decides what a change is.
package dryrun

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/streams"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

const (
	path   = "/shoal/v1/dryruns"
	header = "Shoal-Dry-Run" // see Shoal's package internal/dryrun

	// ExitChanges is the exit code of a plan that would change something, as terraform's and diff's are not 0 either.
	ExitChanges = 2
	// maxChanges is how many bytes of them are read: a service that is new has some 2,000.
	maxChanges = 64 << 20
	// endTimeout bounds how long the end of a dry run is told to the daemon, which forgets it anyway.
	endTimeout = 5 * time.Second
)

// commands are those that have the flag.
var commands = []string{
	"service create", "service update", "service scale", "service rollback", "service rm",
	"stack deploy", "stack rm", "stack rollback",
	"network create", "network rm", "secret create", "secret rotate", "secret rm", "config create", "config rotate", "config rm",
	"node update", "node promote", "node demote", "node rm", "swarm update",
}

// Cli is a command line whose commands can be tried: while they are, they speak to the copy, and what they say of
// success is not shown.
type Cli struct {
	command.Cli
	api client.APIClient
	out *streams.Out
	in  *streams.In
	id  string // of the dry run
}

// NewCli wraps a command line.
func NewCli(c command.Cli) *Cli { return &Cli{Cli: c} }

// Trying says whether a command is being tried.
func (c *Cli) Trying() bool { return c.api != nil }

// Header is that of requests at paths of Shoal's own; see [daemon.Ask].
func (c *Cli) Header() http.Header {
	h := http.Header{}
	if c.id != "" {
		h.Set(header, c.id)
	}
	return h
}

// Client is the daemon's API, or the copy's.
func (c *Cli) Client() client.APIClient {
	if c.api != nil {
		return c.api
	}
	return c.Cli.Client()
}

// Out is the standard output, or nothing while a command is tried.
func (c *Cli) Out() *streams.Out {
	if c.out != nil {
		return c.out
	}
	return c.Cli.Out()
}

// In is the standard input, or what it was given in its place.
func (c *Cli) In() *streams.In {
	if c.in != nil {
		return c.in
	}
	return c.Cli.In()
}

// Feed puts something in the place of the standard input until back is called.
func (c *Cli) Feed(r io.Reader) (back func()) {
	was := c.in
	c.in = streams.NewIn(io.NopCloser(r))
	return func() { c.in = was }
}

// AddCommands adds the flag and the command to root.
func (c *Cli) AddCommands(root *cobra.Command) {
	for _, name := range commands {
		cmd := find(root, name)
		if cmd == nil || cmd.RunE == nil {
			continue
		}
		if name == "stack deploy" {
			cmd.Parent().AddCommand(c.planCommand(cmd))
			c.addPlanFlag(cmd)
		}
		c.addFlag(cmd)
	}
}

// Missing are the commands that have no flag because they are not there, which a test wants to know after an upgrade
// of docker/cli.
func Missing(root *cobra.Command) (missing []string) {
	for _, name := range commands {
		if cmd := find(root, name); cmd == nil || cmd.Flags().Lookup("dry-run") == nil {
			missing = append(missing, name)
		}
	}
	return missing
}

func find(c *cobra.Command, path string) *cobra.Command {
	for name := range strings.FieldsSeq(path) {
		at := slices.IndexFunc(c.Commands(), func(x *cobra.Command) bool { return x.Name() == name })
		if at < 0 {
			return nil
		}
		c = c.Commands()[at]
	}
	return c
}

// addFlag gives a command its --dry-run.
func (c *Cli) addFlag(cmd *cobra.Command) {
	run := cmd.RunE
	dry := cmd.Flags().Bool("dry-run", false, "Print what would change in the swarm, and change nothing")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !*dry {
			return run(cmd, args)
		}
		changes, err := c.Try(cmd, args, run)
		if err != nil {
			return err
		}
		Show(c.Out(), changes, Would)
		return nil
	}
}

// addPlanFlag gives `stack deploy` its --plan.
func (c *Cli) addPlanFlag(deploy *cobra.Command) {
	run := deploy.RunE
	ask := deploy.Flags().Bool("plan", false, "Show what would change, and ask before it is done")
	deploy.RunE = func(cmd *cobra.Command, args []string) error {
		if !*ask {
			return run(cmd, args)
		}
		if files, err := cmd.Flags().GetStringSlice("compose-file"); err != nil || slices.Contains(files, "-") {
			return errors.Join(errors.New("with --plan the Compose file cannot be read from standard input, where the answer is read"), err)
		}
		detach := cmd.Flags().Lookup("detach").Value.String()
		changes, err := c.Try(cmd, args, run)
		if err != nil {
			return err
		}
		Show(c.Out(), changes, Would)
		if len(changes) == 0 {
			return nil
		}
		fmt.Fprint(c.Out(), "\nDeploy? [y/N] ")
		answer, err := bufio.NewReader(c.In()).ReadString('\n')
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return errors.Join(errors.New("not deployed"), err)
		}
		if err := cmd.Flags().Set("detach", detach); err != nil {
			return err
		}
		return run(cmd, args)
	}
}

// planCommand is `stack plan`: a deploy with all its flags that is only tried.
func (c *Cli) planCommand(deploy *cobra.Command) *cobra.Command {
	run := deploy.RunE
	var format string
	cmd := &cobra.Command{
		Use:   "plan [OPTIONS] STACK",
		Short: "Show what a deploy of a stack would change",
		Long: `Show what a deploy of a stack would change, object by object and field by field, and change nothing.

The exit code is 0 if nothing would change, 2 if something would, and 1 if the deploy would be refused.`,
		Args:              deploy.Args,
		ValidArgsFunction: deploy.ValidArgsFunction,
		RunE: func(cmd *cobra.Command, args []string) error {
			deploy.SetContext(cmd.Context())
			changes, err := c.Try(deploy, args, run)
			if err != nil {
				return err
			}
			body, err := json.Marshal(changes)
			if err != nil {
				return err
			}
			values := make([]any, len(changes))
			for i := range changes {
				values[i] = changes[i]
			}
			if err := daemon.Print(c, format, body, func(w io.Writer) { Show(w, changes, Would) }, values...); err != nil {
				return err
			}
			if len(changes) > 0 {
				return cli.StatusError{StatusCode: ExitChanges}
			}
			return nil
		},
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
	}
	cmd.Flags().AddFlagSet(deploy.Flags())
	daemon.FormatFlag(cmd, &format)
	return cmd
}

// Try runs a command against a copy of the swarm's records and returns what it changed there.
func (c *Cli) Try(cmd *cobra.Command, args []string, run func(*cobra.Command, []string) error) ([]Change, error) {
	ctx := cmd.Context()
	var opened struct{ ID string }
	if _, err := daemon.Read(ctx, c.Cli, http.MethodPost, path, daemon.MaxRefusal, &opened); err != nil {
		return nil, err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
		defer cancel()
		var nothing struct{}
		_, _ = daemon.Read(end, c.Cli, http.MethodDelete, path+"/"+opened.ID, daemon.MaxRefusal, &nothing) // the daemon forgets it without, too
	}()
	// A copy starts no tasks that could be waited for.
	if f := cmd.Flags().Lookup("detach"); f != nil {
		if err := cmd.Flags().Set("detach", "true"); err != nil {
			return nil, err
		}
	}
	api, err := daemon.Client(c.Cli.Client(), header, opened.ID)
	if err != nil {
		return nil, err
	}
	defer api.Close()
	c.api, c.out, c.id = api, streams.NewOut(io.Discard), opened.ID
	err = run(cmd, args)
	c.api, c.out, c.id = nil, nil, ""
	if err != nil {
		return nil, err
	}
	var changes []Change
	_, err = daemon.Read(ctx, c.Cli, http.MethodGet, path+"/"+opened.ID, maxChanges, &changes)
	return changes, err
}

// Change is Shoal's httpapi.DryRunChange.
type Change struct {
	Kind, Action, ID, Name string
	Fields                 []Field                                   `json:",omitempty"`
	Tasks                  *struct{ Replaced, Started, Stopped int } `json:",omitempty"`
}

// Field is Shoal's httpapi.DryRunField.
type Field struct{ Path, From, To string }

var signs = map[string]string{"create": "+", "update": "~", "remove": "-"}

// Tense is how changes are spoken of.
type Tense struct{ none, one string }

// Changes that would be made, and those that were.
var (
	Would = Tense{"Nothing would change.", "%d to %s"}
	Done  = Tense{"Nothing has changed.", "%d %sd"}
)

// Show prints changes for people.
func Show(w io.Writer, changes []Change, t Tense) {
	counts := map[string]int{}
	for _, c := range changes {
		counts[c.Action]++
		fmt.Fprintf(w, "%s %s %s%s\n", signs[c.Action], c.Kind, c.Name, effect(c))
		for _, f := range c.Fields {
			switch {
			case f.From == "":
				fmt.Fprintf(w, "    %s: %s\n", f.Path, oneLine(f.To))
			case f.To == "":
				fmt.Fprintf(w, "    %s: %s → (none)\n", f.Path, oneLine(f.From))
			default:
				fmt.Fprintf(w, "    %s: %s → %s\n", f.Path, oneLine(f.From), oneLine(f.To))
			}
		}
	}
	if len(changes) == 0 {
		fmt.Fprintln(w, t.none)
		return
	}
	var parts []string
	for _, a := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf(t.one, counts[a], a))
	}
	fmt.Fprintf(w, "\n%s.\n", strings.Join(parts, ", "))
}

// effect says what becomes of a service's tasks.
func effect(c Change) string {
	if c.Tasks == nil {
		return ""
	}
	var parts []string
	for _, x := range []struct {
		n    int
		what string
	}{{c.Tasks.Replaced, "replaced"}, {c.Tasks.Started, "started"}, {c.Tasks.Stopped, "stopped"}} {
		switch x.n {
		case 0:
		case 1:
			parts = append(parts, "1 task "+x.what)
		default:
			parts = append(parts, fmt.Sprintf("%d tasks %s", x.n, x.what))
		}
	}
	if len(parts) == 0 {
		if c.Action == "update" {
			return " (no task is touched)"
		}
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// maxShown is how many characters of a value are printed.
const maxShown = 120

func oneLine(s string) string {
	r := []rune(strings.ReplaceAll(s, "\n", `\n`))
	if len(r) > maxShown {
		return string(r[:maxShown]) + "…"
	}
	return string(r)
}
