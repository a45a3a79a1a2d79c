package main

import (
	"errors"
	"fmt"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/moby/moby/client/pkg/versions"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// supported refuses a command or a flag that the daemon is too old for. The daemon is asked only if a version is
// wanted that not every daemon has that this client can speak to.
func supported(cmd *cobra.Command, dc *command.DockerCli) error {
	tooOld := func(want string) bool {
		return want != "" && versions.GreaterThan(want, client.MinAPIVersion) && versions.LessThan(dc.CurrentVersion(), want)
	}
	for c := cmd; c != nil; c = c.Parent() {
		if v := c.Annotations["version"]; tooOld(v) {
			return fmt.Errorf("%s requires API version %s, but the daemon's API version is %s", cmd.CommandPath(), v, dc.CurrentVersion())
		}
	}
	var errs []error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Changed {
			return
		}
		if v := f.Annotations["version"]; len(v) == 1 && tooOld(v[0]) {
			errs = append(errs, fmt.Errorf(`"--%s" requires API version %s, but the daemon's API version is %s`, f.Name, v[0], dc.CurrentVersion()))
		}
	})
	return errors.Join(errs...)
}
