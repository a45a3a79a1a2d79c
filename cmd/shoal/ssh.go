package main

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/docker/cli/cli/connhelper"
	"github.com/docker/cli/cli/connhelper/ssh"
	"github.com/docker/cli/cli/context/docker"
	cliflags "github.com/docker/cli/cli/flags"
	"github.com/moby/moby/client"
)

// dialBySSH makes hosts of the form ssh://USER@HOST run `shoal system dial-stdio` there, as docker runs docker.
func dialBySSH(dc *command.DockerCli, opts *cliflags.ClientOptions) error {
	host, err := hostOf(dc, opts)
	if err != nil || !strings.HasPrefix(host, "ssh://") {
		return nil // a context that is not there is reported when it is used
	}
	u, err := url.Parse(host)
	if err != nil {
		return err
	}
	spec, err := ssh.NewSpec(u)
	if err != nil {
		return fmt.Errorf("ssh host connection is not valid: %w", err)
	}
	remote := []string{"shoal", "system", "dial-stdio"}
	if strings.Trim(spec.Path, "/") != "" {
		remote = []string{"shoal", "--host=unix://" + spec.Path, "system", "dial-stdio"}
	}
	// No terminal, and a time-out unless the user's own options name one: -o options of the command line win.
	args, err := spec.Command([]string{"-o", "ConnectTimeout=30", "-T"}, remote...)
	if err != nil {
		return err
	}
	helper, err := connhelper.GetCommandConnectionHelper("ssh", args...)
	if err != nil {
		return err
	}
	return command.WithAPIClientOptions(client.WithDialContext(helper.Dialer))(dc)
}

// hostOf is the address that the client will speak to.
func hostOf(dc *command.DockerCli, opts *cliflags.ClientOptions) (string, error) {
	if len(opts.Hosts) == 1 {
		return opts.Hosts[0], nil
	}
	name := dc.CurrentContext()
	if name == command.DefaultContextName {
		return os.Getenv(client.EnvOverrideHost), nil
	}
	meta, err := dc.ContextStore().GetMetadata(name)
	if err != nil {
		return "", err
	}
	ep, err := docker.EndpointFromContext(meta)
	return ep.Host, err
}
