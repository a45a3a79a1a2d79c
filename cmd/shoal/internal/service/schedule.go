package service

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/cli/cli"
	"github.com/docker/cli/cli/command"
	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"shoal.dev/shoal/cmd/shoal/internal/daemon"
)

// maxSchedules is how many bytes of an answer are read: a service with its runs is some 2,000.
const maxSchedules = 64 << 20

// jobSchedule is what the daemon answers; its fields are documented in internal/control.
type jobSchedule struct {
	ServiceID, ServiceName, Schedule, Timezone, Concurrency, Deadline string
	Suspended                                                         bool
	Next                                                              time.Time
	Runs                                                              []jobRun
}

type jobRun struct {
	Run                           uint64
	Scheduled, StartedAt, EndedAt time.Time
	Result, Reason                string
}

func newScheduleCommand(dockerCLI command.Cli) *cobra.Command {
	var format string
	cmd := &cobra.Command{
		Use:   "schedule [OPTIONS] [SERVICE]",
		Short: "Show the jobs that run by a schedule",
		Long: `Show the jobs that run by a schedule, with their last run and their next, or one of them with its last runs and the
times that it was skipped, and why.`,
		Args: cli.RequiresMaxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSchedule(cmd.Context(), dockerCLI, strings.Join(args, ""), format)
		},
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
	}
	daemon.FormatFlag(cmd, &format)
	return cmd
}

func runSchedule(ctx context.Context, dockerCLI command.Cli, name, format string) error {
	path := "/shoal/v1/schedules"
	if name != "" {
		path = "/shoal/v1/services/" + url.PathEscape(name) + "/schedule"
	}
	var all []jobSchedule
	into := any(&all)
	if name != "" {
		all = make([]jobSchedule, 1)
		into = &all[0]
	}
	body, err := daemon.Read(ctx, dockerCLI, http.MethodGet, path, maxSchedules, into)
	if err != nil {
		return err
	}
	values := make([]any, len(all))
	for i := range all {
		values[i] = all[i]
	}
	return daemon.Print(dockerCLI, format, body, func(w io.Writer) {
		if name != "" {
			all[0].print(w, time.Now())
		} else {
			tableOfSchedules(w, all, time.Now())
		}
	}, values...)
}

func tableOfSchedules(w io.Writer, all []jobSchedule, now time.Time) {
	t := tabwriter.NewWriter(w, 10, 1, 3, ' ', 0)
	fmt.Fprintln(t, "NAME\tSCHEDULE\tTIME ZONE\tNEXT RUN\tLAST RUN\tRESULT")
	for _, s := range all {
		last, result := "", ""
		if r := s.last(); r != nil {
			last, result = units.HumanDuration(now.Sub(r.StartedAt))+" ago", r.Result
		}
		fmt.Fprintln(t, strings.Join([]string{s.ServiceName, s.Schedule, s.zone(), s.next(now), last, result}, "\t"))
	}
	_ = t.Flush() // into memory
}

func (s *jobSchedule) print(w io.Writer, now time.Time) {
	fmt.Fprintf(w, "Service:     %s\nSchedule:    %s %s\nConcurrency: %s\nDeadline:    %s\nNext run:    %s\n\n",
		s.ServiceName, s.Schedule, s.zone(), s.Concurrency, s.Deadline, s.next(now))
	t := tabwriter.NewWriter(w, 6, 1, 3, ' ', 0)
	fmt.Fprintln(t, "RUN\tSCHEDULED\tSTARTED\tTOOK\tRESULT\tREASON")
	for i := len(s.Runs) - 1; i >= 0; i-- {
		r := s.Runs[i]
		number, took := "-", ""
		if r.Run != 0 {
			number = fmt.Sprint(r.Run)
		}
		if !r.EndedAt.IsZero() {
			took = r.EndedAt.Sub(r.StartedAt).Round(time.Millisecond).String()
		}
		fmt.Fprintln(t, strings.Join([]string{number, stamp(r.Scheduled), stamp(r.StartedAt), took, r.Result, r.Reason}, "\t"))
	}
	_ = t.Flush() // into memory
}

func (s *jobSchedule) zone() string {
	if s.Timezone == "" {
		return "UTC"
	}
	return s.Timezone
}

func (s *jobSchedule) next(now time.Time) string {
	switch {
	case s.Suspended:
		return "suspended"
	case s.Next.IsZero():
		return ""
	}
	return fmt.Sprintf("%s (in %s)", stamp(s.Next), units.HumanDuration(max(0, s.Next.Sub(now))))
}

// last is the newest run that is not a time that was skipped.
func (s *jobSchedule) last() *jobRun {
	for i := len(s.Runs) - 1; i >= 0; i-- {
		if s.Runs[i].Run != 0 {
			return &s.Runs[i]
		}
	}
	return nil
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.RFC3339)
}

func newRunCommand(dockerCLI command.Cli) *cobra.Command {
	return &cobra.Command{
		Use:   "run SERVICE",
		Short: "Run a job now",
		Long: `Run a job now, whatever its schedule, and print the number of the run. While a run is at work it is refused if the
job's schedule forbids another.`,
		Args: cli.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var r struct{ Run uint64 }
			path := "/shoal/v1/services/" + url.PathEscape(args[0]) + "/run"
			if _, err := daemon.Read(cmd.Context(), dockerCLI, http.MethodPost, path, daemon.MaxRefusal, &r); err != nil {
				return err
			}
			fmt.Fprintf(dockerCLI.Out(), "%s: run %d\n", args[0], r.Run)
			return nil
		},
		Annotations:           daemon.OnManager(),
		DisableFlagsInUseLine: true,
	}
}
