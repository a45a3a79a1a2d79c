// Package service adds Shoal's own commands to `service`.
//
// It decides how what the scheduler says of a service is printed, and which flags of `create` and `update` stand for a
// label. It never judges itself why a task waits: that is the
// daemon's part.
package service

import (
	"github.com/docker/cli/cli/command"
	"github.com/spf13/cobra"
)

// AddCommands puts the commands below root's `service`.
func AddCommands(root *cobra.Command, cli command.Cli) {
	for _, c := range root.Commands() {
		if c.Name() == "service" {
			for _, child := range c.Commands() {
				if child.Name() == "create" || child.Name() == "update" {
					addLabelFlags(cli, child)
				}
			}
			c.AddCommand(newScheduleCommand(cli), newRunCommand(cli), newExplainCommand(cli))
		}
	}
}
