package stack

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/dryrun"
)

const (
	// pollTime is how often a wait asks. Each asking reads the stack's services or tasks.
	pollTime = 250 * time.Millisecond
	// reportTime bounds how long is spent on saying why a wait failed.
	reportTime = 10 * time.Second
	// lastLines is how many lines of a failed task's log are shown, and at most of maxLog bytes.
	lastLines = "5"
	maxLog    = 16 << 10
)

// waitFlags gives a command --wait and --timeout.
func waitFlags(cmd *cobra.Command, usage string) (wait *bool, limit *time.Duration) {
	return cmd.Flags().Bool("wait", false, usage), cmd.Flags().Duration("timeout", defaultTimeout, "How long --wait waits")
}

// waiting bounds a command that is waited for here and not in docker/cli. The error at the end says how long it was.
func waiting(cmd *cobra.Command, limit time.Duration) (context.Context, context.CancelFunc, error) {
	if limit <= 0 {
		return nil, nil, errors.New("--timeout must be more than 0")
	}
	if err := cmd.Flags().Set("detach", "true"); err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeoutCause(cmd.Context(), limit, fmt.Errorf("not within %s", limit))
	return ctx, cancel, nil
}

// waitForDeploys gives `stack deploy` its --wait.
func waitForDeploys(deploy *cobra.Command, cli *dryrun.Cli) {
	run := deploy.RunE
	wait, limit := waitFlags(deploy, "Wait until the stack runs as it was deployed, or say what does not")
	deploy.RunE = func(cmd *cobra.Command, args []string) error {
		if !*wait || cli.Trying() {
			return run(cmd, args)
		}
		ctx, cancel, err := waiting(cmd, *limit)
		if err != nil {
			return err
		}
		defer cancel()
		if err := run(cmd, args); err != nil {
			return err
		}
		err = poll(ctx, pollTime, func() (bool, error) {
			late, err := unsettled(ctx, cli.Client(), args[0])
			return len(late) == 0, err
		})
		if err == nil {
			return nil
		}
		report, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), reportTime)
		defer cancel()
		late, _ := unsettled(report, cli.Client(), args[0]) // the last look of the wait may have been cut off
		why(report, cli.Err(), cli.Client(), late)
		return fmt.Errorf("stack %s does not run as it was deployed: %w", args[0], err)
	}
}

// unsettled are the services that do not run as they say. An error is for one that will not any more: its update was
// paused or taken back.
func unsettled(ctx context.Context, api client.APIClient, stack string) (map[string]swarm.Service, error) {
	late, err := services(ctx, api, stack)
	if err != nil {
		return nil, err
	}
	var failed []error
	for name, s := range late {
		switch {
		case s.UpdateStatus != nil && slices.Contains([]swarm.UpdateState{swarm.UpdateStatePaused, swarm.UpdateStateRollbackPaused, swarm.UpdateStateRollbackCompleted}, s.UpdateStatus.State):
			failed = append(failed, fmt.Errorf("service %s: %s: %s", name, s.UpdateStatus.State, s.UpdateStatus.Message))
		case settled(&s):
			delete(late, name)
		}
	}
	return late, errors.Join(failed...)
}

// settled says whether the service's tasks are what it says. Of a job that is when they have completed.
func settled(s *swarm.Service) bool {
	if s.UpdateStatus != nil && (s.UpdateStatus.State == swarm.UpdateStateUpdating || s.UpdateStatus.State == swarm.UpdateStateRollbackStarted) {
		return false
	}
	st := s.ServiceStatus
	if st == nil {
		return false
	}
	if s.Spec.Mode.ReplicatedJob != nil && s.Spec.Mode.ReplicatedJob.TotalCompletions != nil {
		return st.CompletedTasks >= *s.Spec.Mode.ReplicatedJob.TotalCompletions
	}
	if s.Spec.Mode.ReplicatedJob != nil || s.Spec.Mode.GlobalJob != nil {
		return st.RunningTasks == 0 && st.CompletedTasks > 0
	}
	return st.RunningTasks == st.DesiredTasks
}

// why prints what keeps services from running: their tasks' errors and what these wrote last. What cannot be read is
// left out: it is an explanation of an error that is reported.
func why(ctx context.Context, w io.Writer, api client.APIClient, late map[string]swarm.Service) {
	for _, name := range slices.Sorted(maps.Keys(late)) {
		s := late[name]
		if st := s.ServiceStatus; st != nil {
			fmt.Fprintf(w, "service %s: %d of %d tasks run\n", name, st.RunningTasks, st.DesiredTasks)
		}
		list, err := api.TaskList(ctx, client.TaskListOptions{Filters: make(client.Filters).Add("service", s.ID)})
		if err != nil {
			continue
		}
		seen := map[string]bool{}
		failed := slices.ContainsFunc(list.Items, func(t swarm.Task) bool { return t.Status.Err != "" })
		slices.SortFunc(list.Items, func(a, b swarm.Task) int { return b.Status.Timestamp.Compare(a.Status.Timestamp) })
		for _, t := range list.Items {
			text := cmp.Or(t.Status.Err, t.Status.Message)
			works := t.Status.State == swarm.TaskStateRunning || t.Status.State == swarm.TaskStateComplete || t.DesiredState == swarm.TaskStateShutdown
			if t.Status.Err == "" && (works || failed) || seen[text] {
				continue
			}
			seen[text] = true
			fmt.Fprintf(w, "  %s.%d is %s: %s\n", name, t.Slot, t.Status.State, text)
			for line := range strings.Lines(lastOf(ctx, api, t.ID)) {
				fmt.Fprintf(w, "    | %s\n", strings.TrimRight(line, "\r\n"))
			}
		}
	}
}

// lastOf is what a task wrote last.
func lastOf(ctx context.Context, api client.APIClient, task string) string {
	logs, err := api.TaskLogs(ctx, task, client.TaskLogsOptions{ShowStdout: true, ShowStderr: true, Tail: lastLines})
	if err != nil {
		return ""
	}
	defer logs.Close()
	var out bytes.Buffer
	_, _ = stdcopy.StdCopy(&out, &out, io.LimitReader(logs, maxLog)) // what there is of it
	return out.String()
}

// waitForRemovals gives `stack rm` its --wait, which also takes the place of docker/cli's --detach=false: that one ends
// before the tasks do.
func waitForRemovals(rm *cobra.Command, cli *dryrun.Cli) {
	run := rm.RunE
	wait, limit := waitFlags(rm, "Wait until the stack's tasks have ended and its networks are gone")
	rm.RunE = func(cmd *cobra.Command, args []string) error {
		detach, err := cmd.Flags().GetBool("detach")
		if err != nil {
			return err
		}
		if detach && !*wait || cli.Trying() {
			return run(cmd, args)
		}
		ctx, cancel, err := waiting(cmd, *limit)
		if err != nil {
			return err
		}
		defer cancel()
		// Tasks outlive the service that would name them: they are known before.
		var ids []string
		for _, stack := range args {
			have, err := services(ctx, cli.Client(), stack)
			if err != nil {
				return err
			}
			for _, s := range have {
				ids = append(ids, s.ID)
			}
		}
		if err := run(cmd, args); err != nil {
			return err
		}
		left := ""
		err = poll(ctx, pollTime, func() (bool, error) {
			left, err = remains(ctx, cli.Client(), args, ids)
			return left == "", err
		})
		if err != nil && left != "" {
			return fmt.Errorf("%s: %w", left, err)
		}
		return err
	}
}

// remains says what there is still of removed stacks, whose services were those; "" if there is nothing.
func remains(ctx context.Context, api client.APIClient, stacks, ids []string) (string, error) {
	tasks, err := api.TaskList(ctx, client.TaskListOptions{})
	if err != nil {
		return "", err
	}
	for _, t := range tasks.Items {
		if slices.Contains(ids, t.ServiceID) && !ended(t.Status.State) {
			return fmt.Sprintf("task %s is %s", t.ID, t.Status.State), nil
		}
	}
	for _, stack := range stacks {
		networks, err := api.NetworkList(ctx, client.NetworkListOptions{Filters: ofStack(stack)})
		if err != nil {
			return "", err
		}
		for _, n := range networks.Items {
			return fmt.Sprintf("network %s is there", n.Name), nil
		}
	}
	return "", nil
}

func ended(s swarm.TaskState) bool {
	return slices.Contains([]swarm.TaskState{swarm.TaskStateComplete, swarm.TaskStateShutdown, swarm.TaskStateFailed, swarm.TaskStateRejected, swarm.TaskStateRemove, swarm.TaskStateOrphaned}, s)
}
