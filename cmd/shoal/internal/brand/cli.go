package brand

import (
	"io"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/streams"
	"github.com/spf13/cobra"
)

// advice is the commands whose output is docker/cli's own words and no data of the user's, so that it may be changed
// as it is written. Of `image ls` that is stderr only: what it lists is the user's.
var advice = map[string]stream{
	"swarm init":       out | errs,
	"swarm join-token": out | errs,
	"swarm unlock-key": out | errs,
	"swarm ca":         errs,
	"swarm update":     out | errs,
	"service create":   out | errs,
	"service update":   out | errs,
	"service rollback": out | errs,
	"service scale":    out | errs,
	"stack deploy":     out | errs,
	"network rm":       out | errs,
	"login":            errs,
	"image ls":         errs,
	"images":           errs,
	"info":             errs,
	"system info":      errs,
}

type stream int

const (
	out stream = 1 << iota
	errs
)

// Cli is docker/cli's Cli with streams that change texts while a command of [advice] runs.
type Cli struct {
	*command.DockerCli
	texts    func() *Texts
	out, err *streams.Out // nil: unchanged
}

// NewCli wraps a Cli; texts is called once a command begins whose output is changed.
func NewCli(c *command.DockerCli, texts func() *Texts) *Cli {
	return &Cli{DockerCli: c, texts: texts}
}

// Out is the standard output.
func (c *Cli) Out() *streams.Out {
	if c.out != nil {
		return c.out
	}
	return c.DockerCli.Out()
}

// Err is the standard error.
func (c *Cli) Err() *streams.Out {
	if c.err != nil {
		return c.err
	}
	return c.DockerCli.Err()
}

// Wrap makes the commands of [advice] under root change their output. It returns the paths that the tree does not
// have, which a test wants to know after an upgrade of docker/cli.
func (c *Cli) Wrap(root *cobra.Command) (missing []string) {
	for path, which := range advice {
		cmd := find(root, strings.Fields(path))
		if cmd == nil || cmd.RunE == nil {
			missing = append(missing, path)
			continue
		}
		run := cmd.RunE
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			t := c.texts()
			if which&out != 0 {
				c.out = changed(c.DockerCli.Out(), t)
			}
			if which&errs != 0 {
				c.err = changed(c.DockerCli.Err(), t)
			}
			return run(cmd, args)
		}
	}
	return missing
}

func find(c *cobra.Command, path []string) *cobra.Command {
	if len(path) == 0 {
		return c
	}
	for _, child := range c.Commands() {
		if child.Name() == path[0] {
			return find(child, path[1:])
		}
	}
	return nil
}

// changed is a stream like o with other texts. It is a terminal if o is one; the terminal's size is then that of
// stdin, since the type takes a descriptor only from a file.
func changed(o *streams.Out, t *Texts) *streams.Out {
	n := streams.NewOut(writer{o, t})
	n.SetIsTerminal(o.IsTerminal())
	return n
}

// writer changes each write by itself: docker/cli writes a message with one call.
type writer struct {
	w io.Writer
	t *Texts
}

func (w writer) Write(b []byte) (int, error) {
	if _, err := io.WriteString(w.w, w.t.Text(string(b))); err != nil {
		return 0, err
	}
	return len(b), nil
}
