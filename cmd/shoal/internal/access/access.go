// Package access gives the client flags for what Docker refuses a service: --privileged and --device of `service create`
// and `service update`, and --allow-privileged of `swarm update`, without which the daemon refuses both.
//
// It decides how these are written: as labels of the service and of the swarm, which every client can set; see
// docs/adr/0004. Whether they are allowed is the daemon's part.
package access

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/cli/cli/command"
	"github.com/moby/moby/client"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The labels, as internal/cluster has them.
const (
	labelPrivileged = "shoal.privileged"
	labelDevices    = "shoal.devices"
	labelAllow      = "shoal.allow-privileged"
)

// The flags.
const (
	flagPrivileged = "privileged"
	flagDevice     = "device"
	flagDeviceAdd  = "device-add"
	flagDeviceRm   = "device-rm"
	flagAllow      = "allow-privileged"
)

// AddFlags puts the flags into the commands of root.
func AddFlags(root *cobra.Command, cli command.Cli) {
	for path, add := range map[string]func(*cobra.Command, command.Cli){
		"service create": create, "service update": update, "swarm update": allow,
	} {
		if c, _, err := root.Find(strings.Fields(path)); err == nil && c != root && c.RunE != nil {
			add(c, cli)
		}
	}
}

// before lets f run before the command itself.
func before(c *cobra.Command, f func(c *cobra.Command, args []string) error) {
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f(c, args); err != nil {
			return err
		}
		return run(c, args)
	}
}

func create(c *cobra.Command, _ command.Cli) {
	privileged := c.Flags().Bool(flagPrivileged, false, "Give extended privileges to the containers, if the swarm allows it")
	devices := c.Flags().StringArray(flagDevice, nil, "Add a device of the node to the containers, if the swarm allows it")
	before(c, func(c *cobra.Command, _ []string) error {
		if *privileged {
			if err := c.Flags().Set("label", labelPrivileged+"=true"); err != nil {
				return err
			}
		}
		if len(*devices) == 0 {
			return nil
		}
		return c.Flags().Set("label", labelDevices+"="+strings.Join(*devices, ","))
	})
}

func update(c *cobra.Command, cli command.Cli) {
	privileged := c.Flags().Bool(flagPrivileged, false, "Give extended privileges to the containers, if the swarm allows it (true|false)")
	add := c.Flags().StringArray(flagDeviceAdd, nil, "Add a device of the node to the containers, if the swarm allows it")
	rm := c.Flags().StringArray(flagDeviceRm, nil, "Remove a device by its path on the node")
	before(c, func(c *cobra.Command, args []string) error {
		flags := c.Flags()
		if flags.Changed(flagPrivileged) {
			if err := setLabel(flags, labelPrivileged, map[bool]string{true: "true"}[*privileged]); err != nil {
				return err
			}
		}
		if len(*add)+len(*rm) == 0 {
			return nil
		}
		s, err := cli.Client().ServiceInspect(c.Context(), args[0], client.ServiceInspectOptions{})
		if err != nil {
			return err
		}
		return setLabel(flags, labelDevices, changed(s.Service.Spec.Labels[labelDevices], *add, *rm))
	})
}

// changed is a list of devices with some more and some less.
func changed(had string, add, rm []string) string {
	var list []string
	for _, d := range append(strings.Split(had, ","), add...) {
		host, _, _ := strings.Cut(d, ":")
		if d != "" && !slices.Contains(rm, host) && !slices.Contains(list, d) {
			list = append(list, d)
		}
	}
	return strings.Join(list, ",")
}

// setLabel writes a label of the service that is updated; "" takes it away.
func setLabel(flags *pflag.FlagSet, label, value string) error {
	if value == "" {
		return flags.Set("label-rm", label)
	}
	return flags.Set("label-add", label+"="+value)
}

func allow(c *cobra.Command, cli command.Cli) {
	on := c.Flags().Bool(flagAllow, false, "Allow services with --privileged and --device, which gives whoever may create services the root of every node (true|false)")
	run := c.RunE
	c.RunE = func(c *cobra.Command, args []string) error {
		if !c.Flags().Changed(flagAllow) {
			return run(c, args)
		}
		api := cli.Client()
		sw, err := api.SwarmInspect(c.Context(), client.SwarmInspectOptions{})
		if err != nil {
			return err
		}
		if sw.Swarm.Spec.Labels == nil {
			sw.Swarm.Spec.Labels = map[string]string{}
		}
		sw.Swarm.Spec.Labels[labelAllow] = strconv.FormatBool(*on)
		if _, err := api.SwarmUpdate(c.Context(), client.SwarmUpdateOptions{Version: sw.Swarm.Version, Spec: sw.Swarm.Spec}); err != nil {
			return err
		}
		if !*on {
			if err := warn(c, cli); err != nil {
				return err
			}
		}
		others := false
		c.Flags().Visit(func(f *pflag.Flag) { others = others || f.Name != flagAllow })
		if others {
			return run(c, args)
		}
		_, err = fmt.Fprintln(cli.Out(), "Swarm updated.")
		return err
	}
}

// warn names the services whose tasks go on with what the swarm does not allow any more.
func warn(c *cobra.Command, cli command.Cli) error {
	list, err := cli.Client().ServiceList(c.Context(), client.ServiceListOptions{})
	if err != nil {
		return err
	}
	for _, s := range list.Items {
		if on, _ := strconv.ParseBool(s.Spec.Labels[labelPrivileged]); on || s.Spec.Labels[labelDevices] != "" {
			fmt.Fprintf(cli.Err(), "WARNING: service %s has devices or privileges: tasks of it that run keep them, and new ones wait\n", s.Spec.Name)
		}
	}
	return nil
}
