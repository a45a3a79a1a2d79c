package anywhere

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/command/formatter"
	"github.com/docker/cli/opts"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
)

// labelNode is how a container's node gets through docker/cli's formatter, whose heading of a label is its name.
const labelNode = "NODE"

// nodeField is {{.Node}} in a format.
var nodeField = regexp.MustCompile(`\.Node\b`)

func addPs(c *cobra.Command, cli command.Cli) {
	run := c.RunE
	all := c.Flags().Bool("swarm", false, "Show the containers of all nodes of the swarm")
	c.RunE = func(c *cobra.Command, args []string) error {
		if !*all {
			return run(c, args)
		}
		return ps(c, cli)
	}
}

// resident is a container of a node.
type resident struct {
	container.Summary
	node member
}

func ps(c *cobra.Command, cli command.Cli) error {
	flags := c.Flags()
	on := func(name string) bool { b, err := flags.GetBool(name); return err == nil && b }
	last, err := flags.GetInt("last")
	if err != nil {
		return err
	}
	if on("latest") && last == -1 {
		last = 1
	}
	o := client.ContainerListOptions{All: on("all"), Limit: last, Size: on("size")}
	if f, ok := flags.Lookup("filter").Value.(*opts.FilterOpt); ok {
		o.Filters = f.Value()
	}
	nodes, err := members(c.Context(), cli.Client())
	if err != nil {
		return err
	}
	warnDown(cli, nodes)
	var mu sync.Mutex
	var list []resident
	failed := askAll(c.Context(), cli, nodes, func(ctx context.Context, m member, api client.APIClient) error {
		got, err := api.ContainerList(ctx, o)
		mu.Lock()
		defer mu.Unlock()
		for _, s := range got.Items {
			list = append(list, resident{s, m})
		}
		return err
	})
	newest := func(a, b resident) int { return cmp.Compare(b.Created, a.Created) }
	if slices.SortFunc(list, newest); last > 0 {
		list = list[:min(last, len(list))]
	}
	slices.SortStableFunc(list, func(a, b resident) int {
		return cmp.Or(strings.Compare(a.node.name, b.node.name), strings.Compare(a.node.id, b.node.id))
	})
	format, _ := flags.GetString("format")
	if format == "" {
		format = cli.ConfigFile().PsFormat
	}
	if err := writeContainers(cli, list, format, on("quiet"), o.Size, !on("no-trunc")); err != nil {
		return err
	}
	return failed
}

func writeContainers(cli command.Cli, list []resident, format string, quiet, size, trunc bool) error {
	if format == formatter.JSONFormatKey && !quiet {
		return writeJSON(cli, list, trunc)
	}
	plain := make([]container.Summary, len(list))
	for i, r := range list {
		labels := map[string]string{labelNode: r.node.name}
		for k, v := range r.Labels {
			labels[k] = v
		}
		r.Labels = labels
		plain[i] = r.Summary
	}
	f := formatter.NewContainerFormat(nodeField.ReplaceAllString(format, `(.Label "`+labelNode+`")`), quiet, size)
	if !quiet && (format == "" || format == formatter.TableFormatKey) {
		f = formatter.Format(strings.Replace(string(f), "table ", `table {{.Label "`+labelNode+`"}}\t`, 1))
	}
	return formatter.ContainerWrite(formatter.Context{Output: cli.Out(), Format: f, Trunc: trunc}, plain)
}

// writeJSON writes what docker/cli does, with the node.
func writeJSON(cli command.Cli, list []resident, trunc bool) error {
	for _, r := range list {
		var one bytes.Buffer
		fields := map[string]any{}
		err := formatter.ContainerWrite(formatter.Context{Output: &one, Format: formatter.JSONFormatKey, Trunc: trunc}, []container.Summary{r.Summary})
		if err == nil {
			err = json.Unmarshal(one.Bytes(), &fields)
		}
		if err != nil {
			return err
		}
		fields["Node"] = r.node.name
		if err := json.NewEncoder(cli.Out()).Encode(fields); err != nil {
			return err
		}
	}
	return nil
}
