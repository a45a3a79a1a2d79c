package service

import (
	"fmt"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// labelled are the flags of `create` and `update` that stand for a label of the service, which is what the daemon reads
// and any other client may write.
var labelled = []struct{ flag, label, kind, usage string }{
	{"schedule", labelSchedule, "string", `Run the job by a schedule ("0 3 * * *", "@daily", "@every 1h")`},
	{"schedule-timezone", labelSchedule + ".timezone", "string", `Time zone of the schedule ("Europe/Berlin") (default "UTC")`},
	{"schedule-concurrency", labelSchedule + ".concurrency", "string", `What happens when a run is due while another works ("forbid", "replace") (default "forbid")`},
	{"schedule-deadline", labelSchedule + ".deadline", "duration", `How late a run may begin (default "1h")`},
	{"schedule-suspend", labelSchedule + ".suspend", "bool", "Suspend the schedule"},
	{"rebalance", labelRebalance, "string", `Move tasks when nodes join or return ("auto", "manual") (default "manual")`},
	{"autoscale-min", labelAutoscale + "min", "uint", "Fewest replicas of a service that is scaled by its usage (default 1)"},
	{"autoscale-max", labelAutoscale + "max", "uint", "Most replicas; scales the service by its usage"},
	{"autoscale-cpu", labelAutoscale + "cpu", "percent", "CPU to use on average, in percent of the reservation or else the limit"},
	{"autoscale-memory", labelAutoscale + "memory", "percent", "Memory to use on average, in percent of the reservation or else the limit"},
	{"autoscale-connections", labelAutoscale + "connections", "float", "New connections a second, through the routing mesh, for each task to have on average"},
	{"autoscale-up-window", labelAutoscale + "up-window", "duration", `How long more replicas must be wanted (default "0s")`},
	{"autoscale-down-window", labelAutoscale + "down-window", "duration", `How long fewer replicas must be wanted (default "5m")`},
	{"autoscale-up-step", labelAutoscale + "up-step", "uint", "Most replicas to add at a time (default 4, or as many as there are)"},
	{"autoscale-down-step", labelAutoscale + "down-step", "uint", "Most replicas to remove at a time (default any number)"},
	{"autoscale-tolerance", labelAutoscale + "tolerance", "float", "Part by which usage may be off its target (default 0.1)"},
}

const (
	labelSchedule  = "shoal.schedule"
	labelAutoscale = "shoal.autoscale."
	labelRebalance = "shoal.rebalance"
)

// addLabelFlags gives `service create` and `service update` the flags.
func addLabelFlags(cli command.Cli, c *cobra.Command) {
	create := c.Name() == "create"
	for _, l := range labelled {
		usage := l.usage
		if !create {
			usage += `; "" takes it away`
		}
		if l.kind == "bool" {
			c.Flags().Bool(l.flag, false, l.usage)
			continue
		}
		c.Flags().Var(&text{kind: l.kind}, l.flag, usage)
	}
	run := c.RunE
	c.RunE = func(cmd *cobra.Command, args []string) error {
		if err := writeLabels(cmd, create); err != nil {
			return err
		}
		if err := waitForNothing(cli, cmd, args, create); err != nil {
			return err
		}
		return run(cmd, args)
	}
}

// text is a flag's value as it was written; the daemon reads it.
type text struct{ value, kind string }

func (t *text) String() string         { return t.value }
func (t *text) Set(value string) error { t.value = value; return nil }
func (t *text) Type() string           { return t.kind }

// writeLabels turns the flags that were given into those of labels.
func writeLabels(cmd *cobra.Command, create bool) error {
	for _, l := range labelled {
		f := cmd.Flags().Lookup(l.flag)
		if !f.Changed {
			continue
		}
		value := f.Value.String()
		name, said := "label-add", l.label+"="+value
		switch empty := value == "" || l.kind == "bool" && value == "false"; {
		case empty && create:
			if value != "" {
				continue
			}
			return fmt.Errorf("--%s must not be empty", l.flag)
		case create:
			name = "label"
		case empty:
			name, said = "label-rm", l.label
		}
		if err := cmd.Flags().Set(name, said); err != nil {
			return err
		}
	}
	return nil
}

// waitForNothing detaches from a job that is not going to run now: the client would wait for its next run.
func waitForNothing(cli command.Cli, cmd *cobra.Command, args []string, create bool) error {
	flags := cmd.Flags()
	if flags.Changed("detach") {
		return nil
	}
	waits := flags.Changed("schedule")
	if create && !waits {
		for _, l := range strings.Split(flags.Lookup("label").Value.String(), " ") {
			waits = waits || strings.HasPrefix(strings.Trim(l, "[]"), labelSchedule+"=")
		}
	}
	if !create && !waits && !flags.Changed("force") && len(args) == 1 {
		// What is wrong with the name is said by the command itself.
		if s, err := cli.Client().ServiceInspect(cmd.Context(), args[0], client.ServiceInspectOptions{}); err == nil {
			_, waits = s.Service.Spec.Labels[labelSchedule]
		}
	}
	if waits && !flags.Changed("force") {
		return flags.Set("detach", "true")
	}
	return nil
}
