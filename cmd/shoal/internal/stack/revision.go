package stack

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/compose/convert"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/dryrun"
)

const (
	// labelRevision has a revision's number.
	labelRevision = "shoal.stack.revision"
	// labelKeeps keeps secrets and configs that newer versions have taken the names of; see Shoal's package cluster.
	labelKeeps = "shoal.keeps"
	// maxRevisions is how many revisions are kept of a stack, as many as Helm and Kubernetes' deployments keep.
	maxRevisions = 10
)

// revision is a stack as it was deployed once. Services refer to networks by name, because one that is made anew has
// another ID.
type revision struct {
	Files    []file `json:",omitempty"`
	Services map[string]swarm.ServiceSpec

	number  int
	id      string // of the config
	created time.Time
}

// file is a Compose file that was deployed.
type file struct{ Name, Text string }

// revisions are those of a stack, the oldest first.
func revisions(ctx context.Context, api client.APIClient, stack string) ([]revision, error) {
	list, err := api.ConfigList(ctx, client.ConfigListOptions{Filters: ofStack(stack).Add("label", labelRevision)})
	if err != nil {
		return nil, err
	}
	var out []revision
	for _, c := range list.Items {
		r := revision{id: c.ID, created: c.CreatedAt}
		if r.number, err = strconv.Atoi(c.Spec.Labels[labelRevision]); err != nil {
			continue // not one of ours
		}
		if err := json.Unmarshal(c.Spec.Data, &r); err != nil {
			return nil, fmt.Errorf("reading config %s, which is revision %d of stack %s: %w", c.Spec.Name, r.number, stack, err)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b revision) int { return cmp.Compare(a.number, b.number) })
	return out, nil
}

// present is the stack as it is.
func present(ctx context.Context, api client.APIClient, stack string) (map[string]swarm.ServiceSpec, error) {
	have, err := services(ctx, api, stack)
	if err != nil {
		return nil, err
	}
	networks, err := api.NetworkList(ctx, client.NetworkListOptions{})
	if err != nil {
		return nil, err
	}
	names := map[string]string{}
	for _, n := range networks.Items {
		names[n.ID] = n.Name
	}
	out := map[string]swarm.ServiceSpec{}
	for name, s := range have {
		out[name] = portable(s.Spec, names)
	}
	return out, nil
}

// portable is a specification with the networks' names in place of their IDs. The count of forced updates is no part
// of what somebody wants.
func portable(s swarm.ServiceSpec, names map[string]string) swarm.ServiceSpec {
	s.TaskTemplate.ForceUpdate = 0
	s.TaskTemplate.Networks = slices.Clone(s.TaskTemplate.Networks)
	for i, n := range s.TaskTemplate.Networks {
		s.TaskTemplate.Networks[i].Target = cmp.Or(names[n.Target], n.Target)
	}
	return s
}

// record keeps the stack as it is now as a revision, unless the last one says the same, and forgets the oldest.
func record(ctx context.Context, api client.APIClient, stack string, files []file) error {
	all, err := revisions(ctx, api, stack)
	if err != nil {
		return err
	}
	now, err := present(ctx, api, stack)
	if err != nil {
		return err
	}
	next := 1
	if len(all) > 0 {
		last := all[len(all)-1]
		if same(last.Services, now) {
			return nil
		}
		next = last.number + 1
	}
	data, err := json.Marshal(revision{Files: files, Services: now})
	if err != nil {
		return err
	}
	spec := swarm.ConfigSpec{Data: data}
	spec.Name = fmt.Sprintf("%s.revision.%d", stack, next)
	spec.Labels = map[string]string{convert.LabelNamespace: stack, labelRevision: strconv.Itoa(next), labelKeeps: strings.Join(filesIn(now), ",")}
	if _, err := api.ConfigCreate(ctx, client.ConfigCreateOptions{Spec: spec}); err != nil {
		return fmt.Errorf("keeping revision %d of stack %s: %w", next, stack, err)
	}
	for len(all) >= maxRevisions {
		if _, err := api.ConfigRemove(ctx, all[0].id, client.ConfigRemoveOptions{}); err != nil {
			return fmt.Errorf("forgetting revision %d of stack %s: %w", all[0].number, stack, err)
		}
		all = all[1:]
	}
	return nil
}

// same compares as the API does: what is not there and what is empty are one.
func same(a, b map[string]swarm.ServiceSpec) bool {
	one, err1 := normal(a)
	other, err2 := normal(b)
	return err1 == nil && err2 == nil && reflect.DeepEqual(one, other)
}

func normal(v any) (out any, err error) {
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &out)
	}
	return out, err
}

// recordDeploys has every deploy that succeeds kept, and before the first one of a stack what is there already.
func recordDeploys(deploy *cobra.Command, cli *dryrun.Cli) {
	run := deploy.RunE
	deploy.RunE = func(cmd *cobra.Command, args []string) error {
		if cli.Trying() {
			return run(cmd, args)
		}
		ctx, api, stack := cmd.Context(), cli.Client(), args[0]
		// A stack that cannot be read is for the deploy to say.
		if have, err := services(ctx, api, stack); err == nil && len(have) > 0 {
			if all, err := revisions(ctx, api, stack); err == nil && len(all) == 0 {
				if err := record(ctx, api, stack, nil); err != nil {
					return err
				}
			}
		}
		if err := run(cmd, args); err != nil {
			return err
		}
		return record(ctx, api, stack, filesOf(cmd))
	}
}

// filesOf reads the Compose files again. One from standard input is gone.
func filesOf(deploy *cobra.Command) (files []file) {
	names, err := deploy.Flags().GetStringSlice("compose-file")
	if err != nil {
		return nil
	}
	for _, name := range names {
		if text, err := os.ReadFile(name); err == nil && name != "-" {
			files = append(files, file{name, string(text)})
		}
	}
	return files
}

func newHistoryCommand(dockerCLI command.Cli) *cobra.Command {
	var show int
	cmd := own(&cobra.Command{
		Use:   "history [OPTIONS] STACK",
		Short: "List the revisions of a stack",
		Long: `List the revisions of a stack, the newest first.

Every deploy that changes a stack makes one, and so does a rollback. The last 10 are kept.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := revisions(cmd.Context(), dockerCLI.Client(), args[0])
			if err != nil {
				return err
			}
			if len(all) == 0 {
				return noRevision(args[0])
			}
			if show != 0 {
				return showFiles(dockerCLI, args[0], all, show)
			}
			w := tabwriter.NewWriter(dockerCLI.Out(), 10, 1, 3, ' ', 0)
			fmt.Fprintln(w, "REVISION\tCREATED\tSERVICES\tFILES")
			for _, r := range slices.Backward(all) {
				fmt.Fprintf(w, "%d\t%s ago\t%d\t%d\n", r.number, units.HumanDuration(time.Since(r.created)), len(r.Services), len(r.Files))
			}
			return w.Flush()
		},
	})
	cmd.Flags().IntVar(&show, "show", 0, "Print the Compose files of a revision")
	return cmd
}

func showFiles(dockerCLI command.Cli, stack string, all []revision, number int) error {
	r, err := pick(stack, all, number)
	if err != nil {
		return err
	}
	if len(r.Files) == 0 {
		return fmt.Errorf("revision %d of stack %s was not made from files", number, stack)
	}
	for _, f := range r.Files {
		fmt.Fprintf(dockerCLI.Out(), "# %s\n%s", f.Name, f.Text)
	}
	return nil
}

func noRevision(stack string) error {
	return fmt.Errorf("stack %s has no revision: revisions are made by `shoal stack deploy`", stack)
}

// pick is the revision of that number.
func pick(stack string, all []revision, number int) (revision, error) {
	at := slices.IndexFunc(all, func(r revision) bool { return r.number == number })
	if at < 0 {
		have := make([]string, 0, len(all))
		for _, r := range all {
			have = append(have, strconv.Itoa(r.number))
		}
		return revision{}, fmt.Errorf("stack %s has no revision %d: there are %v", stack, number, have)
	}
	return all[at], nil
}

// apply makes the stack what the revision says: services are updated, made and removed. What they use must be there.
func apply(ctx context.Context, cli command.Cli, stack string, r revision) error {
	api := cli.Client()
	have, err := services(ctx, api, stack)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(r.Services)) {
		spec, err := resolved(ctx, cli, r.Services[name])
		if err != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", name, err))
			continue
		}
		if s, ok := have[name]; ok {
			fmt.Fprintf(cli.Out(), "Updating service %s (id: %s)\n", name, s.ID)
			spec.TaskTemplate.ForceUpdate = s.Spec.TaskTemplate.ForceUpdate
			_, err = api.ServiceUpdate(ctx, s.ID, client.ServiceUpdateOptions{Version: s.Version, Spec: spec})
		} else {
			fmt.Fprintln(cli.Out(), "Creating service", name)
			_, err = api.ServiceCreate(ctx, client.ServiceCreateOptions{Spec: spec})
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("service %s: %w", name, err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(have)) {
		if _, ok := r.Services[name]; !ok {
			fmt.Fprintln(cli.Out(), "Removing service", name)
			if _, err := api.ServiceRemove(ctx, have[name].ID, client.ServiceRemoveOptions{}); err != nil {
				errs = append(errs, fmt.Errorf("service %s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}
